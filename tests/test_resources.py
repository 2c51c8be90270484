"""What the package carries."""

from pathlib import Path

import pytest

import latpix
from latpix import resources


@pytest.mark.parametrize(("name", "limit"), [("flux2-lite", 8_000_000), ("flux2-tiny", 40_000_000)])
def test_the_shipped_weights_lie_in_the_package_and_are_small(name, limit):
    path = resources.weight(name)
    assert path.is_relative_to(Path(latpix.__file__).parent)
    assert 0 < path.stat().st_size <= limit
