"""``latpix data``: packed, checked, refused, and said on the right stream."""

import json
import subprocess
import sys

import pytest
from small_shards import write_pictures

from latpix import Codec
from latpix.data.shards import read_index


@pytest.fixture
def pictures(tmp_path):
    folder = write_pictures(tmp_path / "in")
    (folder / "broken.png").write_bytes((folder / "00.png").read_bytes()[:2000])
    return folder


def test_pack_and_check_in_json_are_one_document_each(latpix, pictures):
    words = ("data", "pack", "in", "-o", "shards", "--least", 32, "--json")
    (packed,) = latpix(*words).lines
    assert (packed["output"], packed["pictures"], packed["samples"], packed["captioned"]) == ("shards", 8, 7, 4)
    assert packed["dropped"] == {"damaged": 1}
    assert packed["dropped_pictures"][0]["source"] == "in/broken.png"
    assert sum(packed["buckets"].values()) == 7
    (again,) = latpix(*words).lines
    assert (again["resumed"], again["samples"]) == (1, 7)
    answer = latpix("data", "check", "shards", "--json")
    (report,) = answer.lines
    assert (answer.code, report["ok"], report["samples"], report["problems"]) == (0, True, 7, [])


def test_people_get_the_folder_on_stdout_and_what_was_dropped_on_stderr(latpix, pictures):
    answer = latpix("data", "pack", "in", "-o", "shards", "--least", 32, "-v")
    assert (answer.code, answer.out) == (0, "shards\n")
    assert "7 samples (4 with a caption) in 1 shards" in answer.err
    assert "dropped: 1 damaged; see shards/dropped.jsonl" in answer.err
    assert "in/broken.png: damaged" in answer.err
    assert latpix("data", "pack", "in", "-o", "quiet", "--least", 32, "-q").err == ""
    assert "7 sound samples (4 with a caption)" in latpix("data", "check", "shards").out


def test_a_manifest_gives_captions_and_its_bad_line_is_told_by_its_number(latpix, pictures):
    lines = [{"image": "in/01.png", "caption": "leaves"}, {"image": 3}, {"image": "in/03.png"}]
    (pictures.parent / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    answer = latpix("data", "pack", "--manifest", "list.jsonl", "-o", "shards", "--least", 32, "--json")
    assert answer.code == 3
    assert answer.lines[0]["dropped"] == {"manifest": 1}
    assert answer.lines[0]["dropped_pictures"][0]["source"] == "list.jsonl:2"
    captions = {entry.facts.source: entry.facts.captions for entry in read_index("shards")}
    assert captions == {"in/01.png": ("leaves",), "in/03.png": ()}


def test_buckets_and_latents_ahead(latpix, tmp_path):
    write_pictures(tmp_path / "in", [(150, 200), (200, 150), (90, 90)])
    answer = latpix(
        "data", "pack", "in", "-o", "shards", "--buckets", 128, "--least", 32, "--encode", "flux2", "--json"
    )
    assert answer.lines[0]["buckets"] == {"128x128": 2}
    assert answer.lines[0]["dropped"] == {"tiny": 1}
    facts = read_index("shards")[0].facts.latent
    assert (facts.space, facts.scale, facts.downsample, facts.mirrored) == ("flux2", 4, 16, False)
    assert facts.codec_sha256 == Codec.load("flux2-lite").sha256
    assert latpix("data", "check", "shards", "--json").lines[0]["latents"] == {"flux2": 2}


def test_a_damaged_shard_is_told_and_the_exit_code_is_one(latpix, pictures):
    latpix("data", "pack", "in", "-o", "shards", "--least", 32)
    path = pictures.parent / "shards/000000.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    answer = latpix("data", "check", "shards")
    assert answer.code == 1
    assert "000000.tar" in answer.err
    assert latpix("data", "check", "shards", "--json").lines[0]["ok"] is False


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("pack", "-o", "out"), 2, "nothing to pack"),
        (("pack", "gone", "-o", "out"), 2, "does not exist"),
        (("pack", "in", "-o", "out", "--buckets", "big"), 2, "not a size"),
        (("pack", "in", "-o", "out", "--buckets", "512-256"), 1, "smaller one first"),
        (("pack", "in", "-o", "out", "--mirrored"), 2, "add --encode"),
        (("pack", "in", "-o", "out", "--shard-size", "huge"), 1, "not a memory size"),
        (("check", "in"), 1, "holds no shards"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(refused, pictures, words, code, message):
    assert message in refused("data", *words, code=code)


def test_other_settings_in_the_same_folder_are_refused_unless_overwritten(latpix, pictures):
    words = ("data", "pack", "in", "-o", "shards", "--least", 32)
    latpix(*words)
    answer = latpix(*words, "--shuffle-seed", 4)
    assert (answer.code, answer.out) == (1, "")
    assert "ask for overwriting" in answer.err
    assert latpix(*words, "--shuffle-seed", 4, "--overwrite").code == 0


@pytest.mark.parametrize("command", ["pack", "check"])
def test_help_of_each_command_does_not_bring_torch_in(command):
    script = (
        f"import sys; from latpix.cli.main import run; code = run(['data', '{command}', '--help']); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
