"""The loop: a broken-off run ends as the unbroken one, bad numbers stop it, and what it leaves is whole."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toy_job
from toy_job import ToyJob, run_toy, toy_config

from latpix.checkpoints.load import load
from latpix.errors import TrainingError, UsageError
from latpix.training.log import read_log
from latpix.training.parallel import World
from latpix.training.recipes import flux2_tiny_base
from latpix.training.recipes.flux2_tiny_base import ROW
from latpix.training.state import load_into, shapes_in


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    run = tmp_path_factory.mktemp("unbroken") / "run"
    run_toy(run, toy_config())
    return run


def saved(run):
    """All tensors of the last save."""
    path = sorted((run / "saves").iterdir())[-1]
    tensors = {name: torch.zeros(shape) for name, shape in shapes_in(path).items()}
    load_into(tensors, path)
    return tensors, (path / "facts_0.json").read_text()


def same_bits(run, other):
    (ours, facts), (theirs, other_facts) = saved(run), saved(other)
    assert facts == other_facts
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def losses_of(run):
    return [{k: v for k, v in line.items() if k != "seconds_per_step"} for line in read_log(run)]


def test_a_run_killed_again_and_again_ends_bit_for_bit_as_the_unbroken_one(tmp_path, unbroken):
    script = [sys.executable, toy_job.__file__, "kill", str(tmp_path / "run"), "3", "8", "15", "28", "29", "43", "58"]
    environment = {**os.environ, "PYTHONPATH": str(Path(toy_job.__file__).parent), "OMP_NUM_THREADS": "1"}
    subprocess.run(script, check=True, env=environment, timeout=120)
    assert same_bits(tmp_path / "run", unbroken)
    assert losses_of(tmp_path / "run") == losses_of(unbroken)
    weights = [torch.load(run / "weights.pt", weights_only=True) for run in (tmp_path / "run", unbroken)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_stretches_of_a_few_steps_end_as_one_run_and_keep_the_last_saves(tmp_path, unbroken):
    run = tmp_path / "run"
    for steps in (4, 11, 60):
        assert run_toy(run, toy_config(steps=steps)).step == steps
    assert same_bits(run, unbroken)
    assert sorted(path.name for path in (run / "saves").iterdir()) == ["step_00000056", "step_00000060"]


def test_a_stretch_ends_when_its_minutes_are_over_and_is_saved(tmp_path):
    outcome = run_toy(tmp_path / "run", toy_config(), minutes=0.0)
    assert (outcome.step, outcome.finished) == (1, False)
    assert sorted(path.name for path in (tmp_path / "run/saves").iterdir()) == ["step_00000001"]


def test_a_loss_that_is_no_number_stops_the_run_saved_with_its_samples_named(tmp_path, unbroken):
    settings = toy_config(bad_step=9)
    with pytest.raises(TrainingError, match=r"step 10 is no number .*sample 0, sample 1"):
        run_toy(tmp_path / "run", settings)
    last = sorted((tmp_path / "run/saves").iterdir())[-1]
    assert last.name == "step_00000009"
    assert read_log(tmp_path / "run")[-1]["samples"] == ["sample 0", "sample 1"]
    (tmp_path / "run/config.json").unlink()
    run_toy(tmp_path / "run", toy_config())  # the cause is mended: it goes on as if nothing had been
    assert same_bits(tmp_path / "run", unbroken)


def test_accumulated_batches_make_the_step_of_one_large_batch(tmp_path):
    class Even(ToyJob):  # draws that do not depend on how often it is asked
        def draw(self, step, samples):
            self.drawn = step
            return super().draw(step, samples)

    ends = []
    for batch, accumulate in ((4, 1), (2, 2), (1, 4)):
        settings = toy_config(steps=6, batch=batch, accumulate=accumulate)
        job = Even(settings)
        toy_job.train(job, settings, tmp_path / f"{batch}", world=World(torch.device("cpu")))
        ends.append(torch.cat([p.detach().flatten() for p in job.parts["student"].network.parameters()]))
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-5, atol=1e-6)


def test_a_base_decoder_broken_off_twice_ends_bit_for_bit_as_the_unbroken_one(tmp_path, monkeypatch):
    small = replace(ROW.network, base_widths=(16, 8, 8, 4), base_blocks=(2, 1, 1, 1), width=32, latent_width=16)
    monkeypatch.setattr(flux2_tiny_base, "ROW", replace(ROW, network=small))
    settings = replace(flux2_tiny_base.config("native"), steps=4, size=64, batch=2, compile=False)
    written = []
    for run, breaks in (("unbroken", 0), ("broken", 2)):
        for minutes in (*[0.0] * breaks, None):
            job = flux2_tiny_base.build(settings, None, torch.device("cpu"))
            outcome = toy_job.train(job, settings, tmp_path / run, world=World(torch.device("cpu")), minutes=minutes)
        written.append(load(outcome.weights).network.state_dict())
    assert same_bits(tmp_path / "broken", tmp_path / "unbroken")
    assert all(torch.equal(written[0][name], tensor) for name, tensor in written[1].items())


def test_recomputing_blocks_of_networks_that_have_none_is_refused(tmp_path):
    with pytest.raises(UsageError, match="recompute=true: toy trains no network with blocks"):
        run_toy(tmp_path / "run", toy_config(recompute=True))
    assert not (tmp_path / "run").exists()


def test_another_runs_folder_is_refused_by_the_setting_that_differs(tmp_path):
    run_toy(tmp_path / "run", toy_config(steps=1))
    with pytest.raises(TrainingError, match="seed=0, not 1"):
        run_toy(tmp_path / "run", toy_config(steps=1, seed=1))


def test_a_part_that_has_no_turn_stays_as_it_is_and_so_do_frozen_weights(tmp_path):
    settings = toy_config(steps=1)
    job, fresh = ToyJob(settings), ToyJob(settings)
    toy_job.train(job, settings, tmp_path / "run", world=World(torch.device("cpu")))
    moved = {
        name: not torch.equal(tensor, fresh.parts[part].network.state_dict()[name])
        for part in job.parts
        for name, tensor in job.parts[part].network.state_dict().items()
        if part == "critic" or name == "frozen"
    }
    assert not any(moved.values())
    assert not torch.equal(job.parts["student"].network[0].weight, fresh.parts["student"].network[0].weight)


def test_the_settings_that_may_change_are_saved_anew(tmp_path):
    run_toy(tmp_path / "run", toy_config(steps=1))
    run_toy(tmp_path / "run", replace(toy_config(steps=2), keep=1))
    assert '"keep": 1' in (tmp_path / "run/config.json").read_text()
