"""`latpix train` and `latpix distill`: a plan, a run that leaves its folder, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from latpix import Decoder
from latpix.checkpoints.load import load, save
from latpix.checkpoints.registry import FLUX2_TINY
from latpix.errors import UsageError
from latpix.network.model import Denoiser
from latpix.training.log import read_log
from latpix.training.recipes import flux2_tiny_base, flux2_tiny_distill, flux2_tiny_teacher


def test_a_dry_run_tells_parameters_memory_and_samples_and_makes_nothing(latpix):
    answer = latpix("distill", "flux2_tiny_distill", "--dry-run", "--gpus", 4, "--set", "batch=2", "--json")
    plan = json.loads(answer.out)
    assert set(plan["parameters"]) == {"student", "fake_score", "discriminator", "teacher", "base"}
    assert plan["parameters"]["student"] == plan["parameters"]["teacher"] > 8e6
    assert plan["samples_per_step"] == 8
    assert plan["total_bytes"] > plan["activation_bytes"] > 0
    assert not list(Path().iterdir())
    shown = latpix("train", "flux2_tiny_teacher", "--dry-run", "--set", "size=128").out
    assert "samples of an epoch: 96" in shown  # 6 made-up pictures of 4x4 crops
    assert "GiB" in shown
    assert "TFLOP" in shown
    shown = latpix("train", "flux2_tiny_base", "--dry-run", "--set", "steps=50").out
    assert "GiB, without activations" in shown
    assert "activation: not foretold" in shown


@pytest.fixture
def _small(monkeypatch):
    """The recipes with a network of some hundred thousand weights."""
    small = replace(
        FLUX2_TINY,
        width=32,
        pixel_attention_width=16,
        latent_width=16,
        latent_depth=1,
        base_widths=(32, 16, 16, 8),
        base_blocks=(2, 1, 1, 1),
    )
    monkeypatch.setattr(flux2_tiny_base, "ROW", replace(flux2_tiny_base.ROW, network=small))
    monkeypatch.setattr(flux2_tiny_teacher, "ROW", replace(flux2_tiny_teacher.ROW, network=small))
    monkeypatch.setattr(flux2_tiny_distill, "TEACHER", flux2_tiny_teacher.ROW)
    monkeypatch.setattr(flux2_tiny_distill, "ROW", replace(flux2_tiny_distill.ROW, network=small))


@pytest.mark.usefixtures("_small")
def test_training_all_stages_leaves_weights_that_decode(latpix):
    tiny = ("--set", "steps=2", "--set", "batch=1", "--set", "size=64", "--device", "cpu", "--quiet")
    base = "runs/flux2_tiny_base/flux2-tiny-base.safetensors"
    assert latpix("train", "flux2_tiny_base", *tiny, "--set", "compile=false") == (0, f"{base}\n", "")
    latent = torch.randn(1, 128, 8, 8, generator=torch.Generator().manual_seed(0))
    its_own = load(base).network.base_decoder.paint(latent, torch.zeros(1))
    torch.testing.assert_close(Decoder.load(base, device="cpu").decode(latent), its_own, rtol=0, atol=0.01)
    assert its_own.std() > 0.05
    answer = latpix("train", "flux2_tiny_teacher", *tiny, "--set", f"base={base}")
    assert answer == (0, "runs/flux2_tiny_teacher/flux2-tiny-teacher.safetensors\n", "")
    answer = latpix("distill", "flux2_tiny_distill", *tiny, "--set", "log_every=1", "-o", "student")
    assert answer == (0, "student/flux2-tiny.safetensors\n", "")
    left = {path.name for path in Path("student").iterdir()} - {"tensorboard"}  # where that is installed
    assert left == {"config.json", "flux2-tiny.safetensors", "log.jsonl", "samples", "saves"}
    assert ["vsd" in line for line in read_log(Path("student"))] == [True, False]
    assert json.loads(Path("student/config.json").read_text())["size"] == 64
    own, taken = (load(path).network.base_decoder for path in ("student/flux2-tiny.safetensors", base))
    for one, other in zip(own.parameters(), taken.parameters(), strict=True):
        assert torch.equal(one, other.bfloat16())  # carried through both stages
    pixels = Decoder.load("student/flux2-tiny.safetensors", device="cpu").decode(torch.randn(1, 128, 2, 2))
    assert pixels.shape == (1, 3, 128, 128)
    assert load("runs/flux2_tiny_teacher/flux2-tiny-teacher.safetensors").row.sampling.kind == "teacher"


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("recipe", [flux2_tiny_base, flux2_tiny_distill])
def test_a_student_or_a_base_decoder_alone_is_refused_as_a_teacher(recipe, tmp_path):
    file = tmp_path / "weights.safetensors"
    save(Denoiser(recipe.ROW.network), recipe.ROW, file)
    settings = replace(flux2_tiny_distill.config(), teacher=str(file), size=64)
    with pytest.raises(UsageError, match=rf'is "{recipe.ROW.name}", a student, not a teacher'):
        flux2_tiny_distill.build(settings, None, torch.device("cpu"))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("train", "flux2"), 2, 'no recipe "flux2". Did you mean flux2_'),
        (("train", "flux2_tiny_distill"), 2, "latpix distill flux2_tiny_distill"),
        (("distill", "flux2_tiny_distill"), 2, "Make it first: latpix train flux2_tiny_teacher"),
        (("train", "flux2_tiny_teacher", "--set", "size=100"), 2, "a multiple of 64"),
        (("train", "flux2_tiny_teacher", "--set", "lr=1"), 2, 'no setting "lr"'),
        (("train", "flux2_tiny_teacher", "--assets", "."), 2, "no folder photos/cid22"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_made(refused, words, code, message):
    assert message in refused(*words, code=code, out="runs")


@pytest.mark.slow
def test_both_stages_run_end_to_end_as_the_guide_says(latpix):
    settings = ("--set", "batch=2", "--set", "size=128", "--device", "cpu")
    assert latpix("train", "flux2_tiny_teacher", "--set", "steps=50", *settings).code == 0
    assert latpix("distill", "flux2_tiny_distill", "--set", "steps=30", *settings).code == 0
    student = load("runs/flux2_tiny_distill/flux2-tiny.safetensors")
    assert all(torch.isfinite(weight).all() for weight in student.network.parameters())
    losses = [line["flow"] for line in read_log(Path("runs/flux2_tiny_teacher"))]
    assert losses[-1] < 1.0
    assert len(list(Path("runs/flux2_tiny_distill/samples").iterdir())) == 1
