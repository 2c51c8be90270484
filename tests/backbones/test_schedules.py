"""The noise levels that are computed before a run are those that the pipelines then have."""

import json
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from tiny_models import tiny_pipeline

from latpix import run_until
from latpix.backbones.registry import BACKBONES, find_backbone
from latpix.backbones.schedules import SETTINGS, schedule, scheduler_of, sigmas
from latpix.errors import CheckpointError, MissingExtraError

GENERATING = [row for row in BACKBONES.values() if row.generator]


@cache
def pipeline(class_name):
    return tiny_pipeline(class_name)


@pytest.mark.parametrize(("height", "width", "steps"), [(64, 96, 4), (48, 32, 7)])
@pytest.mark.parametrize("name", ["flux", "flux2", "flux2-klein-4b", "sd3", "sdxl", "qwenimage", "zimage"])
def test_a_pipeline_has_the_levels_that_were_computed(name, height, width, steps):
    row = find_backbone(name)
    pipe = pipeline(row.generator.class_name)
    latent = run_until(pipe, 2, prompt="a cat", height=height, width=width, num_inference_steps=steps)
    for scheduler in (None, pipe.scheduler):  # those of the tiny pipelines are the published ones
        found = schedule(row, steps, height=height, width=width, scheduler=scheduler)
        assert found.sigmas == tuple(pipe.scheduler.sigmas.tolist())
        assert found.timesteps == tuple(pipe.scheduler.timesteps.tolist())
        assert found.latent_sigmas[2] == pytest.approx(latent.latent_sigma, abs=1e-7)
    assert sigmas(row, steps, height=height, width=width) == found.sigmas


@pytest.mark.parametrize("row", GENERATING, ids=lambda row: row.name)
def test_levels_fall_from_noise_to_nothing(row):
    levels = schedule(row, row.generator.steps, height=512, width=512).latent_sigmas
    assert len(levels) == row.generator.steps + 1
    assert list(levels) == sorted(levels, reverse=True)
    assert 0.99 < levels[0] <= 1
    assert levels[-1] == 0


@pytest.mark.parametrize("row", GENERATING, ids=lambda row: row.name)
def test_recommended_stops_leave_what_decoders_were_trained_on(row):
    for size in (512, 1024):
        levels = schedule(row, row.generator.steps, height=size, width=size).latent_sigmas
        assert min(levels[stop] for stop in row.generator.stops) > 0.05
        assert max(levels[stop] for stop in row.generator.stops) < 0.8


@pytest.mark.parametrize("steps", [2, 4, 50, 200])
@pytest.mark.parametrize("side", [256, 1024, 1040, 1056, 2048])
def test_the_shifts_are_those_of_diffusers(steps, side):
    n = (side // 16) ** 2
    mu = {name: schedule(find_backbone(name), steps, height=side, width=side).mu for name in SETTINGS}
    assert mu["flux2"] == mu["flux2-klein-9b"] == pytest.approx(compute_empirical_mu(n, steps))
    assert mu["flux"] == pytest.approx(calculate_shift(n, 256, 4096, 0.5, 1.15))
    assert mu["qwenimage"] == mu["qwenimage-2512"] == pytest.approx(calculate_shift(n, 256, 8192, 0.5, 0.9))
    assert mu["sd3"] is mu["sdxl"] is mu["zimage"] is None


def test_the_guide_has_every_stop_with_its_noise():
    guide = (Path(__file__).parents[2] / "docs/guide/early-stop.md").read_text(encoding="utf-8")
    lines = [line for line in guide.splitlines() if line.startswith("| ") and line[2:].split(" ")[0] in SETTINGS]
    expected = []
    for row in GENERATING:
        steps = row.generator.steps
        levels = [schedule(row, steps, height=side, width=side).latent_sigmas for side in (512, 1024)]
        for stop in row.generator.stops:
            saved, shown = f"{(steps - stop) / steps:.0%}", f"**{stop}**" if stop == row.generator.stop else str(stop)
            sigmas = " | ".join(f"{level[stop]:.2f}" for level in levels)
            expected.append(f"| {row.name} | {steps} | {shown} | {saved[:-1]} % | {sigmas} |")
    assert lines == expected


def test_sd3_shifts_by_size_if_its_scheduler_does():
    row, scheduler = find_backbone("sd3"), FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    assert schedule(row, 4, height=1024, width=1024, scheduler=scheduler).mu == pytest.approx(1.15)


def test_a_scheduler_that_is_given_stays_as_it_is():
    scheduler = pipeline("ZImagePipeline").scheduler
    scheduler.set_timesteps(3)
    before = scheduler.sigmas.clone()
    schedule(find_backbone("zimage"), 9, height=64, width=64, scheduler=scheduler)
    assert torch.equal(scheduler.sigmas, before)


def test_a_folder_has_a_scheduler_of_its_own(tmp_path):
    row = find_backbone("zimage")
    FlowMatchEulerDiscreteScheduler(shift=2.0).save_pretrained(tmp_path / "scheduler")
    assert scheduler_of(row, tmp_path).config["shift"] == 2.0
    assert scheduler_of(row, tmp_path / "elsewhere").config["shift"] == 6.0
    assert scheduler_of(row, "Tongyi-MAI/Z-Image").config["shift"] == 6.0
    for config in ("no json", json.dumps({"_class_name": "NoScheduler"})):
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(config)
        with pytest.raises(CheckpointError, match="describes no scheduler"):
            scheduler_of(row, tmp_path)


def test_every_backbone_that_generates_has_settings():
    assert set(SETTINGS) == {row.name for row in GENERATING}


def test_without_diffusers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match=r'pip install "latpix\[backbones\]"'):
        scheduler_of(find_backbone("flux"))
