"""The table of latent spaces: its rows agree with themselves, and its words are found."""

import pytest

from latpix.errors import LatentError
from latpix.latents.spaces import LATENT_SPACES, PerChannel, find_space


def test_a_row_is_found_by_its_own_name():
    assert all(find_space(name) is row and row.name == name for name, row in LATENT_SPACES.items())


@pytest.mark.parametrize("space", LATENT_SPACES.values(), ids=LATENT_SPACES)
def test_a_cell_of_the_latent_covers_whole_cells_of_the_raw_one(space):
    assert space.raw_channels * space.patchify**2 == space.channels


def test_a_vector_has_a_value_for_each_channel():
    rows = [row for row in LATENT_SPACES.values() if isinstance(row.normalization, PerChannel)]
    assert rows
    assert all(len(row.normalization.mean) == len(row.normalization.std) == row.channels for row in rows)


@pytest.mark.parametrize(("wrong", "meant"), [("flux", "flux2"), ("qwenimage", "qwen"), ("SD3", "sd3")])
def test_an_unknown_name_gets_the_list_of_known_ones(wrong, meant):
    with pytest.raises(LatentError) as error:
        find_space(wrong)
    assert all(name in str(error.value) for name in (wrong, meant, *LATENT_SPACES))


def test_a_near_name_is_proposed():
    with pytest.raises(LatentError, match='Did you mean "siglip"'):
        find_space("siglib")
