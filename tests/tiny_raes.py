"""Vision encoders and RAE decoders of one or two layers, as modules and as the folders and files they come in."""

import json
import math
from dataclasses import replace

import torch
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipConfig,
    SiglipModel,
)

from latpix.backbones.registry import encoder_of
from latpix.latents.spaces import find_space

PATCH = 14  # of both encoders
TINY = {name: replace(find_space(name), channels=32, fixed_size=4) for name in ("dinov2", "siglip")}


def tiny_dinov2(space=TINY["dinov2"], seed=0):
    """Knows larger pictures than it is shown, as the published one does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = Dinov2WithRegistersConfig(
            hidden_size=space.channels,
            num_hidden_layers=1,
            num_attention_heads=2,
            mlp_ratio=1,
            image_size=PATCH * (space.fixed_size + 1),
            patch_size=PATCH,
        )
        return drawn(Dinov2WithRegistersModel(config))


def tiny_siglip(space=TINY["siglip"], seed=0):
    """Both towers; the text's is small at any rate."""
    tower = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    size = {"hidden_size": space.channels, "image_size": PATCH * space.fixed_size, "patch_size": PATCH}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = SiglipConfig(
            text_config=tower | {"vocab_size": 50, "hidden_size": 32, "max_position_embeddings": 8},
            vision_config=tower | size,
        )
        return drawn(SiglipModel(config))


def drawn(model):
    """Norms and biases too are drawn, so that leaving one out is seen."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.3)
    return model.eval().requires_grad_(False)


def decoder_state(space, *, width=32, layers=2, patch=16, grid=None, seed=0):
    """A decoder under its official names."""
    generator = torch.Generator().manual_seed(seed)
    cells = (grid or space.fixed_size) ** 2
    shapes = {
        "decoder_embed": (width, space.channels),
        "decoder_pred": (3 * patch**2, width),
        "decoder_norm": (width,),
    }
    for i in range(layers):
        layer = {f"attention.attention.{part}": (width, width) for part in ("query", "key", "value")}
        layer |= {"attention.output.dense": (width, width), "intermediate.dense": (24, width)}
        layer |= {"output.dense": (width, 24), "layernorm_before": (width,), "layernorm_after": (width,)}
        shapes |= {f"decoder_layers.{i}.{part}": shape for part, shape in layer.items()}
    state = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        state[f"{name}.weight"] = 1 + 0.2 * values if len(shape) == 1 else values / math.sqrt(shape[1])
        state[f"{name}.bias"] = 0.2 * torch.randn(shape[0], generator=generator)
    state["decoder_pos_embed"] = torch.randn(1, cells + 1, width, generator=generator)
    state["trainable_cls_token"] = torch.randn(1, 1, width, generator=generator)
    return state


def statistics_of(space, seed=0):
    """Mean and variance, as the file holds them."""
    generator = torch.Generator().manual_seed(seed)
    sides = (space.channels, space.fixed_size, space.fixed_size)
    return {"mean": 0.2 * torch.randn(sides, generator=generator), "var": 0.5 + torch.rand(sides, generator=generator)}


def write_encoder(folder, space, seed=0):
    """The encoder's folder; a whole SigLIP, as the hub has it."""
    model = tiny_dinov2(space, seed) if space.name == "dinov2" else tiny_siglip(space, seed)
    model.save_pretrained(folder)
    return folder


def write_rae_files(folder, space, *, decoder=True):
    """What upstream's ``checkpoints`` holds of a RAE: statistics, decoder, and its configuration."""
    row = encoder_of(space.name)
    if row.statistics:
        put(folder / row.statistics.removeprefix("checkpoints/"), statistics_of(space))
    if decoder:
        patch = 16 if space.name == "dinov2" else PATCH
        put(folder / row.file.removeprefix("checkpoints/"), decoder_state(space, patch=patch))
    if decoder and row.decoder_config:
        config = {"decoder_num_attention_heads": 4, "decoder_hidden_size": 32, "patch_size": PATCH}
        (folder / row.decoder_config.removeprefix("checkpoints/")).write_text(json.dumps(config))
    return folder


def put(path, tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, path)
