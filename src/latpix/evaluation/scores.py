"""All figures of one decode against its original, and the row of a table that many decodes give.

Every picture is rounded to 256 levels first: what is measured is what a user gets. Letters: H W pixels, y x native
pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from statistics import mean

from jaxtyping import Float
from torch import Tensor

from latpix.evaluation.metrics.feature_distance import feature_distance
from latpix.evaluation.metrics.features import Features, features_of
from latpix.evaluation.metrics.fixed_pattern import fixed_pattern
from latpix.evaluation.metrics.grid import grid_ratio
from latpix.evaluation.metrics.mean_colour import mean_colour_difference
from latpix.evaluation.metrics.niqe import niqe
from latpix.evaluation.metrics.psnr import psnr
from latpix.evaluation.metrics.structure_texture import structure_texture_distance
from latpix.evaluation.pictures import rounded, shrink

CELL = 64  # output pixels per side of a latent cell


@dataclass(frozen=True)
class Reference:
    """What decodes of one latent are compared with; what they share is computed once."""

    original: Float[Tensor, "1 3 H W"]
    codec_decode: Float[Tensor, "1 3 y x"]  # the codec's own decode of the latent, at native size

    @cached_property
    def features(self) -> Features:
        """Of the original."""
        return features_of(self.original)

    @cached_property
    def grid(self) -> Float[Tensor, "1 2"]:
        """The original's own ratios."""
        return grid_ratio(self.original)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Figures of one decode, or their means."""

    psnr: float  # dB
    feature: float
    structure_texture: float
    niqe: float
    native_psnr: float  # dB, shrunk to native size against the codec's decode
    mean_colour: float  # levels off the codec's decode, worst channel
    grid_rows: float  # grid ratio across horizontal patch borders, over the original's
    grid_columns: float  # and across vertical ones
    fixed_pattern: float  # levels, of the largest speck that every latent cell has at the same place


def score(pixels: Float[Tensor, "1 3 H W"], reference: Reference) -> Scores:
    """Measure one decode."""
    pixels = rounded(pixels)
    features = features_of(pixels)
    rows, columns = (grid_ratio(pixels) / reference.grid)[0].tolist()
    return Scores(
        psnr=psnr(pixels, reference.original).item(),
        feature=feature_distance(features, reference.features).item(),
        structure_texture=structure_texture_distance(features, reference.features).item(),
        niqe=niqe(pixels),
        native_psnr=psnr(shrink(pixels), rounded(reference.codec_decode)).item(),
        mean_colour=mean_colour_difference(pixels, reference.codec_decode).item(),
        grid_rows=rows,
        grid_columns=columns,
        fixed_pattern=fixed_pattern(pixels, reference.original, cell=CELL).item(),
    )


def average(scores: Sequence[Scores]) -> Scores:
    """The mean of each figure."""
    return Scores(**{field.name: mean(getattr(one, field.name) for one in scores) for field in fields(Scores)})
