"""The commands do what the public interface says, and say it on the right stream."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from small_decoder import write_latent, write_picture

from latpix import Decoder, read_latent, read_picture
from latpix.cli.main import COMMANDS
from latpix.files.picture_files import read_metadata

ROW = {"how", "input", "output", "height", "width", "seed", "latent_sigma", "seconds"}


@pytest.mark.parametrize(
    "words",
    [
        (),
        *((name,) for name in COMMANDS),
        *(("checkpoints", name) for name in ("list", "show", "fetch", "convert", "check")),
    ],
)
def test_every_command_has_help(latpix, words):
    answer = latpix(*words, "--help")
    assert answer.code == 0
    assert answer.out.startswith(" ".join(("Usage: latpix", *words)))


def test_help_does_not_bring_torch_in():
    script = "import sys; from latpix.cli.main import run; run(['upscale', '--help']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_upscale_gives_four_times_the_picture_and_its_path_on_stdout(latpix, small, tmp_path):
    write_picture(tmp_path / "a.png", height=40, width=50)
    answer = latpix("upscale", "a.png", "-o", "big.png", "--checkpoint", small, "--steps", 1)
    assert answer == (0, "big.png\n", "")
    assert read_picture("big.png").shape == (1, 3, 160, 200)


def test_a_sigma_sweep_in_json_is_one_line_per_output_and_nothing_else(latpix, small, tmp_path):
    write_picture(tmp_path / "a.png")
    words = ("upscale", "a.png", "-o", "out", "--checkpoint", small, "--steps", 1, "--seed", 7)
    answer = latpix(*words, "--latent-sigma", "0,0.2", "--json")
    assert answer.code == 0
    assert [set(line) for line in answer.lines] == [ROW, ROW]
    assert [line["output"] for line in answer.lines] == ["out/a_sigma0.00.png", "out/a_sigma0.20.png"]
    assert [line["latent_sigma"] for line in answer.lines] == [0.0, 0.2]
    assert {(line["input"], line["height"], line["width"], line["seed"]) for line in answer.lines} == {
        ("a.png", 128, 192, 7)
    }
    assert read_metadata("out/a_sigma0.20.png")["latent_sigma"] == 0.2


def test_some_failed_inputs_are_listed_and_the_others_are_there(latpix, small, tmp_path):
    for name in ("a", "c"):
        write_picture(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"")
    answer = latpix("upscale", ".", "gone.png", "-o", "out", "--checkpoint", small, "--steps", 1, "--json")
    assert answer.code == 3
    assert [line.get("error") for line in answer.lines] == [None, "PictureError", None, "PictureError"]
    assert set(answer.lines[1]) == {"input", "error", "message"}
    assert answer.err.splitlines()[-1] == "failed: b.png, gone.png"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]


def test_a_single_failed_input_in_json_is_a_line_and_exit_code_one(latpix, tmp_path):
    (tmp_path / "b.png").write_bytes(b"")
    answer = latpix("upscale", "b.png", "-o", "out", "--json")
    assert answer.code == 1
    assert [(line["input"], line["error"]) for line in answer.lines] == [("b.png", "PictureError")]


def test_a_manifest_sets_seed_and_name_and_a_bad_line_is_told_by_its_number(latpix, small, tmp_path):
    write_picture(tmp_path / "a.png")
    (tmp_path / "jobs.jsonl").write_text('{"image": "a.png", "seed": 3, "output": "x.webp"}\n{"image": 1}\n')
    words = ("upscale", "--manifest", "jobs.jsonl", "-o", "out", "--checkpoint", small, "--steps", 1, "--json")
    answer = latpix(*words, "--seed", 9)
    assert answer.code == 3
    assert [line.get("seed") for line in answer.lines] == [3, None]
    assert answer.lines[0]["output"] == "out/x.webp"
    assert (answer.lines[1]["input"], answer.lines[1]["error"]) == ("jobs.jsonl:2", "ManifestError")


def test_decode_gives_what_python_gives(latpix, small, tmp_path):
    file = write_latent(tmp_path / "two.safetensors", batch=2, latent_sigma=0.1)
    answer = latpix(
        "decode", "two.safetensors", "-o", "out", "--checkpoint", small, "--steps", 2, "--seed", 5, "--batch", 2
    )
    assert answer.out.splitlines() == ["out/two_00.png", "out/two_01.png"]
    pixels = Decoder.load(small).decode(read_latent(file), seed=5, steps=2)
    for picture, path in zip(pixels, answer.out.splitlines(), strict=True):
        assert torch.equal(((picture + 1) * 127.5).round(), ((read_picture(path)[0] + 1) * 127.5).round())


def test_decode_takes_another_sigma_size_and_format(latpix, small, tmp_path):
    write_latent(tmp_path / "a.safetensors", latent_sigma=0.1)
    words = ("decode", "a.safetensors", "-o", "out", "--checkpoint", small, "--steps", 1, "--json")
    (line,) = latpix(*words, "--latent-sigma", 0.3, "--size", "100x60", "--format", "jpg").lines
    assert (line["output"], line["height"], line["width"], line["latent_sigma"]) == ("out/a.jpg", 60, 100, 0.3)
    assert read_picture("out/a.jpg").shape == (1, 3, 60, 100)


def test_encode_gives_a_latent_file_that_decodes_to_its_pictures_size(latpix, small, tmp_path):
    write_picture(tmp_path / "a.png", height=40, width=50)
    answer = latpix("encode", "a.png", "-o", "out", "--space", "flux2", "--caption", "leaves", "--seed", 4, "--json")
    (line,) = answer.lines
    assert (line["output"], line["height"], line["width"], line["seed"]) == ("out/a.safetensors", 40, 50, 4)
    assert read_latent("out/a.safetensors").caption == "leaves"
    (line,) = latpix("decode", "out", "-o", "big", "--checkpoint", small, "--steps", 1, "--json").lines
    assert (line["height"], line["width"], line["seed"]) == (160, 200, 4)


def test_existing_outputs_are_kept_or_replaced_as_asked(latpix, small, tmp_path):
    for name in ("a", "b"):
        write_latent(tmp_path / f"{name}.safetensors")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.png").write_text("old")
    words = ("decode", "a.safetensors", "b.safetensors", "-o", "out", "--checkpoint", small, "--steps", 1)
    assert latpix(*words).code == 1
    assert latpix(*words, "--skip-existing").out == "out/b.png\n"
    assert (tmp_path / "out/a.png").read_text() == "old"
    assert latpix(*words, "--skip-existing").code == 0
    assert latpix(*words, "--overwrite").out == "out/a.png\nout/b.png\n"
    assert read_picture("out/a.png").shape == (1, 3, 128, 192)


def test_a_dry_run_says_what_would_come_and_makes_nothing(latpix, small, tmp_path):
    write_picture(tmp_path / "a.png")
    answer = latpix("upscale", "a.png", "-o", "out", "--checkpoint", small, "--dry-run", "--json")
    (line,) = answer.lines
    assert set(line) == ROW | {"dry_run"}
    assert (line["output"], line["height"], line["width"]) == ("out/a.png", 128, 192)
    assert not (tmp_path / "out").exists()


def test_a_caption_that_is_not_read_is_noted_unless_quiet(latpix, small, tmp_path):
    write_latent(tmp_path / "a.safetensors")
    words = ("decode", "a.safetensors", "--checkpoint", small, "--steps", 1, "--caption", "a cat")
    assert "reads no caption" in latpix(*words, "-o", "a.png").err
    assert latpix(*words, "-o", "b.png", "-q").err == ""
    assert read_metadata("b.png")["caption"] == "a cat"


@pytest.mark.parametrize(("rank", "made"), [("0", ["0.png", "2.png"]), ("1", ["1.png"])])
def test_a_rank_of_torchrun_makes_its_share(latpix, small, tmp_path, monkeypatch, rank, made):
    for number in range(3):
        write_latent(tmp_path / f"{number}.safetensors")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    assert latpix("decode", ".", "-o", "out", "--checkpoint", small, "--steps", 1).code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == made


def test_verify_says_how_a_picture_was_made_and_that_it_comes_out_again(latpix, small, tmp_path):
    write_picture(tmp_path / "a.png")
    latpix("upscale", "a.png", "-o", "big.png", "--checkpoint", small, "--seed", 3, "--steps", 1, "--latent-sigma", 0.2)
    answer = latpix("verify", "big.png", "--checkpoint", small, "--json")
    assert answer.code == 0
    (document,) = answer.lines
    assert document["made_by"].startswith("latpix ")
    assert (document["checkpoint"], document["seed"], document["same_bits"]) == ("small", 3, True)
    assert len(document["sha256"]) == 64
    assert "the same bits came out again" in latpix("verify", "big.png", "--checkpoint", small).out
    (tmp_path / "a.png").unlink()
    answer = latpix("verify", "big.png", "--checkpoint", small, "--json")
    assert (answer.code, answer.lines[0]["same_bits"]) == (1, None)


def test_the_registry_is_listed_and_shown(latpix):
    (rows,) = latpix("checkpoints", "list", "--json").lines
    keys = {"name", "space", "scale", "parameters", "version", "upstream_path", "license", "native_sizes"}
    assert all(keys <= set(row) for row in rows)
    assert {"flux2-tiny", "flux1-2k", "flux2-2kto4k-2606"} <= {row["name"] for row in rows}
    (row,) = latpix("checkpoints", "show", "flux2-tiny", "--json").lines
    assert row["tensors"]["final_layer.linear.weight"][1] > 0
    assert not any(name.startswith("net.") for name in row["tensors"])
    assert "flux2-tiny" in latpix("checkpoints", "list").out
    assert "final_layer.linear.weight" in latpix("checkpoints", "show", "flux2-tiny").out


def test_a_weight_file_is_checked_shown_and_converted(latpix, small):
    (report,) = latpix("checkpoints", "check", small, "--json").lines
    assert report["parameters"] > 0
    assert len(report["sha256"]) == 64
    assert report["peak_bytes"] > 0
    (shown,) = latpix("checkpoints", "show", small, "--json").lines
    assert shown["sha256"] == report["sha256"]
    answer = latpix("checkpoints", "convert", small, "-o", "upstream.pth")
    assert (answer.code, answer.out) == (0, "upstream.pth\n")
    assert latpix("checkpoints", "convert", small, "-o", "upstream.pth").code == 1


def test_fetch_without_a_network_says_the_manual_way(latpix):
    answer = latpix("checkpoints", "fetch", "flux1-2k")
    assert answer.code == 1
    assert "DownloadError" in answer.err
    assert "latpix checkpoints convert" in answer.err


def test_an_interrupt_keeps_what_was_finished(small, tmp_path):
    for number in range(60):
        write_latent(tmp_path / f"{number:02}.safetensors")
    words = ("decode", ".", "-o", "out", "--checkpoint", small, "--steps", "1", "--json")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "latpix", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        # A shell's background job hands an ignored interrupt down to its children; a person's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    first = json.loads(process.stdout.readline())
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "interrupted; what was finished is there."
    reported = [first["output"], *(json.loads(line)["output"] for line in out.splitlines())]
    assert 1 <= len(reported) < 60
    assert sorted(reported) == sorted(f"out/{path.name}" for path in (tmp_path / "out").iterdir())
    for path in reported:
        assert read_picture(tmp_path / path).shape == (1, 3, 128, 192)


def test_a_file_of_no_row_is_told_what_it_lacks(latpix, tmp_path):
    from safetensors.torch import save_file

    save_file(
        {"net.s_embedder.proj.weight": torch.zeros(4, 3, 2, 2), "net.x": torch.zeros(2)}, tmp_path / "a.safetensors"
    )
    answer = latpix("checkpoints", "check", "a.safetensors", "--json")
    assert answer.code == 1
    assert answer.lines[0]["fits"] == []
    assert "x" in answer.lines[0]["strange"]
    assert answer.err == "CheckpointError: a.safetensors fits no row of the registry.\n"


def test_a_name_that_is_no_text_is_worked_on_and_written_down(latpix, small, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    write_picture(tmp_path / name)
    answer = latpix("upscale", name, "-o", "out", "--checkpoint", small, "--steps", 1, "--json")
    assert answer.code == 0
    assert answer.lines[0]["input"] == name
    assert read_metadata(tmp_path / "out" / name)["source"]["path"] == "caf\ufffd.png"
