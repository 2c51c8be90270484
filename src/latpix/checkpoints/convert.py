"""Our names and upstream's: parameters, prefixes, configurations. The one place that knows the latter.

Source: the key names of the released files.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, TypeVar

from latpix.errors import CheckpointError
from latpix.network.config import NetworkConfig

MOST_BLOCKS = 64  # of any kind; names beyond are strange
PREFIXES = ("net.", "core.", "model.diffusion_model.")  # exported files, PixelDiT's own, repackaged ones
# Training's other networks, and what PixelDiT's own files carry beside the network.
DROPPED_PREFIXES = ("net_ema.", "fake_score.", "discriminator.", "_repa_projector.", "core._repa_projector.")
DROPPED = ("pos_embed", "core.pos_embed")

_PLAIN = {  # ours: upstream's
    "caption_embedding.positions": "y_pos_embedding",
    "caption_embedding.proj": "y_embedder.proj",
    "caption_embedding.norm": "y_embedder.norm",
    "patch_embedding": "s_embedder.proj",
    "pixel_embedding": "pixel_embedder.proj",
    "time_embedding.up": "t_embedder.mlp.0",
    "time_embedding.down": "t_embedder.mlp.2",
    "pixel_gate": "pit_lq_gate",
    "pixel_gate.proj": "pit_lq_gate.content_proj",
    "final_norm": "final_layer.norm",
    "final_proj": "final_layer.linear",
    "latent_projection.pixel_head": "lq_proj.pit_head",
    "latent_projection.rgb_head.norm": "lq_proj.lq_aux_rgb_head.0",
    "latent_projection.rgb_head.up": "lq_proj.lq_aux_rgb_head.1",
    "latent_projection.rgb_head.down": "lq_proj.lq_aux_rgb_head.3",
    "latent_projection.merge_in": "lq_proj.merge.0",
    **{
        f"latent_projection.{ours}.{conv}": f"lq_proj.{theirs}.{place}"
        for ours, theirs in (("latent_stack", "latent_proj"), ("image_stack", "image_conv"))
        for conv, place in (("conv_in", 0), ("conv_mid", 2))
    },
}
_STREAM = {  # inside a patch block; {s} is x or y, {m} is img or txt
    "modulation": "adaLN_modulation_{m}.0",
    "norm1": "norm_{s}1",
    "qkv": "attn.qkv_{s}",
    "q_norm": "attn.q_norm_{s}",
    "k_norm": "attn.k_norm_{s}",
    "out": "attn.proj_{s}",
    "norm2": "norm_{s}2",
    "mlp.gate": "mlp_{s}.w1",
    "mlp.up": "mlp_{s}.w3",
    "mlp.down": "mlp_{s}.w2",
}
_PIXEL = {  # inside a pixel block
    "modulation": "adaLN_modulation.0",
    "norm1": "norm1",
    "compress": "compress_to_attn",
    "qkv": "attn.qkv",
    "q_norm": "attn.q_norm",
    "k_norm": "attn.k_norm",
    "out": "attn.proj",
    "expand": "expand_from_attn",
    "norm2": "norm2",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}
_RESIDUAL = {"norm1": 0, "conv1": 2, "norm2": 3, "conv2": 5}
_STACKS = (  # ours, upstream's, place of the first block in its list
    ("latent_stack.blocks", "latent_proj", 3),
    ("image_stack.blocks", "image_conv", 3),
    ("merge_blocks", "merge", 2),
)


def _modules() -> Iterator[tuple[str, str]]:
    """Every module that has parameters: our name, upstream's name."""
    yield from _PLAIN.items()
    for i in range(MOST_BLOCKS):
        for stream, s, m in (("image", "x", "img"), ("caption", "y", "txt")):
            for ours, theirs in _STREAM.items():
                yield f"patch_blocks.{i}.{stream}.{ours}", f"patch_blocks.{i}." + theirs.format(s=s, m=m)
        for ours, theirs in _PIXEL.items():
            yield f"pixel_blocks.{i}.{ours}", f"pixel_blocks.{i}.{theirs}"
        yield f"gates.{i}", f"lq_proj.gate_modules.{i}"
        yield f"gates.{i}.proj", f"lq_proj.gate_modules.{i}.content_proj"
        yield f"latent_projection.heads.{i}", f"lq_proj.output_heads.{i}"
        for stack, upstream, first in _STACKS:
            for ours, place in _RESIDUAL.items():
                yield f"latent_projection.{stack}.{i}.{ours}", f"lq_proj.{upstream}.{first + i}.block.{place}"


_OURS_OF = {theirs: ours for ours, theirs in _modules()}
_THEIRS_OF = dict(_modules())
_LEAVES = ("weight", "bias", "log_alpha")

T = TypeVar("T")


def to_ours(state: Mapping[str, T]) -> dict[str, T]:
    """A state by our names, whatever prefix and names it came with; unknown names stay as they are.

    Training's other networks are dropped. Exported files have the averaged weights under the plain names.

    Raises:
        CheckpointError: two names of the state mean the same parameter.
    """
    ours: dict[str, T] = {}
    for given, value in state.items():
        if given.startswith(DROPPED_PREFIXES) or given in DROPPED:
            continue
        name = _renamed(_without_prefix(given), _OURS_OF)
        if name in ours:
            raise CheckpointError(
                f'"{upstream_name(name)}" is there twice, under different prefixes; which one is meant cannot be told. '
                "Keep one network per file."
            )
        ours[name] = value
    return ours


def to_upstream(state: Mapping[str, T], *, prefix: str = "net.") -> dict[str, T]:
    """A state of our names by upstream's, as the released files have them."""
    return {prefix + upstream_name(name): value for name, value in state.items()}


