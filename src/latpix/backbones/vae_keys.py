"""Names of the tensors in upstream's VAE files, and as diffusers has them; both ways.

LDM's names: ``ae.safetensors``, ``flux2_ae.safetensors``, ``sdxl_vae.safetensors``. Wan's names: a file of Qwen-Image's
VAE, whole or as 2-D slices. A slice [o,i,k,k] is the last along time of a kernel [o,i,3,k,k]: causal padding lets the
others meet zeros where there is one frame.

Letters: o and i channels, k kernel side, c channels.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache, partial

import torch
from torch import Tensor

State = Mapping[str, Tensor]

_LDM = (  # theirs, diffusers'; <i> and <j> are numbers, <up> counts the decoder's levels from the other end
    ("down.<i>.block.<j>.", "down_blocks.<i>.resnets.<j>."),
    ("down.<i>.downsample.", "down_blocks.<i>.downsamplers.0."),
    ("up.<up>.block.<j>.", "up_blocks.<up>.resnets.<j>."),
    ("up.<up>.upsample.", "up_blocks.<up>.upsamplers.0."),
    ("mid.block_1.", "mid_block.resnets.0."),
    ("mid.block_2.", "mid_block.resnets.1."),
    ("mid.attn_1.norm.", "mid_block.attentions.0.group_norm."),
    ("mid.attn_1.q.", "mid_block.attentions.0.to_q."),
    ("mid.attn_1.k.", "mid_block.attentions.0.to_k."),
    ("mid.attn_1.v.", "mid_block.attentions.0.to_v."),
    ("mid.attn_1.proj_out.", "mid_block.attentions.0.to_out.0."),
    ("nin_shortcut.", "conv_shortcut."),
    ("norm_out.", "conv_norm_out."),
)
_FLUX2_QUANT = (("encoder.quant_conv.", "quant_conv."), ("decoder.post_quant_conv.", "post_quant_conv."))
_OLD_ATTENTION = (("query.", "to_q."), ("key.", "to_k."), ("value.", "to_v."), ("proj_attn.", "to_out.0."))
_ATTENTION = re.compile(r"attentions\.0\.to_(q|k|v|out\.0)\.weight$")

_WAN_ENDS = (  # at the top of the file, and of each half
    ("conv1.", "quant_conv."),
    ("conv2.", "post_quant_conv."),
    ("encoder.conv1.", "encoder.conv_in."),
    ("decoder.conv1.", "decoder.conv_in."),
)
_WAN = (
    ("head.0.", "norm_out."),
    ("head.2.", "conv_out."),
    ("middle.0.", "mid_block.resnets.0."),
    ("middle.1.", "mid_block.attentions.0."),
    ("middle.2.", "mid_block.resnets.1."),
    ("encoder.downsamples.<i>.", "encoder.down_blocks.<i>."),
    ("residual.0.", "norm1."),
    ("residual.2.", "conv1."),
    ("residual.3.", "norm2."),
    ("residual.6.", "conv2."),
    ("shortcut.", "conv_shortcut."),
)
_FLAT = ("to_qkv.", "proj.", "resample.1.")  # two-dimensional in every file
TIME = 3  # frames that a causal kernel sees


def ldm_to_diffusers(state: State) -> dict[str, Tensor]:
    """Tensors of a file with LDM's names, as diffusers' AutoencoderKL and AutoencoderKLFlux2 want them."""
    levels = _count(state, r"decoder\.up\.(\d+)\.")
    named = {}
    for name, tensor in state.items():
        name = _rename(name, (*_LDM, *_FLUX2_QUANT), levels)
        named[name] = tensor.flatten(1) if _ATTENTION.search(name) else tensor  # a 1x1 convolution is a linear
    return named


def diffusers_to_ldm(state: State) -> dict[str, Tensor]:
    """The inverse of ``ldm_to_diffusers``."""
    levels = _count(state, r"decoder\.up_blocks\.(\d+)\.")
    pairs = (*_LDM, *(_FLUX2_QUANT if "bn.running_mean" in state else ()))
    named = {}
    for name, tensor in state.items():
        tensor = tensor[..., None, None] if _ATTENTION.search(name) else tensor
        named[_rename(name, _turned(pairs), levels)] = tensor
    return named


def old_to_diffusers(state: State) -> dict[str, Tensor]:
    """Files of diffusers' first years call the parts of an attention otherwise; newer ones are left as they are."""
    return {_rename(name, _OLD_ATTENTION): tensor for name, tensor in state.items()}


