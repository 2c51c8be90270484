"""Imports point downwards: the layers of the package, read from its sources."""

import ast
from pathlib import Path

import pytest

import latpix

SOURCE = Path(latpix.__file__).parent
LAYERS = [  # from the top; a part imports itself and what stands below its line
    "cli",
    "doctor",
    "training evaluation benchmark",
    "decoder batching pid_vae",
    "per_picture compiling one_decode fitting output_sizes",
    "latent_bands base_bands",
    "captions backbones checkpoints data plan",
    "bands tiling team distributed devices efficientnet libraries operations",
    "network sampling latents canvas colours",
    "files arithmetic",
    "errors resources __version__",
]
LEVEL = {part: level for level, line in enumerate(LAYERS) for part in line.split()}
DOORS = {"__init__", "__main__"}  # they open the package to the outside and may name any part
TOGETHER = ({"decoder", "batching"}, {"pid_vae", "decoder"})  # those of one line that may know each other


def imported_parts(path):
    """The parts of latpix that a file imports, at its top or inside a function; a public name counts as its home."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("latpix."):
                part = name.split(".")[1]
                yield latpix._HOMES.get(part, name).split(".")[1]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_downwards(path):
    part = path.relative_to(SOURCE).with_suffix("").parts[0]
    if part in DOORS:
        return
    assert part in LEVEL, f"{part} has no layer yet: give it one in LAYERS"
    for other in set(imported_parts(path)) - {part}:
        assert other in LEVEL, f"{path} imports latpix.{other}, which has no layer"
        below = LEVEL[other] > LEVEL[part] or {part, other} in TOGETHER
        assert below, f"{part} must not import {other}: it stands above it, or on the same line"


def test_every_folder_is_a_package():
    folders = {path.parent for path in SOURCE.rglob("*.py")}
    assert [folder.name for folder in folders if not (folder / "__init__.py").exists()] == []


def test_an_arrow_upwards_is_found_even_inside_a_function(tmp_path):
    module = tmp_path / "module.py"
    module.write_text("def f():\n    from latpix import Decoder\n    import latpix.cli.main\n    import torch\n")
    assert sorted(imported_parts(module)) == ["cli", "decoder"]