def upstream_name(name: str) -> str:
    """Upstream's name of one of our parameters, without prefix."""
    return _renamed(name, _THEIRS_OF)


def _without_prefix(name: str) -> str:
    return next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)


def _renamed(name: str, modules: Mapping[str, str]) -> str:
    if name in modules:  # a parameter that stands by itself
        return modules[name]
    module, _, leaf = name.rpartition(".")
    return f"{modules[module]}.{leaf}" if leaf in _LEAVES and module in modules else name


# Upstream's configuration. Keys that change no number of an inference:
WITHOUT_EFFECT = ("num_text_blocks", "repa_encoder_index", "zero_init_lq", "train_lq_proj_only")
_FIXED = {"in_channels": 3, "lq_inject_mode": "controlnet", "enable_ed": False}  # other values are other networks
_UNUSED_FAMILY = "ed_"  # details of what `enable_ed` switches on
_SAME = {  # upstream's key: our field
    "txt_embed_dim": "caption_width",
    "txt_max_length": "caption_length",
    "patch_size": "patch_size",
    "hidden_size": "width",
    "num_groups": "heads",
    "patch_depth": "depth",
    "pixel_hidden_size": "pixel_width",
    "pixel_depth": "pixel_depth",
    "lq_latent_channels": "latent_channels",
    "latent_spatial_down_factor": "latent_downsample",
    "sr_scale": "scale",
    "lq_in_channels": "image_channels",
    "lq_hidden_dim": "latent_width",
    "lq_num_res_blocks": "latent_depth",
    "lq_latent_unpatchify_factor": "latent_unpatchify",
    "lq_conv_padding_mode": "padding",
    "lq_interval": "gate_interval",
    "pit_lq_inject": "pixel_gate",
}
_GATES: dict[str, Literal["channel", "token"]] = {
    "sigma_aware_per_token_per_dim": "channel",
    "sigma_aware_per_token": "token",
}
_LEGAL: dict[str, Collection[str]] = {
    "rope_mode": ("ntk_aware", "original"),
    "lq_gate_type": _GATES,
    "lq_conv_padding_mode": ("zeros", "replicate", "reflect"),
}
_OTHERS = (
    "use_text_rope", "text_rope_theta", "rope_mode", "rope_ref_h", "rope_ref_w", "pixel_attn_hidden_size",
    "pixel_num_groups", "lq_gate_type", "lq_aux_rgb_head", "lq_aux_rgb_head_latent_block_idx",
)  # fmt: skip
_NEEDED = {  # of each class, what has no default that would not be a guess
    "PidNet": ("hidden_size", "num_groups", "lq_latent_channels", "lq_gate_type"),
    "PixDiT_T2I": ("hidden_size", "num_groups"),
}


def config_from_upstream(net: Mapping[str, Any], net_class: str) -> NetworkConfig:
    """Upstream's configuration in our words.

    Args:
        net: its keys and values; keys that change no inference number are ignored.
        net_class: ``PidNet`` (conditioned), or ``PixDiT_T2I`` (text only).

    Raises:
        CheckpointError: a class, key or value that we do not know, or a key too few.
    """
    _check(net, net_class)
    fields = {ours: net[theirs] for theirs, ours in _SAME.items() if theirs in net}
    fields["caption_rope_theta"] = net.get("text_rope_theta", 10000.0) if net.get("use_text_rope", True) else None
    # The conditioned class adapts its rotary base unless told otherwise, the other one does not.
    conditioned = net_class == "PidNet"
    adaptive = net.get("rope_mode", "ntk_aware" if conditioned else "original") == "ntk_aware"
    reference = (net.get("rope_ref_h", 1024), net.get("rope_ref_w", 1024))
    fields["rope_reference"] = reference if adaptive else None
    fields["pixel_attention_width"] = net.get("pixel_attn_hidden_size") or net["hidden_size"]
    fields["pixel_heads"] = net.get("pixel_num_groups") or net["num_groups"]
    if not conditioned:
        return NetworkConfig(**{**fields, "latent_channels": 0, "scale": 1})
    fields["gate"] = _GATES[net["lq_gate_type"]]
    head = net.get("lq_aux_rgb_head_latent_block_idx", -1)
    return NetworkConfig(**fields, rgb_head=head if net.get("lq_aux_rgb_head") else None)


def _check(net: Mapping[str, Any], net_class: str) -> None:
    """Refuse a configuration that would build another network than the one it was written for."""
    if net_class not in _NEEDED:
        raise CheckpointError(f'network class "{net_class}" is unknown; expected one of {", ".join(_NEEDED)}.')
    known = {*_SAME, *_OTHERS, *_FIXED, *WITHOUT_EFFECT}
    strange = sorted(key for key in net if key not in known and not key.startswith(_UNUSED_FAMILY))
    missing = [key for key in _NEEDED[net_class] if key not in net]
    wrong = [
        f"{key}={net[key]!r} (only {value!r} is built)" for key, value in _FIXED.items() if net.get(key, value) != value
    ]
    wrong += [
        f"{key}={net[key]!r} (expected one of {', '.join(legal)})"
        for key, legal in _LEGAL.items()
        if key in net and net[key] not in legal
    ]
    parts = [
        f"{what}: {', '.join(keys)}"
        for what, keys in (("unknown keys", strange), ("missing keys", missing), ("values", wrong))
        if keys
    ]
    if parts:
        raise CheckpointError(f"this configuration of a {net_class} cannot be built; {'; '.join(parts)}.")
