"""The recipe of flux2-lite: its losses and their gradients, whole runs, and what cannot run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_pictures import dead_leaves
from PIL import Image
from safetensors import safe_open

from latpix.backbones.codec import Codec
from latpix.backbones.lite import Lite
from latpix.backbones.lite_file import load_lite, save_lite
from latpix.backbones.taef2 import Taef2
from latpix.errors import UsageError
from latpix.resources import weight
from latpix.training.job import SampleDraws
from latpix.training.log import read_log
from latpix.training.loop import train
from latpix.training.optimizers import make_optimizers
from latpix.training.parallel import World
from latpix.training.photographs import to_levels
from latpix.training.recipes import flux2_lite as recipe
from latpix.training.recipes.flux2_lite import ENCODER_SHARE, MUON, Halves, build, far, outline

CPU = torch.device("cpu")
SHARED = Path(__file__).parents[3] / "shared/assets"
RATES = {"warmup_updates": 0, "cooldown": 0.0}  # else nothing would be learned in two steps
SMALL = replace(recipe.config(), **RATES, steps=2, size=96, precision="float32", log_every=1, sample_every=2)


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    """Made-up pictures, and a TAEF2 of random weights."""
    folder = tmp_path_factory.mktemp("assets")
    torch.manual_seed(0)
    taef2 = Taef2()
    (folder / "taef2").mkdir()
    torch.save(taef2.encoder.state_dict(), folder / "taef2/taef2_encoder.pth")
    torch.save(taef2.decoder.state_dict(), folder / "taef2/taef2_decoder.pth")
    for seed, name in enumerate(("photos/cid22/a.png", "photos/clic2025/b.png")):
        (folder / name).parent.mkdir(parents=True)
        levels = to_levels(dead_leaves(112, 128, seed=seed, count=40)[0])
        Image.fromarray(levels.permute(1, 2, 0).numpy()).save(folder / name)
    return folder


@pytest.fixture(autouse=True)
def _measured_on_two_samples(monkeypatch):
    monkeypatch.setattr(recipe, "MEASURED", 2)


def run(settings, assets, folder):
    return train(build(settings, assets, CPU), settings, folder, world=World(CPU)).weights


def test_a_broken_off_run_ends_as_the_unbroken_one_and_leaves_a_codec(assets, tmp_path):
    whole = run(SMALL, assets, tmp_path / "whole")
    run(replace(SMALL, steps=1), assets, tmp_path / "broken")
    again = run(SMALL, assets, tmp_path / "broken")
    start = save_lite(build(SMALL, assets, CPU).parts["codec"].network.lite, tmp_path / "start", source="", license="")
    once = run(replace(SMALL, steps=1), assets, tmp_path / "once")
    assert load_lite(whole)[1] == load_lite(again)[1]
    assert len({start, load_lite(once)[1], load_lite(whole)[1]}) == 3
    assert [line["step"] for line in read_log(tmp_path / "broken")] == [1, 2]
    assert whole.stat().st_size <= 8_000_000
    with safe_open(whole, framework="pt") as file:
        source = file.metadata()["source"]
    assert "recipes.flux2_lite, 2 steps; latents of TAEF2" in source
    assert "1 of cid22" in source
    assert Codec.load(whole, device="cpu").encode(torch.zeros(1, 3, 32, 32)).shape == (1, 128, 2, 2)
    assert (tmp_path / "whole/samples/step_00000002.png").is_file()


def test_a_few_steps_on_one_batch_lower_the_losses_of_both_halves(assets):
    job = build(SMALL, assets, CPU)
    batch, part = job.draw(0, [0]), job.parts["codec"]
    losses = []
    optimizers = make_optimizers(part)
    for _ in range(5):
        made = job.losses(batch, 0, SampleDraws(0, 0, [0]))
        losses.append({name: loss.item() for name, loss in made.losses.items()})
        part.network.zero_grad()
        made.total.backward()
        for optimizer in optimizers:
            optimizer.step()
    for name in ("latent", "pixels", "own"):
        assert losses[-1][name] < losses[0][name]


def test_a_quarter_of_the_gradient_of_its_own_decodes_reaches_the_encoder():
    torch.manual_seed(0)
    model = Lite()
    for block in (*model.encoder.fine, *model.decoder.fine):
        torch.nn.init.normal_(block.second.weight, std=0.05)
    pixels, bias = dead_leaves(32, 32), model.encoder.leave.bias
    (whole,) = torch.autograd.grad(model(pixels).square().sum(), bias)
    _, _, own = Halves(model, "float32")(pixels, torch.zeros(1, 128, 2, 2))
    (share,) = torch.autograd.grad(own.square().sum(), bias)
    torch.testing.assert_close(share, ENCODER_SHARE * whole, rtol=1e-4, atol=1e-5)


def test_muon_has_the_kernels_inside_and_every_weight_has_one_optimizer(assets):
    part = build(SMALL, assets, CPU).parts["codec"]
    adam, muon = make_optimizers(part)
    named = dict(part.network.named_parameters())
    kernels = {id(w) for n, w in named.items() if w.ndim == 4 and not n.endswith(("enter.weight", "leave.weight"))}
    held = [id(weight) for optimizer in (adam, muon) for group in optimizer.param_groups for weight in group["params"]]
    assert {id(weight) for weight in muon.param_groups[0]["params"]} == kernels
    assert sorted(held) == sorted(map(id, named.values()))
    assert all(any(name.startswith(prefix) for name in named) for prefix in MUON)


def test_mean_colours_off_count_more_than_as_much_noise():
    pixels = torch.zeros(1, 3, 32, 32)
    noise = 0.1 * torch.where(torch.rand(1, 3, 32, 32) < 0.5, -1.0, 1.0)
    assert far(pixels + 0.1, pixels) > 1.4 * far(pixels + noise, pixels)


def test_training_on_starts_from_the_shipped_weights(assets):
    job = build(replace(SMALL, start="flux2-lite"), assets, CPU)
    shipped, _ = load_lite(weight("flux2-lite"))
    held = job.parts["codec"].network.lite
    assert all(torch.equal(held.state_dict()[name], tensor) for name, tensor in shipped.state_dict().items())
    assert all(weight.requires_grad for weight in held.parameters())


def test_without_assets_it_is_refused_and_a_plan_counts_both_networks(assets):
    for ask in (lambda: build(SMALL, None, CPU), lambda: outline(SMALL, None)):
        with pytest.raises(UsageError, match="--assets"):
            ask()
    plan = outline(SMALL, assets)
    assert sum(w.numel() for w in plan.trained["codec"].parameters()) == sum(w.numel() for w in Lite().parameters())
    assert plan.samples_per_epoch == 2


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the photographs and TAEF2")
def test_three_real_steps_start_where_the_shipped_weights_stand(tmp_path):
    settings = replace(recipe.config(), steps=3, start="flux2-lite", log_every=1)
    run(settings, SHARED, tmp_path)
    lines = read_log(tmp_path)
    assert all(line["latent"] < 0.5 for line in lines)  # of the variance; fresh weights stand at 1
    assert all(line["pixels"] < 0.3 for line in lines)
