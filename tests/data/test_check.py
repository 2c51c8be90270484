"""What is wrong with shards is said, by shard and key; sound ones have no problem."""

import io
import shutil
import tarfile

import pytest
from small_shards import ENCODING, pack_small, write_pictures

from latpix.data.check import check
from latpix.data.shards import read_index
from latpix.errors import DataError


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    return pack_small(write_pictures(folder / "in"), folder / "out", encoding=ENCODING).output


@pytest.fixture
def shards(sound, tmp_path):
    """A copy, to damage."""
    return shutil.copytree(sound, tmp_path / "out")


def rewrite(path, change):
    """The tar with its members' bytes changed: ``change(name, data)`` gives the new bytes, or None to leave it out."""
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            new = change(name, data)
            if new is not None:
                info = tarfile.TarInfo(name)
                info.size = len(new)
                tar.addfile(info, io.BytesIO(new))


def problems(folder):
    return {(problem.shard, problem.key): problem.message for problem in check(folder).problems}


def test_sound_shards_have_no_problem_and_are_counted(sound):
    steps = []
    report = check(sound, on_step=lambda done, total, what: steps.append((done, total)))
    assert report.problems == []
    assert (report.samples, report.captioned, report.shards) == (7, 4, len(list(sound.glob("*.tar"))))
    assert sum(report.buckets.values()) == report.latents["flux1"] == 7
    assert report.bytes == sum(path.stat().st_size for path in sound.glob("*.tar"))
    assert steps[-1] == (report.shards, report.shards)


def first(folder):
    entry = read_index(folder)[0]
    return entry, folder / entry.shard


@pytest.mark.parametrize(
    ("suffix", "change", "message"),
    [
        ("png", lambda data: data[:-20] + bytes(20), "not those that were packed"),
        ("png", lambda data: None, "one picture"),
        ("json", lambda data: None, "holds latent.safetensors, png"),
        ("json", lambda data: data.replace(b"[0, 255]", b"[0, 1]"), "range"),
        ("json", lambda data: data[:-5], "damaged"),
        ("json", lambda data: data.replace(b'"width": ', b'"width": 1'), "the picture is"),
        ("json", lambda data: data.replace(b'"scale": 4', b'"scale": 2'), "expected [c, "),
        ("latent.safetensors", lambda data: None, "has a latent or lacks one"),
        ("latent.safetensors", lambda data: data[:30], "damaged"),
        ("latent.safetensors", lambda data: data.replace(b"mirrored", b"mirrorex"), "expected latent, mirrored"),
    ],
)
def test_a_damaged_part_is_told_by_its_sample(shards, suffix, change, message):
    entry, path = first(shards)
    rewrite(path, lambda name, data: change(data) if name == f"{entry.key}.{suffix}" else data)
    found = problems(shards)
    assert list(found) == [(entry.shard, entry.key)]
    assert message in found[entry.shard, entry.key]


@pytest.mark.parametrize("kept", [100, 700, 5000])
def test_a_tar_that_was_cut_off_is_told_and_the_others_are_read(shards, kept):
    entry, path = first(shards)
    path.write_bytes(path.read_bytes()[:kept])
    report = check(shards)
    assert {problem.shard for problem in report.problems} == {entry.shard}
    assert report.samples >= 7 - sum(other.shard == entry.shard for other in read_index(shards))


def test_a_tar_that_was_cut_off_between_two_samples_is_told_by_the_index(shards):
    entry = next(entry for entry in read_index(shards) if entry.key != read_index(shards)[0].key)
    path = shards / entry.shard
    keys = [other.key for other in read_index(shards) if other.shard == entry.shard]
    assert len(keys) > 1
    rewrite(path, lambda name, data: None if name.startswith(keys[-1]) else data)
    assert "not as index.jsonl says" in problems(shards)[entry.shard, ""]


def test_a_key_that_comes_twice_and_an_index_that_says_something_else(shards):
    names = sorted(path.name for path in shards.glob("*.tar"))
    shutil.copy(shards / names[0], shards / "000099.tar")
    found = problems(shards)
    assert {shard for shard, _ in found} == {"000099.tar"}
    assert any("too" in message for message in found.values())
    (shards / "000099.tar").unlink()
    lines = (shards / "index.jsonl").read_text().splitlines()
    (shards / "index.jsonl").write_text(
        "\n".join([lines[0].replace('"captions": [', '"captions": ["x", '), *lines[1:]])
    )
    assert "not as index.jsonl says" in problems(shards)[names[0], ""]
    (shards / names[0]).unlink()
    assert "missing" in problems(shards)["index.jsonl", ""]


def test_a_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no shards"):
        check(tmp_path)
