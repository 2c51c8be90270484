"""The official networks' recipes on the command line: plans at full size, and what they cannot do without."""

import json
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "teacher_flux2", "--set", "context=1"), "latpix data pack FOLDER... -o SHARDS --buckets 2048-3840"),
        (("train", "teacher_flux2", "--set", "trained=gates"), "expected one of adapter, all"),
        (("train", "teacher_flux2", "--dry-run", "--gpus", "3"), "3 GPUs do not divide into groups of 2"),
        (("train", "pixeldit_2kto4k"), "1 processes do not divide into teams of 2: change context"),
        (("distill", "distill_flux2", "--set", "context=1", "--set", "shards=."), "holds no shards"),
        (("train", "distill_flux2"), "latpix distill distill_flux2"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_made(refused, words, message):
    code = 1 if "shards=." in words else 2
    assert message in refused(*words, "--device", "cpu", code=code, out="runs")


@pytest.mark.slow
def test_plans_at_full_size_tell_parameters_memory_and_operations_without_weights_or_shards(latpix):
    def plan(*words):
        return json.loads(latpix(*words, "--dry-run", "--gpus", 8, "--json").out)

    prior = plan("train", "pixeldit_2kto4k", "--set", "size=1024")
    adapter = plan("train", "teacher_flux2", "--set", "size=1024")
    everything = plan("train", "teacher_flux2", "--set", "size=1024", "--set", "trained=all")
    assert 1.2e9 < prior["parameters"]["prior"] < adapter["parameters"]["teacher"] < 1.5e9
    assert adapter["learning"] < 0.15 * everything["learning"] < 0.15 * adapter["parameters"]["teacher"]
    assert adapter["optimizer_bytes"] == 12 * adapter["learning"] // 8
    assert (prior["samples_per_step"], adapter["samples_per_step"], adapter["samples_per_epoch"]) == (8, 4, None)
    assert everything["operations_per_step"] > adapter["operations_per_step"] > 5e12

    distill = ("distill", "distill_flux2", "--set", "size=1024")
    student, rolled = plan(*distill), plan(*distill, "--set", "rollout=0.5")
    assert set(student["parameters"]) == {"student", "fake_score", "discriminator", "teacher"}
    assert student["parameters"]["discriminator"] == pytest.approx(18.9e6, rel=0.01)
    assert student["weight_bytes"] > 3.9 * student["parameters"]["student"] * 4 / 8
    assert student["samples_per_step"] == 2
    assert rolled["operations_per_step"] > student["operations_per_step"]
    assert rolled["total_bytes"] == student["total_bytes"]
    shown = latpix(*distill, "--dry-run").out
    assert "memory of each of 4 GPUs" in shown  # as many as share a picture
    assert "TFLOP" in shown
    assert "samples of a step: 1\n" in shown
    assert not list(Path().iterdir())
