"""NIQE, how far a picture's statistics are from those of natural ones:  sqrt((m - n)^T ((S + T) / 2)^-1 (m - n)).

m, S: mean and covariance of 36 features over blocks of 96x96 of the picture; n, T: those of pristine photographs. The
features are the parameters of generalised Gaussians fitted to locally normalised luma and to products of neighbours, at
two scales. Lower is more natural; compare it on the same pictures only.

Source: Mittal, Soundararajan, Bovik 2013; the pristine parameters are the authors', in BasicSR's file (Apache-2.0,
licence beside it). Equals the MATLAB original (5.7296 on its test picture). Letters: n blocks, h w sides, m values,
k features.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from torch import Tensor
from torch.nn import functional as F

from latpix.errors import MissingExtraError, PictureError

BLOCK = 96
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
SHAPES = np.arange(0.2, 10.001, 0.001)  # of a generalised Gaussian, that a fit can find
PRISTINE = Path(__file__).with_name("niqe_pris_params.npz")


def niqe(pixels: Float[Tensor, "1 3 H W"]) -> float:
    """Of one picture, as its 8-bit file would be judged.

    Raises:
        PictureError: fewer than two blocks of 96x96.
        MissingExtraError: SciPy is not installed.
    """
    height, width = pixels.shape[-2:]
    if (height // BLOCK) * (width // BLOCK) < 2:
        raise PictureError(
            f"the picture is {width}x{height}; NIQE needs at least two blocks of {BLOCK}x{BLOCK} pixels."
        )
    mean, covariance = _pristine()
    features = niqe_features(luma(pixels))  # [n, 36]
    whole = features[np.isfinite(features).all(1)]  # a block without texture has features that are not numbers
    difference = mean - np.nanmean(features, 0)
    spread = (covariance + np.cov(whole, rowvar=False)) / 2
    return float(np.sqrt(difference @ np.linalg.pinv(spread) @ difference))


def luma(pixels: Float[Tensor, "1 3 H W"]) -> Float64[ndarray, "h w"]:
    """MATLAB's Y, 16 to 235, of the 8-bit levels."""
    levels = ((pixels[0] + 1) * 127.5).round().clamp(0, 255).double().cpu().numpy()  # [3, h, w]
    return np.asarray(levels.transpose(1, 2, 0) / 255 @ [65.481, 128.553, 24.966] + 16)


def niqe_features(y: Float64[ndarray, "h w"]) -> Float64[ndarray, "n 36"]:
    """18 features of each block at each of two scales."""
    y = np.round(y)[: len(y) // BLOCK * BLOCK, : y.shape[1] // BLOCK * BLOCK]
    columns = []
    for scaled, side in ((y, BLOCK), (_halved(y), BLOCK // 2)):
        blocks = _blocks(_normalised(scaled), side)
        shape, left, right = _fit(blocks.reshape(len(blocks), -1))
        columns += [shape, (left + right) / 2]
        for shift in NEIGHBOURS:
            product = blocks * np.roll(blocks, shift, (1, 2))
            shape, left, right = _fit(product.reshape(len(blocks), -1))
            columns += [shape, (right - left) * _gamma(2 / shape) / _gamma(1 / shape), left, right]
    return np.stack(columns, 1)


def _normalised(y: Float64[ndarray, "h w"]) -> Float64[ndarray, "h w"]:
    """Less the local mean, over the local deviation plus one (in levels)."""
    window = np.exp(-((np.arange(7) - 3) ** 2) / (2 * (7 / 6) ** 2))
    window = np.outer(window, window) / window.sum() ** 2
    correlate = _scipy("ndimage").correlate
    mean = correlate(y, window, mode="nearest")
    deviation = np.sqrt(np.abs(correlate(y * y, window, mode="nearest") - mean * mean))
    return np.asarray((y - mean) / (deviation + 1))


def _blocks(x: Float64[ndarray, "h w"], side: int) -> Float64[ndarray, "n s s"]:
    rows, columns = x.shape[0] // side, x.shape[1] // side
    blocks = x[: rows * side, : columns * side].reshape(rows, side, columns, side).transpose(0, 2, 1, 3)
    return blocks.reshape(rows * columns, side, side)


def _fit(
    x: Float64[ndarray, "n m"],
) -> tuple[Float64[ndarray, " n"], Float64[ndarray, " n"], Float64[ndarray, " n"]]:
    """Asymmetric generalised Gaussian by moments: shape, left and right scale (Lasmar et al. 2009)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        negative, positive = x < 0, x > 0
        left = np.sqrt((x**2 * negative).sum(1) / negative.sum(1))
        right = np.sqrt((x**2 * positive).sum(1) / positive.sum(1))
        g = left / right
        ratio = np.abs(x).mean(1) ** 2 / (x**2).mean(1) * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
        ratios = _ratios()
        above = np.clip(np.searchsorted(ratios, ratio), 1, len(ratios) - 1)
        nearest = np.where(ratio - ratios[above - 1] < ratios[above] - ratio, above - 1, above)
        shape = SHAPES[nearest]
        scale = np.sqrt(_gamma(1 / shape) / _gamma(3 / shape))
        return shape, left * scale, right * scale


def _halved(y: Float64[ndarray, "h w"]) -> Float64[ndarray, "h/2 w/2"]:
    """Bicubic with antialiasing and mirrored borders, as MATLAB's imresize."""
    padded = torch.from_numpy(np.pad(y, 8, mode="symmetric"))[None, None]
    half = F.interpolate(padded, scale_factor=0.5, mode="bicubic", antialias=True)
    return np.asarray(half[0, 0, 4:-4, 4:-4].numpy())


@cache
def _ratios() -> Float64[ndarray, " shapes"]:
    """Squared mean modulus over mean square, which rises with the shape, so that it can be searched."""
    return np.asarray(_gamma(2 / SHAPES) ** 2 / (_gamma(1 / SHAPES) * _gamma(3 / SHAPES)))


@cache
def _pristine() -> tuple[Float64[ndarray, " k"], Float64[ndarray, "k k"]]:
    with np.load(PRISTINE) as file:
        return np.ravel(file["mu_pris_param"]), file["cov_pris_param"]


def _gamma(x: Float64[ndarray, " n"]) -> Float64[ndarray, " n"]:
    return np.asarray(_scipy("special").gamma(x))


def _scipy(part: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"scipy.{part}")
    except ImportError as error:
        raise MissingExtraError.of("eval", "scipy") from error
