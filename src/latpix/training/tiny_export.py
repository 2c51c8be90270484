"""How flux2-tiny's recipes take its two parts, base decoder and denoiser, apart, and write them together again."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from latpix.checkpoints.load import load, save
from latpix.checkpoints.registry import Checkpoint
from latpix.errors import UsageError
from latpix.network.base_decoder import BaseDecoder
from latpix.network.config import NetworkConfig
from latpix.network.model import Denoiser
from latpix.training.tiny_pairs import TinyPairs

PREFIX = "base_decoder."


def take_base(network: Denoiser) -> BaseDecoder:
    """The base decoder, taken out of a network: the two are trained apart."""
    base = network.base_decoder
    assert base is not None, "this network has no base decoder"
    network.base_decoder = None
    return base


def load_base(checkpoint: str, wanted: NetworkConfig, *, setting: str) -> BaseDecoder:
    """A checkpoint's base decoder, frozen.

    Args:
        checkpoint: a name of the registry, or a file.
        wanted: whose base decoder it should be like.
        setting: of the recipe, that names the checkpoint.

    Raises:
        UsageError: it has none, or one of another shape.
    """
    network = load(checkpoint).network
    shapes = [
        {name: getattr(config, name) for name in ("base_widths", "base_blocks")} for config in (network.config, wanted)
    ]
    if network.base_decoder is None or shapes[0] != shapes[1]:
        came, expected = (" and ".join(f"{name} {value}" for name, value in shape.items()) for shape in shapes)
        raise UsageError(
            f'{setting}="{checkpoint}" has {came if network.base_decoder else "no base decoder"}; expected one of '
            f"{expected}. Name flux2-tiny, or the file of latpix train flux2_tiny_base: --set {setting}=FILE."
        )
    return network.base_decoder


def copied(base: BaseDecoder) -> dict[str, Tensor]:
    """Its weights, whole: several processes will hold a share each of the base decoder itself."""
    return {name: tensor.detach().cpu().clone() for name, tensor in base.state_dict().items()}


def export(
    denoiser: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
    row: Checkpoint,
    folder: Path,
    made_by: str,
    data: TinyPairs,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write both parts' weights, by their own names, as a checkpoint of ``row``, and what they were made from."""
    path = folder / f"{row.name}.safetensors"
    weights = dict(denoiser) | {PREFIX + name: tensor.detach().cpu() for name, tensor in base.items()}
    save(weights, row, path, dtype=dtype, source=f"{made_by}; {data.source}")
    return path
