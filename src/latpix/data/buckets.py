"""Which shape a picture is trained in: the bucket of the nearest aspect ratio, and how it is scaled and cropped to it.

Fixed size L:      the crop of a table; a picture is scaled until its tighter side lands on the crop, and enlarged for
                   that only if it lacks less than a tenth.
Several sizes:     levels L = smallest, smallest + 256, ... to the largest;  w = 64 round(L sqrt(r) / 64),
                   h = 64 round(L / sqrt(r) / 64), neither above the fixed size's; the largest level that the picture
                   covers in both directions, and nothing is ever enlarged.

Sides are multiples of 64, so that a picture 4 times smaller still has whole cells of 16 pixels.
Letters: r aspect ratio, width / height.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import log, sqrt
from typing import NamedTuple

from latpix.errors import OptionError

RATIOS = {"16:9": 16 / 9, "3:2": 3 / 2, "4:3": 4 / 3, "1:1": 1.0, "3:4": 3 / 4, "2:3": 2 / 3, "9:16": 9 / 16}
LEVEL_RATIOS = tuple(name for name in RATIOS if name not in ("3:2", "2:3"))  # of several sizes

MULTIPLE = 64
STEP = 256  # from level to level
ENLARGED = (9, 10)  # a picture may be enlarged if side / crop is above this fraction


class Size(NamedTuple):
    """Of a picture, in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Placement:
    """What becomes of one picture: its bucket, and the size it is scaled to before the middle is cut out."""

    ratio: str
    level: int
    resized: Size
    crop: Size

    @property
    def bucket(self) -> str:
        """The name of the shape."""
        return str(self.crop)


# The crops that released weights were trained on; upright ratios are these turned.
_LANDSCAPE: dict[int, dict[str, tuple[int, int]]] = {
    1024: {"1:1": (1024, 1024), "4:3": (1152, 896), "16:9": (1344, 768), "3:2": (1344, 896)},
    2048: {"1:1": (2048, 2048), "4:3": (2304, 1728), "16:9": (2688, 1536), "3:2": (2688, 1792)},
    3072: {"1:1": (3072, 3072), "4:3": (3520, 2688), "16:9": (4096, 2304), "3:2": (3776, 2496)},
    3840: {"1:1": (3584, 3584), "4:3": (4096, 2816), "16:9": (4096, 2176), "3:2": (4096, 2688)},
    4096: {"1:1": (4096, 4096), "4:3": (4096, 3072), "16:9": (4096, 2304), "3:2": (4096, 2688)},
}
PUBLISHED = tuple(_LANDSCAPE)


@cache
def fixed_crop(size: int, ratio: str) -> Size:
    """The crop of a ratio at a fixed size: of the published table, for other sizes by the rule of levels.

    Raises:
        OptionError: ``size`` is below 64.
    """
    if size < MULTIPLE:
        raise OptionError(f"a bucket of size {size} is too small; expected {MULTIPLE} or more.")
    if size not in _LANDSCAPE:
        return _by_rule(size, ratio)
    turned = ":".join(reversed(ratio.split(":")))
    table = _LANDSCAPE[size]
    return Size(*table[ratio]) if ratio in table else Size(*reversed(table[turned]))


@cache
def level_crop(level: int, ratio: str, *, largest: int) -> Size:
    """The crop of a ratio at one of several sizes, the largest of which is ``largest``."""
    size, bound = _by_rule(level, ratio), fixed_crop(largest, ratio)
    return Size(min(size.width, bound.width), min(size.height, bound.height))


def levels(smallest: int, largest: int) -> list[int]:
    """The sizes from ``smallest`` to ``largest``.

    Raises:
        OptionError: the largest is below the smallest.
    """
    if largest < smallest:
        raise OptionError(f"sizes {smallest}-{largest} run backwards; write the smaller one first.")
    return list(range(smallest, largest + 1, STEP))


def nearest_ratio(size: Size, ratios: Sequence[str] = tuple(RATIOS)) -> str:
    """The ratio that is nearest in the logarithm."""
    own = log(size.width / size.height)
    return min(ratios, key=lambda name: abs(log(RATIOS[name]) - own))


def scaled_to_cover(size: Size, crop: Size) -> Size:
    """The tighter side lands on the crop; the other one is rounded up, of an enlarged picture to the nearest."""
    if crop.width * size.height >= crop.height * size.width:
        return Size(crop.width, _scaled(size.height, crop.width, size.width))
    return Size(_scaled(size.width, crop.height, size.height), crop.height)


def place_fixed(size: Size, fixed: int) -> Placement | None:
    """The bucket of a picture at a fixed size; none if it is too small for it."""
    ratio = nearest_ratio(size)
    crop = fixed_crop(fixed, ratio)
    share, whole = ENLARGED
    if min(size.width * whole - share * crop.width, size.height * whole - share * crop.height) <= 0:
        return None
    return Placement(ratio, fixed, scaled_to_cover(size, crop), crop)


def place_among(size: Size, smallest: int, largest: int) -> Placement | None:
    """The bucket of a picture among several sizes; none if it does not cover the smallest."""
    ratio = nearest_ratio(size, LEVEL_RATIOS)
    for level in reversed(levels(smallest, largest)):
        crop = level_crop(level, ratio, largest=largest)
        if size.width >= crop.width and size.height >= crop.height:
            return Placement(ratio, level, scaled_to_cover(size, crop), crop)
    return None


def place_whole(size: Size, multiple: int = MULTIPLE) -> Placement | None:
    """The picture as it is, less what does not fill a multiple; none if nothing is left."""
    crop = Size(size.width // multiple * multiple, size.height // multiple * multiple)
    return Placement("", 0, size, crop) if crop.width and crop.height else None


def _scaled(side: int, to: int, of: int) -> int:
    """side * to / of, in whole numbers, so that no machine rounds it differently."""
    return (2 * side * to + of) // (2 * of) if to > of else -(-side * to // of)


def _by_rule(level: int, ratio: str) -> Size:
    root = sqrt(RATIOS[ratio])
    return Size(*(max(1, round(side / MULTIPLE)) * MULTIPLE for side in (level * root, level / root)))
