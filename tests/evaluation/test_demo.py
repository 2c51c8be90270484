"""The demo, from small material: what is made, measured, and not made twice."""

import json
from dataclasses import replace

import pytest
import torch
from made_pictures import dead_leaves
from small_decoder import write_checkpoint

from latpix import Codec, Decoder, Latent, read_picture, resources, save_latent, save_picture
from latpix.batching.remake import remake
from latpix.cli.main import run
from latpix.evaluation import demo as module
from latpix.evaluation.demo import make_demo, table
from latpix.evaluation.pictures import shrink

PICTURES = {
    "from_latent_plain.png",
    "from_photograph_plain.png",
    "photograph_lanczos.png",
    "from_latent_4x.png",
    "from_photograph_4x.png",
}


@pytest.fixture(scope="module")
def codec():
    return Codec.load(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "small.safetensors")


@pytest.fixture
def material(tmp_path, monkeypatch, codec):
    """The demo's three files at an eighth of their size."""
    (tmp_path / "demo").mkdir()
    monkeypatch.setattr(resources, "asset", lambda name: tmp_path / name)
    original = dead_leaves(256, 256)
    save_picture(original, tmp_path / "demo/dandelion_2048.jpg")
    save_picture(shrink(original), tmp_path / "demo/dandelion.png")
    latent = codec.encode(read_picture(tmp_path / "demo/dandelion.png"))
    save_latent(Latent(tensor=latent, space="flux2"), tmp_path / "demo/dandelion.safetensors")


def test_the_demo_makes_pictures_that_can_be_verified_and_a_table_of_true_figures(tmp_path, material, codec, small):
    decoder = Decoder.load(small, device="cpu", dtype="float32")
    made = make_demo(tmp_path / "out", decoder=decoder, codec=codec)
    assert made.fresh
    assert {row.file for row in made.rows} == PICTURES
    assert PICTURES | {"side_by_side.png", "fidelity.md", "fidelity.json"} <= {
        path.name for path in made.folder.iterdir()
    }
    rows = {row.file: row for row in made.rows}
    plain = rows["photograph_lanczos.png"]
    assert plain.psnr_shrunk > 30 > rows["from_latent_4x.png"].psnr_shrunk  # random weights paint something else
    assert plain.mean_colour < 1
    assert plain.feature < rows["from_latent_4x.png"].feature
    assert all(f"| {row.made} | {row.psnr:.2f} |" in table(made.rows) for row in made.rows)
    assert read_picture(made.folder / "from_latent_4x.png").shape == (1, 3, 256, 256)
    for name in ("from_latent_4x.png", "from_photograph_4x.png"):
        assert remake(made.folder / name, checkpoint=small, device="cpu").same_bits

    before = (made.folder / "from_latent_4x.png").stat().st_mtime_ns
    second = make_demo(made.folder, decoder=decoder, codec=codec)
    assert (second.fresh, second.rows) == (False, made.rows)
    assert (made.folder / "from_latent_4x.png").stat().st_mtime_ns == before
    assert module.made_before(made.folder, {"sha256": decoder.sha256}) == made.rows
    assert module.made_before(made.folder, {"sha256": "of other weights"}) == []
    (made.folder / "side_by_side.png").unlink()
    assert module.made_before(made.folder, {"sha256": decoder.sha256}) == []


def test_the_table_does_without_the_extra(monkeypatch):
    row = module.Fidelity(
        file="a.png", made="a", psnr=30.0, ssim=0.9, feature=None, structure_texture=None, psnr_shrunk=40.0,
        mean_colour=0.1, seconds=1.0,
    )  # fmt: skip
    assert "| a | 30.00 | 0.9000 | - | - | 40.00 | 0.10 | 1.0 |" in table([row])
    assert "0.2500" in table([replace(row, feature=0.25)])


def test_the_command_prints_the_table_and_where_things_are(tmp_path, material, monkeypatch, capsys, small):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("latpix.Decoder", type("Small", (Decoder,), {"load": lambda *_, **o: Decoder.load(small, **o)}))
    assert run(["demo", "-o", "out", "--device", "cpu"]) == 0
    out, _ = capsys.readouterr()
    assert "| latent, latpix |" in out
    assert "out/side_by_side.png" in out.splitlines()
    assert run(["demo", "-o", "out", "--device", "cpu", "--json"]) == 0
    assert {row["file"] for row in json.loads(capsys.readouterr().out)["fidelity"]} == PICTURES


def test_the_shipped_material_is_one_photograph_at_two_sizes_and_its_latent():
    whole = read_picture(resources.asset("demo/dandelion_2048.jpg"))
    small = read_picture(resources.asset("demo/dandelion.png"))
    assert whole.shape[-2:] == (2048, 2048)
    assert (shrink(whole) - small).abs().max() < 3 / 127.5
    from latpix import read_latent

    assert read_latent(resources.asset("demo/dandelion.safetensors")).tensor.shape == (1, 128, 32, 32)
    assert torch.isfinite(small).all()
