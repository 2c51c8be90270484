"""Shapes of training samples: the golden tables are in the doctor's test; here is what holds for any size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latpix.data.buckets import (
    LEVEL_RATIOS,
    PUBLISHED,
    RATIOS,
    Size,
    fixed_crop,
    levels,
    nearest_ratio,
    place_among,
    place_fixed,
    place_whole,
    scaled_to_cover,
)
from latpix.errors import OptionError

sides = st.integers(16, 9000)
sizes = st.builds(Size, sides, sides)


@given(sizes, sizes)
def test_a_scaled_picture_covers_its_crop_and_one_side_lands_on_it(size, crop):
    scaled = scaled_to_cover(size, crop)
    assert scaled.width >= crop.width
    assert scaled.height >= crop.height
    assert scaled.width == crop.width or scaled.height == crop.height


@given(sizes, st.sampled_from([128, 512, 2048]))
def test_a_picture_is_enlarged_by_less_than_a_ninth_or_dropped(size, fixed):
    placement = place_fixed(size, fixed)
    if placement is not None:
        assert placement.resized.width < size.width * 10 / 9 + 1
        assert placement.resized.height < size.height * 10 / 9 + 1


@given(sizes, st.sampled_from([(2048, 4096), (2048, 3072), (256, 1024)]))
def test_among_several_sizes_nothing_is_enlarged(size, bounds):
    placement = place_among(size, *bounds)
    if placement is not None:
        assert placement.crop.width <= size.width
        assert placement.crop.height <= size.height
        assert bounds[0] <= placement.level <= bounds[1]


@pytest.mark.parametrize("size", [*PUBLISHED, 128, 256, 640, 8192])
def test_every_crop_has_whole_cells_and_is_turned_with_its_ratio(size):
    for ratio in RATIOS:
        crop = fixed_crop(size, ratio)
        assert crop.width % 64 == crop.height % 64 == 0
        assert fixed_crop(size, ":".join(reversed(ratio.split(":")))) == crop[::-1]


def test_a_turned_picture_gets_the_turned_bucket():
    for size in (Size(3000, 2000), Size(3000, 2999), Size(5000, 2000)):
        upright, turned = place_fixed(size, 1024), place_fixed(Size(*size[::-1]), 1024)
        assert turned.crop == upright.crop[::-1]
        assert turned.resized == upright.resized[::-1]


def test_several_sizes_know_neither_3_2_nor_2_3():
    assert nearest_ratio(Size(300, 200)) == "3:2"
    assert nearest_ratio(Size(300, 200), LEVEL_RATIOS) == "4:3"


def test_a_picture_that_just_lacks_a_tenth_is_dropped():
    assert place_fixed(Size(1844, 1844), 2048) is not None  # 0.9004
    assert place_fixed(Size(1843, 1843), 2048) is None  # 0.8999


def test_a_whole_picture_loses_only_what_fills_no_multiple():
    assert place_whole(Size(700, 300)).crop == (640, 256)
    assert place_whole(Size(700, 63)) is None


def test_sizes_that_make_no_sense_are_refused():
    with pytest.raises(OptionError, match="run backwards"):
        levels(4096, 2048)
    with pytest.raises(OptionError, match="too small"):
        fixed_crop(32, "1:1")
