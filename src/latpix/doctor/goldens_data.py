"""Recompute what training goldens say of data and measures: bucket tables, where pictures go, colour and PSNR.

``to_uint8`` is documentary: it truncates, and we round. Tables are exact. Letters: n rows.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from latpix.data.buckets import (
    LEVEL_RATIOS,
    RATIOS,
    Size,
    fixed_crop,
    level_crop,
    nearest_ratio,
    place_among,
    place_fixed,
)
from latpix.doctor.family import Case, Golden, Tensors, exact, skip
from latpix.doctor.rows import error_in_tolerances
from latpix.evaluation.metrics.delta_e import delta_e_low
from latpix.evaluation.metrics.psnr import psnr

RATIO_NAMES = tuple(RATIOS)
SMALLEST = 2048  # of several sizes, in every release
ATOL, RTOL = 2e-6, 2e-5  # from the goldens' README
DOCUMENTARY = ("to_uint8",)


def run(golden: Golden) -> Iterator[Case]:
    """Every table, row by row, and every measure."""
    for group, tensors in golden.groups().items():
        if group in DOCUMENTARY:
            continue
        if group == "metric":
            yield from _measures(golden, tensors)
        elif (table := next(iter(tensors.values()), None)) is not None and _known(group):
            yield group, exact(torch.tensor(list(_rows(group, table))), table)
        else:
            skip(golden.folder / f"{golden.name}: {group}", "a table that is not known here")


def _known(group: str) -> bool:
    return group in ("fixed_sizes", "grid", "multires") or group.removeprefix("fixed").isdigit()


def _rows(group: str, table: Int[Tensor, "n _"]) -> Iterator[tuple[int, ...]]:
    """Our version of each row, from its leading columns."""
    for row in table.tolist():
        if group == "fixed_sizes":
            size, ratio = row[:2]
            yield size, ratio, *fixed_crop(size, RATIO_NAMES[ratio])
        elif group == "grid":
            largest, ratio, level = row[:3]
            yield largest, ratio, level, *level_crop(level, LEVEL_RATIOS[ratio], largest=largest)
        elif group == "multires":
            yield _among(Size(*row[:2]), row[2])
        else:
            yield _fixed(Size(*row[:2]), int(group.removeprefix("fixed")))


def _among(size: Size, largest: int) -> tuple[int, ...]:
    placement = place_among(size, SMALLEST, largest)
    level, crop = (placement.level, placement.crop) if placement else (0, (0, 0))
    return (*size, largest, LEVEL_RATIOS.index(nearest_ratio(size, LEVEL_RATIOS)), level, *crop)


def _fixed(size: Size, fixed: int) -> tuple[int, ...]:
    ratio = nearest_ratio(size)
    placement = place_fixed(size, fixed)
    resized = placement.resized if placement else (0, 0)
    return (*size, RATIO_NAMES.index(ratio), *resized, *fixed_crop(fixed, ratio))


def _measures(golden: Golden, tensors: Tensors) -> Iterator[Case]:
    """Colour against the low-quality picture, and at one size; PSNR. Names of pictures end in ``_uint8``."""
    pictures = {name.removesuffix("_uint8"): _pixels(value) for name, value in tensors.items() if value.ndim == 3}
    made = {
        "lq_color_de2000": lambda: delta_e_low(pictures["sr"], pictures["lq"]),
        "lq_color_de2000_same_size": lambda: delta_e_low(pictures["sr"], pictures["hq"]),
        "psnr": lambda: psnr(pictures["sr"], pictures["hq"]),
    }
    for name, expected in tensors.items():
        if expected.ndim == 3:
            continue
        if name in made:
            yield f"metric.{name}", error_in_tolerances(made[name]()[0], expected, atol=ATOL, rtol=RTOL)
        else:
            skip(golden.folder / f"{golden.name}: {name}", "a measure that is not known here")


def _pixels(levels: Tensor) -> Tensor:
    """[H, W, 3] levels to pixels [1, 3, H, W]; double, where the device has it."""
    kind = torch.float32 if levels.device.type == "mps" else torch.float64
    return levels.permute(2, 0, 1)[None].to(kind) / 127.5 - 1
