"""What is measured: cases by name, their networks and their inputs.

Weights are drawn at random, but for flux2-tiny's: time and memory do not depend on them. None is zero, the final layer
included, so that a wrong result shows.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from latpix.checkpoints.load import LoadedCheckpoint, load, peek, stored
from latpix.checkpoints.registry import CHECKPOINTS, Checkpoint, find
from latpix.decoder import Decoder
from latpix.devices import pick_dtype
from latpix.errors import CheckpointError, OptionError, UsageError
from latpix.latents.spaces import LATENT_SPACES
from latpix.network.config import NetworkConfig
from latpix.network.model import Denoiser, build
from latpix.network.precision import resting_dtypes

FULL, FULL_V1_5 = find("flux2-2k"), find("flux1-2kto4k-v1.5")
MID = replace(
    FULL,
    name="mid",
    network=replace(
        FULL.network, width=256, heads=4, depth=8, pixel_attention_width=256, pixel_heads=4, latent_width=128
    ),
)
TINY = "flux2-tiny"
Preset = Literal["cpu", "gpu"]
ATTENTION_TOKENS = (4096, 16384, 65536)  # of the preset "gpu"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One decode that is measured."""

    name: str
    row: Checkpoint
    height: int  # of the output, in pixels
    width: int
    steps: int
    weights: str = "random"  # else a checkpoint's name or file
    like: str | None = None  # the registry row that a file follows
    whole: NetworkConfig | None = None  # the deeper network whose decode follows from this one's stages, step by step
    room: int | None = None  # bytes over the weights that a memory limit leaves

    @property
    def cells(self) -> tuple[int, int]:
        """The latent's height and width."""
        cell = LATENT_SPACES[self.row.space].downsample * self.row.scale
        return self.height // cell, self.width // cell


def square(name: str, row: Checkpoint, side: int) -> Case:
    """A whole decode to ``side`` x ``side`` pixels."""
    return Case(name=name, row=row, height=side, width=side, steps=row.sampling.steps)


def tiny(side: int) -> Case:
    """The shipped decoder, with its own weights where they fit this version's network."""
    case = square(f"tiny-{side}", find(TINY), side)
    try:
        peek(stored(case.row))
    except CheckpointError:
        return case
    return replace(case, weights=TINY)


def shortened(name: str, row: Checkpoint, side: int, *, patch_blocks: int = 2, pixel_blocks: int = 2) -> Case:
    """One step of a network with a few of its blocks, from which the whole decode follows."""
    network = replace(row.network, depth=patch_blocks, pixel_depth=pixel_blocks)
    short = replace(row, name=f"{row.name}, {patch_blocks} + {pixel_blocks} blocks", network=network)
    return Case(name=name, row=short, height=side, width=side, steps=1, whole=row.network)


def cases_of(preset: Preset) -> tuple[Case, ...]:
    """The decodes that are timed."""
    if preset == "cpu":
        return (
            shortened("full-512", FULL, 512),
            shortened("full-512-v1.5", FULL_V1_5, 512),
            square("mid-1024", MID, 1024),
            tiny(1024),
        )
    sides = (1024, 2048, 3840, 4096)
    return (
        *(square(f"full-{side}", FULL, side) for side in sides),
        *(square(f"full-{side}-v1.5", FULL_V1_5, side) for side in sides),
        *(tiny(side) for side in (1024, 2048)),
        *(shortened(f"stages-{side}", FULL, side) for side in (1024, 2048, 4096)),
    )


def memory_cases_of(preset: Preset) -> tuple[Case, ...]:
    """Those of which only the memory is measured; an accelerator tells that of the whole network without a limit."""
    low = {2048: 760 * 2**20, 4096: 2800 * 2**20}  # the room in which such a picture is to be painted whole
    if preset == "gpu":
        return tuple(
            replace(square(f"low-memory-{side}{ending}", row, side), room=room)
            for ending, row in (("", FULL), ("-v1.5", FULL_V1_5))
            for side, room in low.items()
        )

    def short(name: str, row: Checkpoint, side: int) -> Case:
        return shortened(name, row, side, patch_blocks=2, pixel_blocks=1)

    return (
        short("memory-1024", FULL, 1024),
        short("memory-2048", FULL, 2048),
        replace(short("low-memory-2048", FULL, 2048), room=low[2048]),
    )


def chosen(checkpoint: str | None, size: tuple[int, int], *, like: str | None = None) -> Case:
    """The one case of ``--checkpoint`` and ``--size``; a registry row that is not here runs with random weights.

    Raises:
        CheckpointError: no such checkpoint.
        OptionError: it is no student.
        UsageError: the size is not whole latent cells.
    """
    name = checkpoint or TINY
    there = name not in CHECKPOINTS or stored(find(name)).is_file()
    row = peek(name, like=like)
    if row.sampling.kind != "student":
        raise OptionError(f'"{row.name}" is no student: the plain implementation to compare with decodes in few steps.')
    cell = LATENT_SPACES[row.space].downsample * row.scale
    height, width = size
    if height % cell or width % cell or min(size) < 8 * cell:
        sides = [max(8, round(side / cell)) * cell for side in (width, height)]
        raise UsageError(
            f'size is {width}x{height}, but "{row.name}" paints {cell} pixels a latent cell, 8 cells or more a side; '
            f"the nearest size is {sides[0]}x{sides[1]}."
        )
    return Case(
        name=f"{row.name}-{width}x{height}",
        row=row,
        height=height,
        width=width,
        steps=row.sampling.steps,
        weights=name if there else "random",
        like=like,
    )


def decoder_of(case: Case, device: torch.device, dtype: str) -> Decoder:
    """The case's network in a decoder."""
    rests = pick_dtype(dtype, device)
    if case.weights != "random":
        loaded = load(case.weights, like=case.like, device=device, dtype=rests)
    else:
        loaded = LoadedCheckpoint(case.row, drawn(case.row.network, device, rests), "", Path())
    return Decoder(loaded, device, rests)


def drawn(config: NetworkConfig, device: torch.device, dtype: torch.dtype) -> Denoiser:
    """A network whose every matrix is drawn, such that its output is about as large as a picture."""
    network = build(config, device="meta")
    rests = resting_dtypes(network, dtype)
    state: dict[str, Tensor] = {}
    generator = torch.Generator(device).manual_seed(0)
    for name, empty in network.named_parameters():
        value = torch.empty(empty.shape, device=device)
        if empty.ndim < 2:
            value.fill_(float(name.endswith("weight")))
        else:
            deviation = 1.0 if name.endswith("positions") else 0.7 / math.sqrt(empty[0].numel())
            value.normal_(0, deviation, generator=generator)  # in float32: each type would draw other numbers
        state[name] = value.to(rests[name])
    network.load_state_dict(state, assign=True)
    return network.requires_grad_(False)


@dataclass(frozen=True)
class Given:
    """What is decoded."""

    latent: Float[Tensor, "1 c h w"]
    caption: Float[Tensor, "1 l k"] | None  # states; None where the network reads none


def inputs_of(case: Case, device: torch.device) -> Given:
    """A random latent and caption, the same every time."""
    generator = torch.Generator(device).manual_seed(1)
    config = case.row.network
    latent = torch.randn(1, config.latent_channels, *case.cells, generator=generator, device=device)
    if not config.caption_width:
        return Given(latent, None)
    words = (1, config.caption_length, config.caption_width)
    return Given(latent, torch.randn(words, generator=generator, device=device))
