"""Pictures to shards: what is kept, what is dropped and why, and that nothing depends on interruptions."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack

import pytest
import torch
import webdataset
from filelock import FileLock
from PIL import Image
from small_shards import ENCODING, pack_small, write_pictures
from webdataset.tariterators import group_by_keys, tar_file_expander

from latpix import read_picture
from latpix.data import pack as packing_module
from latpix.data import scan as scanning
from latpix.data.ahead import decode_latents
from latpix.data.buckets import Size
from latpix.data.choose import Packing, arrange, choose
from latpix.data.pack import pack
from latpix.data.pictures import decode, fit, reduced, to_pixels
from latpix.data.shards import read_index
from latpix.data.sources import Source, find_pictures
from latpix.errors import DataError, OptionError, OutputError


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures") / "in")


@pytest.fixture(scope="module")
def shards(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards") / "out"
    pack_small(pictures, out)
    return out


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.tar"))}


def reasons(packed):
    return {dropped.source.split("/")[-1]: dropped.reason for dropped in packed.dropped}


def test_every_picture_is_a_sample_with_its_caption_and_its_own_levels(pictures, shards):
    entries = read_index(shards)
    assert sorted(entry.facts.source for entry in entries) == [f"in/{number:02d}.png" for number in range(7)]
    assert len({entry.shard for entry in entries}) > 1
    for entry in entries:
        path = pictures.parent / entry.facts.source
        number = int(path.stem)
        assert entry.facts.captions == ((f"picture {number}",) if number % 2 == 0 else ())
        assert torch.equal(to_pixels(decode(entry.read(shards, entry.picture), "it"))[None], read_picture(path))


def test_webdataset_reads_the_shards_as_its_own(shards):
    with ExitStack() as stack:  # opened here, because webdataset leaves its files open
        tars = [
            {"url": path.name, "stream": stack.enter_context(path.open("rb"))} for path in sorted(shards.glob("*.tar"))
        ]
        samples = list(webdataset.decode("rgb8")(group_by_keys(tar_file_expander(tars))))
    assert [sample["__key__"] for sample in samples] == [entry.key for entry in read_index(shards)]
    for sample in samples:
        assert (sample["json"]["range"], sample["json"]["levels"]) == ([0, 255], "uint8 RGB")
        assert sample["png"].shape == (sample["json"]["height"], sample["json"]["width"], 3)


def test_two_runs_give_the_same_bytes_in_an_order_that_the_seed_decides(pictures, shards, tmp_path):
    pack_small(pictures, tmp_path / "again")
    assert digests(tmp_path / "again") == digests(shards)
    pack_small(pictures, tmp_path / "other", packing={"seed": 1})
    assert {entry.key for entry in read_index(tmp_path / "other")} == {entry.key for entry in read_index(shards)}
    assert digests(tmp_path / "other") != digests(shards)


@pytest.mark.parametrize("finished", [0, 1, 2])
def test_a_broken_off_run_goes_on_to_the_same_shards(pictures, shards, tmp_path, monkeypatch, finished):
    written = []

    def write(path, samples):
        if len(written) == finished:
            next(iter(samples))
            raise KeyboardInterrupt
        written.append(path.name)
        whole(path, samples)

    whole = packing_module.write_shard
    with monkeypatch.context() as patch:
        patch.setattr(packing_module, "write_shard", write)
        with pytest.raises(KeyboardInterrupt):
            pack_small(pictures, tmp_path)
    assert sorted(digests(tmp_path)) == written
    with pytest.raises(DataError, match="not packed to its end" if finished else "holds no shards"):
        read_index(tmp_path)
    steps = []
    packed = pack_small(pictures, tmp_path, on_step=lambda done, total, what: steps.append((what, done, total)))
    assert packed.resumed == finished
    assert digests(tmp_path) == digests(shards)
    assert read_index(tmp_path) == read_index(shards)
    assert steps[-1] == ("pack", 7, 7)


def test_a_second_scan_reads_only_what_is_new_or_was_cut_off(pictures, tmp_path, monkeypatch):
    shutil.copytree(pictures, tmp_path / "in")
    pack_small(tmp_path / "in", tmp_path / "out")
    journal = tmp_path / "out/scan.jsonl"
    journal.write_text(journal.read_text()[:-50])  # as an interrupt leaves it
    (tmp_path / "in/02.png").write_bytes((pictures / "03.png").read_bytes())
    read = []
    whole = scanning.look_into
    monkeypatch.setattr(scanning, "look_into", lambda source: read.append(source.path.name) or whole(source))
    packed = pack_small(tmp_path / "in", tmp_path / "out", overwrite=True)
    assert sorted(read) == ["02.png", "06.png"]
    assert reasons(packed) == {"03.png": "duplicate"}  # the one with a caption stays


def test_shards_of_other_pictures_or_settings_are_not_mixed_in(pictures, shards, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(shards, out)
    with pytest.raises(OutputError, match="shards of other pictures, captions or settings"):
        pack_small(pictures, out, packing={"seed": 1})
    assert digests(out) == digests(shards)
    pack_small(pictures, out, packing={"shard_bytes": 10**6}, overwrite=True)
    assert list(digests(out)) == ["000000.tar"]
    assert len(read_index(out)) == 7


def test_what_teaches_nothing_is_dropped_counted_and_listed(tmp_path):
    folder = write_pictures(tmp_path / "in", [(192, 256)] * 3)
    with Image.open(folder / "01.png") as image:
        image.resize((128, 96), Image.Resampling.LANCZOS).save(folder / "smaller.jpg", quality=80)
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "mirrored.png")
        image.crop((0, 0, 20, 192)).save(folder / "narrow.png")
    shutil.copy(folder / "02.png", folder / "copy.png")
    (folder / "broken.png").write_bytes((folder / "00.png").read_bytes()[:3000])
    (folder / "empty.jpg").touch()
    (folder / "01.txt").write_bytes(b"\xff\xfe\xff")
    packed = pack_small(folder, tmp_path / "out", packing={"least": 24})
    assert reasons(packed) == {
        "01.png": "caption",
        "broken.png": "damaged",
        "copy.png": "duplicate",
        "empty.jpg": "damaged",
        "narrow.png": "tiny",
    }
    (folder / "01.txt").unlink()
    packed = pack_small(folder, tmp_path / "out", packing={"least": 24}, overwrite=True)
    assert packed.dropped_counts == {"damaged": 2, "tiny": 1, "duplicate": 1, "lookalike": 1}
    assert reasons(packed)["smaller.jpg"] == "lookalike"
    assert {entry.facts.source for entry in read_index(tmp_path / "out")} == {
        "in/00.png", "in/01.png", "in/02.png", "in/mirrored.png"
    }  # fmt: skip
    listed = [json.loads(line) for line in (tmp_path / "out/dropped.jsonl").read_text().splitlines()]
    assert {row["source"].split("/")[-1]: row["reason"] for row in listed} == reasons(packed)
    assert packed.pictures == packed.samples + len(packed.dropped)


def test_a_jpeg_is_stored_as_it_is_and_what_needs_care_as_a_png(tmp_path):
    folder = write_pictures(tmp_path / "in", [(96, 128)])
    with Image.open(folder / "00.png") as image:
        image.rotate(90).crop((0, 0, 96, 96)).save(folder / "plain.jpg")
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by the camera
        image.crop((32, 0, 128, 80)).save(folder / "turned.jpg", exif=exif)
        image.convert("L").save(folder / "grey.png")
    packed = pack_small(folder, tmp_path / "out")
    entries = {entry.facts.source: entry for entry in read_index(packed.output)}
    assert (
        entries["in/plain.jpg"].read(packed.output, entries["in/plain.jpg"].picture)
        == (folder / "plain.jpg").read_bytes()
    )
    for name in ("turned.jpg", "grey.png", "plain.jpg"):
        entry = entries[f"in/{name}"]
        assert entry.picture.suffix == ("jpg" if name == "plain.jpg" else "png")
        stored = to_pixels(decode(entry.read(packed.output, entry.picture), "it"))[None]
        assert torch.equal(stored, read_picture(folder / name))


def test_pictures_go_into_buckets_and_those_too_small_for_theirs_are_dropped(tmp_path):
    folder = write_pictures(tmp_path / "in", [(150, 200), (200, 150), (120, 125), (110, 110)])
    packed = pack_small(folder, tmp_path / "out", packing={"size": 128})
    assert packed.buckets == {"128x128": 3}  # 4:3 of size 128 rounds to it too
    assert reasons(packed) == {"03.png": "tiny"}
    placed = {entry.facts.source: entry.facts.placement for entry in read_index(packed.output)}
    assert placed["in/02.png"].resized == Size(133, 128)
    assert placed["in/00.png"].ratio == "4:3"


def test_latents_made_ahead_are_those_of_the_fitted_picture_and_of_its_mirror_image(tmp_path):
    folder = write_pictures(tmp_path / "in", [(150, 200), (200, 150)])
    packed = pack_small(folder, tmp_path / "out", packing={"size": 128}, encoding=ENCODING)
    for entry in read_index(packed.output):
        levels = decode(entry.read(packed.output, entry.picture), "it")
        pixels = to_pixels(fit(levels, entry.facts.placement.resized, entry.facts.placement.crop))[None]
        found = decode_latents(entry.read(packed.output, entry.latent), entry.facts.latent, "it")
        for name, whole in (("latent", pixels), ("mirrored", pixels.flip(-1))):
            expected = ENCODING.codec.encode(reduced(whole, 4))[0]
            torch.testing.assert_close(found[name].float(), expected, atol=1e-3, rtol=1e-3)
        assert not torch.allclose(found["mirrored"], found["latent"].flip(-1), atol=1e-2)


def test_a_picture_that_changes_while_it_is_packed_stops_the_run(tmp_path):
    folder = write_pictures(tmp_path / "in", [(64, 64)] * 2)

    def change(done, total, what):
        if what == "scan" and done == total:
            shutil.copy(folder / "00.png", folder / "01.png")

    with pytest.raises(DataError, match=r"01\.png\" has changed since it was scanned"):
        pack_small(folder, tmp_path / "out", on_step=change)


def test_nothing_to_pack_and_settings_without_sense_are_refused(tmp_path, pictures):
    with pytest.raises(DataError, match="none of 7 pictures can be packed"):
        pack_small(pictures, tmp_path / "out", packing={"least": 4000})
    with pytest.raises(OptionError, match="make no sense"):
        Packing(size=2048, largest=1024)
    missing = pack_small(pictures, tmp_path / "x").dropped
    assert missing == []
    with pytest.raises(DataError, match="1 damaged"):
        pack([Source(name="gone", path=tmp_path / "gone.png")], tmp_path / "y")


def test_a_shard_holds_one_sample_at_least(pictures, tmp_path):
    sources = find_pictures([pictures])
    scanned = list(scanning.scan(sources, tmp_path / "scan.jsonl"))
    packing = Packing(least=16, shard_bytes=1)
    samples, _ = choose(sources, scanned, packing)
    assert [len(members) for members in arrange(samples, packing).values()] == [1] * 7


def test_workers_scan_the_same(pictures, shards, tmp_path):
    pack_small(pictures, tmp_path, workers=2)
    assert digests(tmp_path) == digests(shards)


def test_one_process_packs_into_a_folder_at_a_time(pictures, tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(OutputError, match="another process packs"):
        pack_small(pictures, tmp_path)


def test_a_killed_run_goes_on_to_the_same_bytes_and_leaves_nothing_half_written(tmp_path):
    folder = write_pictures(tmp_path / "in", [(128, 128)] * 12)
    words = ["data", "pack", "in", "-o", "killed", "--least", "32", "--shard-size", "1B", "-q"]
    # Reports each shard and waits a little, so that the kill comes between two of them or within one.
    script = (
        "import sys, time; from latpix.data import pack; from latpix.cli.main import run; whole = pack.write_shard\n"
        "def slowly(path, samples):\n    whole(path, samples); print(path, flush=True); time.sleep(0.1)\n"
        f"pack.write_shard = slowly; sys.exit(run({words!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE) as process:
        for _ in range(3):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    packing = {"shard_bytes": 1}
    assert 3 <= len(digests(tmp_path / "killed")) < 12
    (tmp_path / "killed/.latpix-0.part").touch()
    packed = pack_small(folder, tmp_path / "killed", packing=packing)
    assert packed.resumed >= 3
    pack_small(folder, tmp_path / "unbroken", packing=packing)
    assert digests(tmp_path / "killed") == digests(tmp_path / "unbroken")
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == sorted(
        path.name for path in (tmp_path / "unbroken").iterdir()
    )
