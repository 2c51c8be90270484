from dataclasses import replace

import pytest
from small_networks import SMALL, SMALL_V1_5, small_network

from latpix.checkpoints.registry import CHECKPOINTS, find

SMALL_ROWS = (
    replace(find("flux1-2k"), name="alike-1", network=SMALL),
    replace(find("sd3-2k"), name="alike-2", network=replace(SMALL, rope_reference=(64, 64))),
    replace(find("sdxl-2kto4k"), name="lonely", network=replace(SMALL, latent_channels=5)),
    replace(find("flux1-2kto4k-v1.5"), name="student", network=SMALL_V1_5),
    replace(find("flux1-2kto4k-v1.5-teacher"), name="teacher", network=replace(SMALL_V1_5, rgb_head=-1)),
)


@pytest.fixture
def rows(monkeypatch):
    """A registry of small rows, two of which a file cannot tell apart, and a student with its teacher."""
    for name in list(CHECKPOINTS):
        monkeypatch.delitem(CHECKPOINTS, name)
    for row in SMALL_ROWS:
        monkeypatch.setitem(CHECKPOINTS, row.name, row)
    return CHECKPOINTS


@pytest.fixture
def weights(rows):
    """The state of a row's network, by our names: random, rounded to bfloat16 as released files are."""

    def state_of(name):
        return {key: tensor.bfloat16() for key, tensor in small_network(rows[name].network).state_dict().items()}

    return state_of
