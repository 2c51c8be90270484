import shutil
from pathlib import Path

import pytest
from small_captions import write_encoder


@pytest.fixture(scope="session")
def gemma(tmp_path_factory):
    """The folder of a small text encoder."""
    return write_encoder(tmp_path_factory.mktemp("encoder") / "gemma")


@pytest.fixture
def own_gemma(gemma, tmp_path):
    """A copy of it, to change or delete."""
    return Path(shutil.copytree(gemma, tmp_path / "own"))


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """An empty cache for each test."""
    monkeypatch.setenv("LATPIX_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
