"""The recipe: its learning rate, what it noises, and that a stopped run goes on."""

import pytest
import torch
from made_pictures import dead_leaves
from PIL import Image

from latpix.backbones.lite import overview
from latpix.backbones.taef2 import Taef2
from latpix.checkpoints.load import load
from latpix.checkpoints.registry import find
from latpix.network.model import Denoiser
from latpix.training.photographs import to_levels
from latpix.training.recipes.flux2_tiny import Config, build_optimizers, noised_overview, rate, train


def test_the_overview_of_a_noised_latent_is_foretold():
    generator = torch.Generator().manual_seed(0)
    latent = 0.5 + 0.8 * torch.randn(1, 128, 40, 40, generator=generator)
    noisy = 0.6 * latent + 0.4 * torch.randn(latent.shape, generator=generator)
    torch.testing.assert_close(noised_overview(overview(latent), 0.4), overview(noisy), atol=0.02, rtol=0)


def test_each_weight_has_one_optimizer_and_matrices_of_blocks_are_muons():
    network = Denoiser(find("flux2-tiny").network)
    adam, muon = build_optimizers(network, Config())
    held = [weight for optimizer in (adam, muon) for weight in optimizer.param_groups[0]["params"]]
    assert sorted(map(id, held)) == sorted(map(id, network.parameters()))
    assert all(weight.ndim > 1 for weight in muon.param_groups[0]["params"])


def test_the_rate_warms_up_by_steps_and_ends_at_zero_with_the_time():
    settings = Config(warmup_steps=10, learning_rate=1.0)
    assert rate(0, 0.0, settings) == pytest.approx(0.1)
    assert rate(100, 0.5, settings) == pytest.approx(0.5)
    assert rate(100, 1.0, settings) == pytest.approx(0.0)


@pytest.mark.slow
def test_a_stopped_run_goes_on_where_it_stood_and_leaves_a_checkpoint(tmp_path):
    torch.manual_seed(0)
    taef2 = Taef2()
    (tmp_path / "taef2").mkdir()
    torch.save(taef2.encoder.state_dict(), tmp_path / "taef2/taef2_encoder.pth")
    torch.save(taef2.decoder.state_dict(), tmp_path / "taef2/taef2_decoder.pth")
    for k, name in enumerate(("photos/cid22/a.png", "photos/clic2025/b.png")):
        (tmp_path / name).parent.mkdir(parents=True)
        levels = to_levels(dead_leaves(512, 512, seed=k)[0])
        Image.fromarray(levels.permute(1, 2, 0).numpy()).save(tmp_path / name)
    run = tmp_path / "run"
    train(tmp_path, None, run, Config(minutes=0.05, crops=1))
    first = torch.load(run / "state.pt", weights_only=True)["step"]
    train(tmp_path, None, run, Config(minutes=0.1, crops=1))
    assert torch.load(run / "state.pt", weights_only=True)["step"] > first > 0
    loaded = load(run / "flux2-tiny.safetensors")
    assert loaded.row.network == find("flux2-tiny").network
    assert all(torch.isfinite(weight).all() for weight in loaded.network.parameters())
