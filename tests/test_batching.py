"""Many inputs: what is found, how outputs are named, that a batch is as good as one by one, what happens on errors."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_decoder import write_checkpoint, write_latent, write_picture

from latpix import Codec, Decoder, LatpixError, read_latent, read_picture, save_picture
from latpix.batching import outlook
from latpix.batching.inputs import Failure, Item, find_inputs, read_manifest
from latpix.batching.outputs import Result, plan_work
from latpix.batching.paint import group_tasks, renoise, slots
from latpix.batching.painting import Painting
from latpix.batching.remake import remake
from latpix.batching.run import decode, encode, upscale
from latpix.distributed import Ranks, ranks_of_torchrun
from latpix.errors import (
    LatentError,
    ManifestError,
    MemoryLimitError,
    OptionError,
    OutputError,
    PictureError,
    UsageError,
)
from latpix.files.picture_files import picture_info, read_metadata
from latpix.fitting import Fitting
from latpix.network.pieces import Pieces
from latpix.network.pixel_block import PixelBlock
from latpix.plan import Lever, Setting

pytestmark = pytest.mark.filterwarnings("error")
ONE_STEP = Painting(steps=1)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    file = write_checkpoint(tmp_path_factory.mktemp("weights") / "small.safetensors")
    return Decoder.load(file, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def codec():
    return Codec.load(device="cpu", dtype="float32")


def found(*paths, kind="latent"):
    return find_inputs(paths, kind)


def names(outputs):
    return [output.path.name for output in outputs]


# What to work on


def test_a_folder_gives_its_own_files_of_the_kind_sorted(tmp_path):
    for name in ("b.png", "a.JPG", "note.txt", ".hidden.png", "deep/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [item.path.name for item in found(tmp_path, kind="picture")] == ["a.JPG", "b.png"]


def test_a_glob_gives_what_it_matches_and_a_file_with_brackets_in_its_name_is_itself(tmp_path):
    for name in ("a.png", "b.png", "c[1].png", "c1.png"):
        (tmp_path / name).touch()
    assert [item.path.name for item in found(tmp_path / "?.png", kind="picture")] == ["a.png", "b.png"]
    assert [item.path.name for item in found(tmp_path / "c[1].png", kind="picture")] == ["c[1].png"]


@pytest.mark.parametrize("missing", ["nowhere", "nowhere/", "*.png", "."])
def test_a_missing_or_empty_folder_and_a_glob_without_matches_are_wrong_usage(tmp_path, monkeypatch, missing):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        found(missing, kind="picture")


def test_a_missing_file_fails_when_its_turn_comes(tmp_path):
    work = plan_work(found(tmp_path / "gone.png", kind="picture"), tmp_path / "out", reads="picture")
    assert isinstance(work.failures[0].error, PictureError)


def test_a_manifest_gives_items_relative_to_itself_and_failures_named_by_line(tmp_path):
    lines = [
        '{"image": "a.png", "caption": "a cat", "seed": 3, "output": "x.png"}',
        "",
        "not json",
        '{"latent": "b.safetensors"}',
        '{"image": "c.png", "sead": 3}',
        '{"image": "d.png", "seed": "3"}',
        '{"image": "e.png", "seed": null}',
        '{"image": null}',
        "[1]",
    ]
    file = tmp_path / "jobs.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    first, *others = read_manifest(file, "picture")
    assert first == Item(name="a.png", path=tmp_path / "a.png", caption="a cat", seed=3, output="x.png")
    assert [other.input for other in others if isinstance(other, Failure)] == [
        f"{file}:{n}" for n in (3, 4, 5, 6, 8, 9)
    ]
    assert "'sead'" in str(others[2].error)
    assert [other.path.name for other in others if isinstance(other, Item)] == ["e.png"]


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00", None], ids=["empty", "blank", "binary", "missing"])
def test_a_manifest_without_lines_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "jobs.jsonl").write_bytes(content)
    with pytest.raises(ManifestError):
        read_manifest(tmp_path / "jobs.jsonl", "picture")


# Where results go


def test_outputs_are_named_after_inputs_with_numbers_and_sigmas_where_there_are_several(tmp_path):
    one, two = write_latent(tmp_path / "one.safetensors"), write_latent(tmp_path / "two.safetensors", batch=2)
    work = plan_work(found(one, two), tmp_path / "out", reads="latent", suffix=".webp")
    assert [names(job.outputs) for job in work.jobs] == [["one.webp"], ["two_00.webp", "two_01.webp"]]
    work = plan_work(found(one), tmp_path / "out", reads="latent", latent_sigmas=(0, 0.2))
    assert names(work.jobs[0].outputs) == ["one_sigma0.00.png", "one_sigma0.20.png"]
    work = plan_work(found(one), tmp_path / "out", reads="latent", latent_sigmas=(0.2,))
    assert names(work.jobs[0].outputs) == ["one.png"]
    work = plan_work(found(two), tmp_path / "out", reads="latent", latent_sigmas=(0, 0.2))
    assert names(work.jobs[0].outputs)[1:3] == ["two_00_sigma0.20.png", "two_01_sigma0.00.png"]


def test_a_known_suffix_is_a_file_and_anything_that_exists_as_a_folder_is_a_folder(tmp_path):
    one = found(write_latent(tmp_path / "one.safetensors"))
    assert plan_work(one, tmp_path / "x.jpg", reads="latent").jobs[0].outputs[0].path == tmp_path / "x.jpg"
    (tmp_path / "run.2").mkdir()
    assert plan_work(one, tmp_path / "run.2", reads="latent").jobs[0].outputs[0].path == tmp_path / "run.2/one.png"


@pytest.mark.parametrize(
    ("out", "options", "error"),
    [
        ("out.gif", {}, OutputError),
        ("nowhere/out.png", {}, OutputError),
        ("out.png", {"latent_sigmas": (0, 0.2)}, UsageError),
        ("out.png", {"suffix": ".jpg"}, UsageError),
        ("one.safetensors/out", {}, OutputError),
        ("there.png", {}, OutputError),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_any_work(tmp_path, out, options, error):
    one = found(write_latent(tmp_path / "one.safetensors"))
    (tmp_path / "there.png").touch()
    with pytest.raises(error):
        plan_work(one, tmp_path / out, reads="latent", **options)


def test_a_jpg_may_be_called_jpeg(tmp_path):
    one = found(write_latent(tmp_path / "one.safetensors"))
    assert plan_work(one, tmp_path / "x.jpeg", reads="latent", suffix=".jpg").outputs == 1


def test_two_inputs_never_become_one_output(tmp_path):
    (tmp_path / "more").mkdir()
    both = found(write_latent(tmp_path / "one.safetensors"), write_latent(tmp_path / "more/one.safetensors"))
    with pytest.raises(UsageError, match="would both become"):
        plan_work(both, tmp_path / "out", reads="latent")


def test_an_output_never_replaces_an_input(tmp_path):
    picture = found(write_picture(tmp_path / "a.png"), kind="picture")
    with pytest.raises(OutputError, match="one of the inputs"):
        plan_work(picture, tmp_path, reads="picture", existing="overwrite")


def test_existing_outputs_are_refused_replaced_or_left_out(tmp_path):
    one = found(write_latent(tmp_path / "one.safetensors"))
    (tmp_path / "one_sigma0.20.png").touch()
    options = {"reads": "latent", "latent_sigmas": (0, 0.2)}
    with pytest.raises(OutputError, match="exists already"):
        plan_work(one, tmp_path, **options)
    assert plan_work(one, tmp_path, existing="overwrite", **options).outputs == 2
    work = plan_work(one, tmp_path, existing="skip", **options)
    assert names(work.jobs[0].outputs) == ["one_sigma0.00.png"]
    assert [path.name for path in work.skipped] == ["one_sigma0.20.png"]


def test_a_manifest_names_outputs_itself(tmp_path):
    write_latent(tmp_path / "one.safetensors")
    names_asked = {"x.jpg": "x.jpg", "deep/y": "deep/y.png"}
    for asked, expected in names_asked.items():
        item = Item(name="one", path=tmp_path / "one.safetensors", output=asked)
        work = plan_work([item], tmp_path / "out", reads="latent")
        assert work.jobs[0].outputs[0].path == tmp_path / "out" / expected
    bad = replace(item, output="z.gif")
    assert isinstance(plan_work([bad, item], tmp_path / "out", reads="latent").failures[0].error, OutputError)


# Sharing


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_ranks_share_every_item_exactly_once(size):
    shares = [Ranks(rank=rank, size=size).share(range(5)) for rank in range(size)]
    assert sorted(item for share in shares for item in share) == list(range(5))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_each_rank_gets_its_part_of_every_kind():
    items = ["large 0", "small 0", "large 1", "small 1", "small 2", "large 2"]
    shares = [Ranks(rank=rank, size=2).share(items, lambda item: item.split()[0]) for rank in range(2)]
    assert shares == [["large 0", "small 1", "large 2"], ["small 0", "large 1", "small 2"]]


def test_ranks_come_from_torchrun_and_must_make_sense(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert ranks_of_torchrun() == Ranks()
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert ranks_of_torchrun() == Ranks(rank=3, size=4)
    for bad in ("4", "-1", "x"):
        monkeypatch.setenv("RANK", bad)
        with pytest.raises(UsageError, match="WORLD_SIZE=4"):
            ranks_of_torchrun()


def test_a_rank_plans_its_share_and_minds_only_its_own_outputs(tmp_path):
    items = [Item(name=str(n), path=write_latent(tmp_path / f"{n}.safetensors")) for n in range(3)]
    (tmp_path / "0.png").touch()  # another rank has begun
    work = plan_work(items, tmp_path, reads="latent", ranks=Ranks(rank=1, size=2))
    assert [job.item.name for job in work.jobs] == ["1"]
    assert work.inputs == 3


@pytest.mark.parametrize(("pictures", "size", "together"), [(8, 4, False), (3, 2, False), (3, 4, True)])
def test_pictures_of_one_file_are_shared_and_made_together_where_there_are_too_few(tmp_path, pictures, size, together):
    items = [Item(name="many", path=write_latent(tmp_path / "many.safetensors", batch=pictures))]
    works = [
        plan_work(items, tmp_path, reads="latent", ranks=Ranks(rank=rank, size=size), may_team=True)
        for rank in range(size)
    ]
    assert {work.together for work in works} == {together}
    assert all(len(work.jobs) == 1 for work in works)
    shares = [[output.index for output in work.jobs[0].outputs] for work in works]
    whole = list(range(pictures))
    assert (
        all(share == whole for share in shares) if together else sorted(k for share in shares for k in share) == whole
    )


# The work


def test_outputs_are_grouped_by_shape_and_groups_come_in_the_order_of_their_first(tmp_path):
    shapes = [(2, 3), (3, 2), (2, 3), (2, 3), (3, 2)]
    paths = [write_latent(tmp_path / f"{n}.safetensors", height=h, width=w) for n, (h, w) in enumerate(shapes)]
    tasks = list(slots(plan_work(found(*paths), tmp_path, reads="latent")))
    groups = group_tasks(tasks, 2, lambda task: task.job.measure.shape)
    assert [[task.place for task in group] for group in groups] == [[0, 2], [1, 4], [3]]


def test_a_batch_gives_the_same_bits_as_one_by_one_in_the_order_of_the_inputs(tmp_path, decoder):
    shapes = [(1, 2, 3), (1, 3, 2), (2, 2, 3), (1, 2, 3)]
    paths = [
        write_latent(tmp_path / f"{n}.safetensors", batch=b, height=h, width=w, seed=n, latent_sigma=0.1 * n)
        for n, (b, h, w) in enumerate(shapes)
    ]
    rows = {}
    for batch in (1, 3):
        work = plan_work(found(*paths), tmp_path / str(batch), reads="latent")
        rows[batch] = list(decode(work, decoder=decoder, painting=replace(ONE_STEP, seed=5), batch=batch))
        assert [row.output.name for row in rows[batch]] == ["0.png", "1.png", "2_00.png", "2_01.png", "3.png"]
        assert [row.seed for row in rows[batch]] == [5, 5, 5, 6, 5]
        assert [row.latent_sigma for row in rows[batch]] == [0.0, 0.1, 0.2, 0.2, pytest.approx(0.3)]
    for alone, together in zip(rows[1], rows[3], strict=True):
        assert torch.equal(read_picture(alone.output), read_picture(together.output))


def test_upscaling_is_encoding_and_decoding_to_the_bit(tmp_path, decoder, codec):
    picture = write_picture(tmp_path / "a.png", height=40, width=50)
    (direct,) = upscale(
        plan_work(found(picture, kind="picture"), tmp_path / "direct.png", reads="picture"),
        decoder=decoder,
        codec=codec,
        painting=replace(ONE_STEP, seed=3),
    )
    work = plan_work(found(picture, kind="picture"), tmp_path / "a.safetensors", reads="picture", writes="latent")
    (encoded,) = encode(work, codec=codec, seed=3)
    (decoded,) = decode(
        plan_work(found(encoded.output), tmp_path / "b.png", reads="latent"), decoder=decoder, painting=ONE_STEP
    )
    assert (direct.height, direct.width) == (decoded.height, decoded.width) == (160, 200)
    assert torch.equal(read_picture(direct.output), read_picture(decoded.output))


def test_a_sigma_noises_the_latent_of_a_picture_with_the_seeds_own_noise(tmp_path):
    latent = read_latent(write_latent(tmp_path / "a.safetensors", height=20, width=20))
    noised = renoise(latent, latent_sigma=0.4, seed=1)
    assert noised.latent_sigma == 0.4
    noise = (noised.tensor - 0.6 * latent.tensor) / 0.4
    assert abs(float(noise.std()) - 1) < 0.02
    assert torch.equal(noised.tensor, renoise(latent, latent_sigma=0.4, seed=1).tensor)
    assert not torch.equal(noised.tensor, renoise(latent, latent_sigma=0.4, seed=2).tensor)
    assert torch.equal(renoise(latent, latent_sigma=0.0, seed=1).tensor, latent.tensor)


def test_the_seed_and_caption_of_a_manifest_come_before_the_options_and_these_before_the_latents_own(tmp_path, decoder):
    path = write_latent(tmp_path / "a.safetensors", seed=1, caption="its own")
    latent = replace(read_latent(path), seed=9)
    own = Item(name="own", path=path)
    asked = Item(name="asked", path=path, seed=2, caption="asked", output="asked")
    for painting, expected in ((ONE_STEP, (0, "its own")), (replace(ONE_STEP, seed=4, caption="given"), (4, "given"))):
        work = plan_work([own, asked], tmp_path / str(expected[0]), reads="latent")
        first, second = (read_metadata(row.output) for row in decode(work, decoder=decoder, painting=painting))
        assert (first["seed"], first["caption"]) == expected
        assert (second["seed"], second["caption"]) == (2, "asked")
    assert latent.seed == 9


def test_a_bad_input_is_a_row_in_its_place_and_the_others_are_made(tmp_path, decoder):
    paths = [write_latent(tmp_path / f"{n}.safetensors", seed=n) for n in range(3)]
    paths[1].write_bytes(b"not a latent")
    loud = tmp_path / "loud.npy"
    import numpy as np

    np.save(loud, 10 * np.random.default_rng(0).standard_normal((1, 128, 2, 3), dtype=np.float32))
    work = plan_work(found(*paths, loud), tmp_path / "out", reads="latent", space="flux2")
    rows = list(decode(work, decoder=decoder, painting=ONE_STEP, batch=4))
    assert [type(row) for row in rows] == [Result, Failure, Result, Failure]
    assert [type(row.error) for row in rows[1::2]] == [LatentError, LatentError]
    assert rows[2].output.exists()


def test_one_too_noisy_latent_does_not_spoil_its_batch(tmp_path, decoder):
    paths = [
        write_latent(tmp_path / f"{n}.safetensors", latent_sigma=sigma) for n, sigma in enumerate((0.0, 0.95, 0.1))
    ]
    work = plan_work(found(*paths), tmp_path / "out", reads="latent")
    rows = list(decode(work, decoder=decoder, painting=ONE_STEP, batch=3))
    assert [type(row) for row in rows] == [Result, Failure, Result]
    assert "0.95" in str(rows[1].error)


def test_an_option_that_cannot_be_ends_a_batch_before_anything_is_made(tmp_path, decoder):
    paths = [write_latent(tmp_path / f"{n}.safetensors") for n in range(2)]
    work = plan_work(found(*paths), tmp_path / "out", reads="latent")
    with pytest.raises(OptionError, match="steps is 9"):
        list(decode(work, decoder=decoder, painting=Painting(steps=9)))
    assert not (tmp_path / "out").exists()


def test_an_interrupt_keeps_and_reports_what_is_finished(tmp_path, decoder):
    shapes = [(2, 3), (3, 2), (2, 3), (3, 2)]
    paths = [write_latent(tmp_path / f"{n}.safetensors", height=h, width=w) for n, (h, w) in enumerate(shapes)]
    calls = []

    def interrupt(step, steps):
        calls.append(step)
        if len(calls) == 3:  # the first group of two is done
            raise KeyboardInterrupt

    rows = []
    work = plan_work(found(*paths), tmp_path / "out", reads="latent")
    with pytest.raises(KeyboardInterrupt):
        rows.extend(decode(work, decoder=decoder, painting=ONE_STEP, batch=2, on_step=interrupt))
    assert [row.output.name for row in rows] == ["0.png", "2.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png", "2.png"]


def test_a_dry_run_gives_the_rows_that_the_run_gives_and_makes_nothing(tmp_path, decoder, codec):
    picture = write_picture(tmp_path / "a.png", height=40, width=50)
    options = {"decoder": decoder, "codec": codec, "painting": replace(ONE_STEP, scale=2.5)}
    work = plan_work(found(picture, kind="picture"), tmp_path / "out", reads="picture", latent_sigmas=(0, 0.3))
    expected = [replace(row, seconds=0) for row in upscale(work, dry_run=True, **options)]
    assert not (tmp_path / "out").exists()
    assert [replace(row, seconds=0) for row in upscale(work, **options)] == expected
    assert (expected[0].height, expected[0].width) == (100, 125)


# How a picture was made


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff"])
def test_a_picture_says_how_it_was_made_and_comes_out_again(tmp_path, monkeypatch, decoder, codec, suffix):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "small.safetensors")
    write_picture(tmp_path / "a.png")
    work = plan_work(found("a.png", kind="picture"), f"out{suffix}", reads="picture", latent_sigmas=(0.3,))
    painting = Painting(steps=2, seed=4, size=(96, 200), tile=8)
    (row,) = upscale(work, decoder=decoder, codec=codec, painting=painting)
    story = read_metadata(row.output)
    expected = {"checkpoint": "small", "seed": 4, "steps": 2, "latent_sigma": 0.3, "height": 96, "width": 200}
    assert {key: story[key] for key in expected} == expected
    assert story["source"]["path"] == "a.png"
    made = remake(row.output, checkpoint="small.safetensors", device="cpu")
    assert (made.same_bits, made.largest_difference, made.reason) == (True, 0, None)


def test_a_picture_of_a_latent_file_comes_out_again_beside_it_and_not_from_another_latent(tmp_path, decoder):
    file = write_checkpoint(tmp_path / "small.safetensors")
    latent = write_latent(tmp_path / "a.safetensors", batch=2)
    rows = list(decode(plan_work(found(latent), tmp_path / "out", reads="latent"), decoder=decoder, painting=ONE_STEP))
    picture = rows[1].output
    assert remake(picture, checkpoint=file, device="cpu").same_bits
    latent.rename(tmp_path / "out/a.safetensors")
    assert remake(picture, checkpoint=file, device="cpu").same_bits
    (tmp_path / "out/a.safetensors").unlink()
    write_latent(latent, batch=2, seed=1)
    made = remake(picture, checkpoint=file, device="cpu")
    assert made.same_bits is None
    assert "sha256 differs" in made.reason


def test_other_weights_and_a_retouched_picture_are_noticed(tmp_path, decoder):
    file = write_checkpoint(tmp_path / "small.safetensors")
    latent = write_latent(tmp_path / "a.safetensors")
    (row,) = decode(plan_work(found(latent), tmp_path / "a.png", reads="latent"), decoder=decoder, painting=ONE_STEP)
    assert "other weights" in remake(row.output, device="cpu", checkpoint="flux2-tiny").reason
    from latpix import save_picture

    pixels, story = read_picture(row.output), read_metadata(row.output)
    pixels[..., 0, 0] = 1 - pixels[..., 0, 0].sign()
    save_picture(pixels, row.output, metadata=story, overwrite=True)
    made = remake(row.output, checkpoint=file, device="cpu")
    assert made.same_bits is False
    assert made.largest_difference > 0


@pytest.mark.parametrize(("key", "value"), [("processes", 2), ("compiled", True), ("device", "cuda"), ("pieces", {})])
def test_what_was_made_otherwise_is_the_same_picture_to_rounding(tmp_path, decoder, key, value):
    weights, file = write_checkpoint(tmp_path / "w.safetensors"), tmp_path / "out/a.png"
    work = plan_work(found(write_latent(tmp_path / "a.safetensors")), file.parent, reads="latent")
    (made,) = decode(work, decoder=decoder, painting=ONE_STEP)
    story, pixels = read_metadata(made.output), read_picture(made.output)
    pixels[0, 0, 0, 0] += 1 / 127.5 if pixels[0, 0, 0, 0] < 0 else -1 / 127.5  # a level
    save_picture(pixels, file, metadata=story, overwrite=True)
    again = remake(file, checkpoint=weights, device="cpu")
    assert (again.same_bits, again.to_rounding, again.largest_difference) == (False, False, 1)
    save_picture(pixels, file, metadata={**story, key: value}, overwrite=True)
    again = remake(file, checkpoint=weights, device="cpu")
    assert (again.same_bits, again.to_rounding) == (False, True)
    assert f"{key} {value} (now " in again.reason
    pixels[0, :, :8, :8] = 0
    save_picture(pixels, file, metadata={**story, key: value}, overwrite=True)
    assert not remake(file, checkpoint=weights, device="cpu").to_rounding


def test_a_picture_that_is_not_ours_says_nothing(tmp_path):
    with pytest.raises(PictureError, match="does not say how it was made"):
        remake(write_picture(tmp_path / "a.png"))


def test_the_colour_profile_of_a_picture_goes_into_what_is_made_from_it(tmp_path, decoder, codec):
    from PIL import Image, ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (32, 32), "teal").save(tmp_path / "a.png", icc_profile=profile)
    work = plan_work(found(tmp_path / "a.png", kind="picture"), tmp_path / "b.png", reads="picture")
    (row,) = upscale(work, decoder=decoder, codec=codec, painting=ONE_STEP)
    assert picture_info(row.output).icc_profile == profile


def test_a_latent_remembers_its_picture(tmp_path, codec):
    picture = write_picture(tmp_path / "a.png", height=40, width=50)
    item = Item(name="a", path=picture, caption="leaves", seed=3)
    (row,) = encode(plan_work([item], tmp_path, reads="picture", writes="latent"), codec=codec, caption="x", seed=1)
    latent = read_latent(row.output)
    assert (latent.native_height, latent.native_width) == (40, 50)
    assert (latent.caption, latent.seed, latent.source, latent.space) == ("leaves", 3, str(picture), "flux2")


def test_a_failed_encoding_is_a_row(tmp_path, codec):
    small = write_picture(tmp_path / "a.png", height=12, width=50)
    (row,) = encode(plan_work(found(small, kind="picture"), tmp_path, reads="picture", writes="latent"), codec=codec)
    assert isinstance(row.error, LatpixError)


def test_a_manifest_runs_from_line_to_picture(tmp_path, decoder, codec):
    write_picture(tmp_path / "a.png")
    lines = [{"image": "a.png", "seed": 3, "output": "large.webp"}, {"image": "a.png"}, {"image": "gone.png"}]
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    work = plan_work(read_manifest(tmp_path / "jobs.jsonl", "picture"), tmp_path / "out", reads="picture")
    rows = list(upscale(work, decoder=decoder, codec=codec, painting=replace(ONE_STEP, seed=8), batch=2))
    assert [(row.output.name, row.seed) for row in rows[:2]] == [("large.webp", 3), ("a.png", 8)]
    assert isinstance(rows[2], Failure)


# Large pictures, and what is told of the way


def test_a_large_tiff_is_written_as_it_is_painted_and_comes_out_again(tmp_path, decoder, monkeypatch):
    monkeypatch.setattr(outlook, "STREAM_FROM", 128 * 192)
    write_latent(tmp_path / "a.safetensors", height=9, width=8)
    painting = Painting(steps=1, tile=8)
    for name, how in (("a.tiff", "painted in 2 tiles of 8 latent cells, written straight into the file"),
                      ("a.png", "painted in 2 tiles of 8 latent cells")):  # fmt: skip
        work = plan_work(found(tmp_path / "a.safetensors"), tmp_path / name, reads="latent")
        (row,) = decode(work, decoder=decoder, painting=painting)
        assert (row.height, row.width, row.how) == (576, 512, how)
    streamed, saved = (read_picture(tmp_path / name) for name in ("a.tiff", "a.png"))
    assert (streamed - saved).abs().max() < 1.5 / 127.5
    assert read_metadata(tmp_path / "a.tiff")["in_files"] is True
    weights = write_checkpoint(tmp_path / "small.safetensors")
    assert remake(tmp_path / "a.tiff", checkpoint=weights, device="cpu").same_bits


def peak_of(decoder, **how):
    """What a decode in the usual way takes."""
    return decoder.plan(steps=1, memory_limit="64GiB", **how).peak_bytes


def test_pictures_that_do_not_fit_together_are_painted_one_at_a_time_before_they_are_cut(
    tmp_path, decoder, monkeypatch
):
    monkeypatch.setattr(Fitting, "held", lambda _self: 10**8)
    paths = [write_latent(tmp_path / f"{n}.safetensors", height=12, width=12, seed=n) for n in range(3)]
    limit = peak_of(decoder, height=12, width=12)
    assert limit < peak_of(decoder, height=12, width=12, batch=2)
    plan = decoder.plan(height=12, width=12, batch=3, steps=1, memory_limit=limit, one_by_one=True)
    assert (plan.tiles, plan.levers) == (1, ("one picture at a time (the same pictures)",))
    work = plan_work(found(*paths), tmp_path / "out", reads="latent")
    rows = list(decode(work, decoder=decoder, painting=replace(ONE_STEP, memory_limit=limit), batch=3))
    assert [row.how for row in rows] == ["one picture at a time"] * 3
    assert [read_metadata(row.output)["tiles"] for row in rows] == [1] * 3


def test_the_levers_that_a_limit_pulled_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(Fitting, "held", lambda _self: 10**8)
    decoder = Decoder.load("flux2-tiny", device="cpu", dtype="float32")
    write_latent(tmp_path / "a.safetensors", height=8, width=8)
    work = plan_work(found(tmp_path / "a.safetensors"), tmp_path / "a.png", reads="latent")
    limit = peak_of(decoder, height=8, width=8) - 2**20
    painting = replace(ONE_STEP, memory_limit=limit)
    (foretold,) = decode(work, decoder=decoder, painting=painting, dry_run=True)
    (row,) = decode(work, decoder=decoder, painting=painting)
    assert row.how == foretold.how
    assert row.how == "pieces of 512 tokens and 32 patches"


def test_a_tile_that_does_not_fit_goes_into_the_file_or_is_one_inputs_failure(tmp_path, decoder, monkeypatch):
    monkeypatch.setattr(Fitting, "held", lambda _self: 10**8)
    cut = {"height": 24, "width": 24, "tile": 12}
    needed, whole = peak_of(decoder, **cut), peak_of(decoder, height=24, width=24)
    with pytest.raises(MemoryLimitError, match=r'24x24 cells in tiles of 12: .* leave tile at "auto"'):
        decoder.plan(**cut, steps=1, memory_limit=(needed + whole) // 2)
    limit = peak_of(decoder, **cut, in_files=True)
    assert limit < min(needed, whole)
    for name, side in (("large", 24), ("small", 8)):
        write_latent(tmp_path / f"{name}.safetensors", height=side, width=side)
    painting = Painting(steps=1, tile=12, memory_limit=limit)
    inputs = found(tmp_path / "large.safetensors", tmp_path / "small.safetensors")
    work = plan_work(inputs, tmp_path / "tiff", reads="latent", suffix=".tiff")
    rows = list(decode(work, decoder=decoder, painting=painting))
    assert [row.how.endswith("straight into the file") for row in rows] == [True, False]
    work = plan_work(inputs, tmp_path / "png", reads="latent")
    large, small = decode(work, decoder=decoder, painting=painting)
    assert isinstance(large.error, MemoryLimitError)
    assert small.output.exists()


def test_a_picture_before_memory_ran_out_says_how_it_was_painted_itself(tmp_path, decoder, monkeypatch):
    usual, calls = PixelBlock.forward, []

    def forward(self, *given):
        calls.append(given)
        if len(calls) == 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return usual(self, *given)

    monkeypatch.setattr(PixelBlock, "forward", forward)
    smaller = Setting(8, Pieces(), 1, (Lever("tiles", "another picture", cuts=True),))
    monkeypatch.setattr(Fitting, "_following", lambda *_: smaller)
    paths = [write_latent(tmp_path / f"{n}.safetensors", height=8, width=10, seed=n) for n in range(3)]
    work = plan_work(found(*paths), tmp_path / "out", reads="latent")
    rows = list(decode(work, decoder=decoder, painting=ONE_STEP, batch=3))
    cut = "painted in 2 tiles of 8 latent cells"
    assert [row.how for row in rows] == ["", cut, cut]
    assert [read_metadata(row.output)["tiles"] for row in rows] == [1, 2, 2]


def test_another_scale_is_told_with_the_size_that_was_painted(tmp_path, decoder):
    write_latent(tmp_path / "a.safetensors")
    work = plan_work(found(tmp_path / "a.safetensors"), tmp_path / "a.png", reads="latent")
    (row,) = decode(work, decoder=decoder, painting=Painting(steps=1, scale=6))
    assert (row.height, row.width) == (192, 288)
    assert row.how == "painted 4 times larger (192x128), then resampled to 288x192"


def test_a_detail_map_and_locked_colours_are_told_and_come_out_again(tmp_path, decoder, codec):
    write_picture(tmp_path / "a.png")
    write_picture(tmp_path / "map.png", seed=1)
    painting = Painting(steps=1, detail_map=tmp_path / "map.png", colour_lock=True)
    work = plan_work(found(tmp_path / "a.png", kind="picture"), tmp_path / "out.png", reads="picture")
    (row,) = upscale(work, decoder=decoder, codec=codec, painting=painting)
    assert row.how == ""
    story = read_metadata(tmp_path / "out.png")
    assert story["colour_lock"] == "codec"
    assert Path(story["detail_map"]["path"]).name == "map.png"
    weights = write_checkpoint(tmp_path / "small.safetensors")
    assert remake(tmp_path / "out.png", checkpoint=weights, device="cpu").same_bits
    (tmp_path / "map.png").unlink()
    assert "detail map" in remake(tmp_path / "out.png", checkpoint=weights, device="cpu").reason
