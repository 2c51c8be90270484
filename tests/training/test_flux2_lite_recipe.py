"""The recipe: its learning rate, its losses, and that a stopped run goes on."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from latpix.backbones.lite import Lite
from latpix.backbones.lite_file import load_lite
from latpix.backbones.taef2 import Taef2
from latpix.training.recipes.flux2_lite import Config, absolute, build_optimizers, rate, train


@pytest.fixture
def assets(tmp_path):
    torch.manual_seed(0)
    taef2 = Taef2()
    (tmp_path / "taef2").mkdir()
    torch.save(taef2.encoder.state_dict(), tmp_path / "taef2/taef2_encoder.pth")
    torch.save(taef2.decoder.state_dict(), tmp_path / "taef2/taef2_decoder.pth")
    generator = np.random.default_rng(0)
    for name in ("photos/cid22/a.png", "photos/clic2025/b.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(generator.integers(0, 255, (48, 48, 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def test_the_rate_warms_up_by_steps_and_ends_at_zero_with_the_time():
    settings = Config(warmup_steps=10, learning_rate=1.0)
    assert rate(0, 0.0, settings) == pytest.approx(0.1)
    assert rate(100, 0.0, settings) == pytest.approx(1.0)
    assert rate(100, 0.5, settings) == pytest.approx(0.5)
    assert rate(100, 1.0, settings) == pytest.approx(0.0)


def test_what_lies_outside_does_not_count():
    error, inside = torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)
    error[..., 0], inside[..., 1:] = 100.0, 1.0
    assert absolute(error, inside).item() == pytest.approx(0.01)
    assert absolute(error + 1, inside).item() == pytest.approx(1.0, abs=1e-3)


def test_each_weight_has_one_optimizer():
    model = Lite()
    held = [weight for optimizer in build_optimizers(model, Config()) for weight in optimizer.param_groups[0]["params"]]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))


@pytest.mark.slow
def test_a_stopped_run_goes_on_where_it_stood_and_leaves_a_codec(assets, tmp_path):
    run = tmp_path / "run"
    small = {"crops": 1, "own_crops": 1, "side": 2, "margin": 0, "first_pictures": 2, "taef2_from": 0.0}
    train(assets, None, run, Config(minutes=0.05, **small))
    first = torch.load(run / "state.pt", weights_only=True)["step"]
    train(assets, None, run, Config(minutes=0.1, **small))
    assert torch.load(run / "state.pt", weights_only=True)["step"] > first > 0
    model, _ = load_lite(run / "flux2-lite.safetensors")
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    assert json.loads((run / "config.json").read_text())["side"] == 2
