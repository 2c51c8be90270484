"""Paths of the data inside the package (shipped weights, the demo's material), and of what is kept outside it."""

import os
from importlib.resources import files
from pathlib import Path

_PACKAGE = Path(str(files("latpix")))


def weight(name: str) -> Path:
    """The file of a shipped checkpoint or codec, e.g. ``weight("flux2-tiny")``; it may not exist."""
    return _PACKAGE / "weights" / f"{name}.safetensors"


def asset(name: str) -> Path:
    """A file of the demo's material, e.g. ``asset("demo/dandelion.png")``; it may not exist."""
    return _PACKAGE / "assets" / name


def home() -> Path:
    """Where fetched checkpoints and captions are kept: ``LATPIX_HOME``, else the user's cache."""
    return Path(os.environ.get("LATPIX_HOME") or Path.home() / ".cache" / "latpix")