def wan_to_diffusers(state: State) -> dict[str, Tensor]:
    """Tensors with Wan's names as AutoencoderKLQwenImage wants them; slices lie at the end of kernels of zeros."""
    stride = _stride(state, r"decoder\.upsamples\.(\d+)\.resample\.")
    named = {}
    for name, tensor in state.items():
        for theirs, ours in _WAN_ENDS:
            if name.startswith(theirs):
                name = ours + name.removeprefix(theirs)
                break
        name = re.sub(r"(?<=decoder\.)upsamples\.(\d+)\.", lambda n: _up_block(int(n[1]), stride), name)
        name = _rename(name, _WAN)
        named[name] = _thicken(name, tensor)
    return named


def diffusers_to_wan_2d(state: State) -> dict[str, Tensor]:
    """The inverse of ``wan_to_diffusers`` for one frame: slices, without what convolves along time alone."""
    stride = 2 + _count(state, r"decoder\.up_blocks\.0\.resnets\.(\d+)\.")
    named = {}
    for name, tensor in state.items():
        if "time_conv" in name:
            continue
        if tensor.ndim == 5:
            tensor = tensor[:, :, -1]
        elif name.endswith("gamma") and tensor.ndim == 4:
            tensor = tensor[..., 0]
        name = _rename(name, _turned(_WAN))
        name = re.sub(
            r"up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.",
            lambda n: f"upsamples.{int(n[1]) * stride + (int(n[3]) if n[2] == 'resnets' else stride - 1)}.",
            name,
        )
        for theirs, ours in _WAN_ENDS:
            if name.startswith(ours):
                name = theirs + name.removeprefix(ours)
                break
        named[name] = tensor
    return named


def _thicken(name: str, tensor: Tensor) -> Tensor:
    """What is flat in a file of slices, in the shape of the whole VAE."""
    if name.endswith("gamma") and "attentions" not in name and tensor.ndim == 3:
        return tensor[..., None]  # [c, 1, 1, 1]
    if not name.endswith("weight") or tensor.ndim != 4 or any(part in name for part in _FLAT):
        return tensor
    frames = TIME if tensor.shape[-1] > 1 else 1
    kernel = tensor.new_zeros(*tensor.shape[:2], frames, *tensor.shape[2:])  # [o, i, 3, k, k]
    kernel[:, :, -1] = tensor
    return kernel


def _up_block(number: int, stride: int) -> str:
    """The layer that Wan counts through, in its level: some residual blocks, then what enlarges."""
    level, layer = divmod(number, stride)
    return f"up_blocks.{level}.upsamplers.0." if layer == stride - 1 else f"up_blocks.{level}.resnets.{layer}."


def _stride(state: State, pattern: str) -> int:
    """Layers of a level, of which the last enlarges."""
    found = [int(match[1]) for name in state if (match := re.search(pattern, name))]
    return min(found, default=3) + 1


def _count(state: State, pattern: str) -> int:
    """How many numbers a place in the names goes through."""
    return len({match[1] for name in state if (match := re.search(pattern, name))})


def _turned(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(ours, theirs) for theirs, ours in pairs]


def _rename(name: str, pairs: Sequence[tuple[str, str]], levels: int = 0) -> str:
    for source, target in pairs:
        name = _pattern(source).sub(partial(_filled, target, levels), name)
    return name


def _filled(target: str, levels: int, found: re.Match[str]) -> str:
    """A name's new part, with the numbers of the old one."""
    for place, value in found.groupdict().items():
        target = target.replace(f"<{place}>", str(levels - 1 - int(value)) if place == "up" else value)
    return target


@cache
def _pattern(source: str) -> re.Pattern[str]:
    """What finds a part of a name, with its numbers, where a word begins."""
    return re.compile(r"(?<![a-z_])" + re.sub(r"<(\w+)>", r"(?P<\1>\\d+)", re.escape(source)))


def is_ldm(state: State) -> bool:
    """Whether the names are LDM's."""
    return any(name.startswith("encoder.down.") for name in state)


def is_wan(state: State) -> bool:
    """Whether the names are Wan's."""
    return any(name.startswith("encoder.downsamples.") for name in state)


def cast(state: State, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights in one type; batch statistics, which no layer computes with, stay exact."""
    return {
        name: tensor if name.startswith("bn.") or not tensor.is_floating_point() else tensor.to(dtype)
        for name, tensor in state.items()
    }
