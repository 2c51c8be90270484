"""Every file of examples/ runs: with a tiny pipeline of its family and a tiny checkpoint of its space."""

import runpy
import sys
from pathlib import Path

import pytest
from small_decoder import write_space_checkpoint
from tiny_models import save_pipeline, tiny_pipeline

from latpix import read_picture
from latpix.backbones.registry import find_backbone

EXAMPLES = Path(__file__).parents[1] / "examples"
BACKBONES = {"flux2_klein": "flux2-klein-4b"}  # where an example's name is not its backbone's
# numpy's remark on how SDXL's scheduler makes an array of a tensor
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_an_example_paints_what_a_stopped_pipeline_left(name, tmp_path, monkeypatch):
    backbone = find_backbone(BACKBONES.get(name, name))
    model = save_pipeline(tiny_pipeline(backbone.name), tmp_path / "model")
    checkpoint = "flux2-tiny"  # it ships with us
    if backbone.space != "flux2":
        checkpoint = write_space_checkpoint(tmp_path / "tiny.safetensors", backbone.space)
    arguments = ["--model", model, "--checkpoint", checkpoint, "--size", 64, "--steps", 4, "--stop-at", 3]
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments), "--out", str(tmp_path / "picture")])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert read_picture(tmp_path / "picture_native.png").shape == (1, 3, 64, 64)
    assert read_picture(tmp_path / "picture.png").shape == (1, 3, 256, 256)


def test_every_family_has_an_example():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        "flux", "flux2", "flux2_klein", "sd3", "sdxl", "qwenimage", "zimage"
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_an_example_has_the_defaults_of_its_backbone(name):
    text, row = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8"), find_backbone(BACKBONES.get(name, name))
    generator = row.generator
    assert f'"--model", default="{generator.model}"' in text
    assert f'"--steps", type=int, default={generator.steps})' in text
    assert f'"--stop-at", type=int, default={generator.stop or generator.steps})' in text
    assert f"{generator.guidance_argument}={generator.guidance}" in text
