"""Quantize a checkpoint: the large weights of its blocks rest in eight bits, with one scale for each output.

    scale = largest of the row / largest code;    codes = round(weight / scale)

What stays as it is: embeddings, gates, the latent projection, the pixels' MLP, the final layer and a base decoder; they
are few, or see single pixels, or numbers of which small ones matter. Source: Dettmers et al. 2022, section 2.1 (int8 by
rows); Micikevicius et al. 2022 (fp8, E4M3).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from latpix.checkpoints.load import open_checkpoint, save
from latpix.checkpoints.registry import Checkpoint
from latpix.checkpoints.tensors import CODES, SCALE
from latpix.errors import CheckpointError, OptionError, OutputError
from latpix.files.atomic import check_output
from latpix.network.model import build
from latpix.network.precision import Linear

# fp8 has 31.5 dB whatever the weights are like, int8 42 for normal ones: a layer below this floor has rows with a
# few weights far above the others, which cost the others their digits.
FLOOR = 28.0  # dB


@dataclass(frozen=True)
class QuantizedLayer:
    """One layer, and what rounding did to its weights."""

    name: str
    shape: tuple[int, int]  # outputs, inputs
    snr: float  # dB: power of the weights over power of what rounding added


def quantize(
    checkpoint: str | Path,
    output: str | Path,
    *,
    kind: str = "int8",
    like: str | None = None,
    overwrite: bool = False,
) -> list[QuantizedLayer]:
    """Write a checkpoint with the weights of its blocks in eight bits.

    Args:
        checkpoint: a registry name, or a file.
        output: ends in ``.safetensors``.
        kind: ``int8``, or ``fp8`` for NVIDIA H100 and newer.
        like: the row that a bare file follows.
        overwrite: replace a file that is there already.

    Returns:
        The layers that were quantized, with their signal-to-noise ratios.

    Raises:
        CheckpointError: as of ``load``; the file is quantized already; a layer would fall below the floor.
        OptionError: no such kind.
        OutputError: the output has another suffix, exists, or cannot be written.
    """
    if kind not in CODES:
        raise OptionError(f'weights cannot be quantized to "{kind}"; expected one of {", ".join(CODES)}.')
    output = Path(output)
    if output.suffix != ".safetensors":
        raise OutputError(f'"{output}" should end in .safetensors.')
    check_output(output, overwrite=overwrite)
    file, row, sha256 = open_checkpoint(checkpoint, like=like)
    if file.quantized:
        raise CheckpointError(f'"{file.path}" is quantized to {", ".join(file.kinds)} already; take the original.')
    state, layers = dict(file.state), []
    for name in layers_of(row):
        weight = state[f"{name}.weight"].float()
        codes, scale = quantize_rows(weight, CODES[kind])
        layers.append(QuantizedLayer(name, (weight.shape[0], weight.shape[1]), signal_to_noise(weight, codes, scale)))
        state |= {f"{name}.weight": codes, name + SCALE: scale}
    below = [layer for layer in layers if not layer.snr >= FLOOR]
    if below:
        worst = min(below, key=lambda layer: layer.snr)
        raise CheckpointError(
            f'"{file.path}" loses too much in {kind}: {len(below)} of {len(layers)} layers fall below {FLOOR:.0f} dB, '
            f'"{worst.name}" to {worst.snr:.1f} dB. Nothing was written; try another kind, or keep the original.'
        )
    save(state, row, output, source=f"sha256 {sha256} quantized to {kind}", overwrite=overwrite)
    return layers


def layers_of(row: Checkpoint) -> list[str]:
    """The layers of a row's network that are quantized: linears of the blocks, but for the pixels' own MLP."""
    network = build(row.network, device="meta")
    blocks = ("patch_blocks.", "pixel_blocks.")
    linears = [n for n, module in network.named_modules() if isinstance(module, Linear) and n.startswith(blocks)]
    return [name for name in linears if not (name.startswith("pixel_blocks.") and ".mlp." in name)]


def quantize_rows(
    weight: Float[Tensor, "d_out d_in"], dtype: torch.dtype
) -> tuple[Shaped[Tensor, "d_out d_in"], Float[Tensor, " d_out"]]:
    """Codes and the scale of each row."""
    largest = 127 if dtype == torch.int8 else torch.finfo(dtype).max
    scale = weight.abs().amax(1) / largest
    scale = scale.where(scale > 0, 1)  # a row of zeros
    steps = weight / scale[:, None]
    return (steps.round() if dtype == torch.int8 else steps).to(dtype), scale


def signal_to_noise(
    weight: Float[Tensor, "d_out d_in"], codes: Shaped[Tensor, "d_out d_in"], scale: Float[Tensor, " d_out"]
) -> float:
    """Power of the weights over power of what rounding added, in dB; infinite where nothing was lost."""
    noise = (weight - codes.float() * scale[:, None]).square().sum()
    return float(10 * torch.log10(weight.square().sum() / noise)) if noise > 0 else float("inf")
