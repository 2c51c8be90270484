"""Paths of the data inside the package: the shipped weights and the demo's material."""

from importlib.resources import files
from pathlib import Path

_PACKAGE = Path(str(files("latpix")))


def weight(name: str) -> Path:
    """The file of a shipped checkpoint or codec, e.g. ``weight("flux2-tiny")``; it may not exist."""
    return _PACKAGE / "weights" / f"{name}.safetensors"


def asset(name: str) -> Path:
    """A file of the demo's material, e.g. ``asset("demo/dandelion.png")``; it may not exist."""
    return _PACKAGE / "assets" / name
