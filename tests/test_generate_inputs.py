"""Prompts, native sizes, and the file of results."""

import json

import pytest

from latpix.backbones.registry import BACKBONES, find_backbone
from latpix.batching.inputs import Failure
from latpix.batching.prompts import find_prompts
from latpix.batching.results import NAME, add_result, read_results, settle_results
from latpix.batching.sizes import native_size
from latpix.checkpoints.registry import find
from latpix.errors import ManifestError, OptionError, UsageError


def test_a_prompt_file_gives_its_lines_without_the_blank_ones(tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\n\n  a dog on a sofa  \n", encoding="utf-8")
    prompts = find_prompts((), tmp_path / "prompts.txt")
    assert [prompt.text for prompt in prompts] == ["a cat", "a dog on a sofa"]
    assert [prompt.stem for prompt in prompts] == ["0000_a-cat", "0001_a-dog-on-a-sofa"]


def test_a_prompt_without_a_latin_letter_is_named_by_its_number():
    assert find_prompts(("猫",))[0].stem == "0000"


def test_a_manifest_gives_seeds_and_names_and_a_bad_line_fails_alone(tmp_path):
    lines = [{"caption": "a cat", "seed": 7, "output": "cat"}, {"image": "x.png"}, {"caption": "a dog"}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    cat, bad, dog = find_prompts((), None, tmp_path / "m.jsonl")
    assert (cat.text, cat.seed, cat.stem) == ("a cat", 7, "cat")
    assert isinstance(bad, Failure)
    assert "line 2" in str(bad.error)
    assert dog.index == 2


@pytest.mark.parametrize("given", [{}, {"prompts": "a"}])
def test_none_or_two_sources_of_prompts_are_refused(given, tmp_path):
    with pytest.raises(UsageError, match="--prompts FILE"):
        find_prompts(("a cat",) if given else (), tmp_path if given else None)


def test_an_empty_prompt_file_is_refused(tmp_path):
    (tmp_path / "prompts.txt").write_text("\n \n")
    with pytest.raises(ManifestError, match="holds no prompt"):
        find_prompts((), tmp_path / "prompts.txt")


def test_an_output_size_becomes_the_backbones_by_the_checkpoints_scale():
    assert native_size(find_backbone("flux"), find("flux1-2k"), (2048, 1536)) == (512, 384)
    assert native_size(find_backbone("siglip"), find("siglip-2k")) == (256, 256)
    assert native_size(find_backbone("flux2"), find("flux2-tiny"), (1024, 1024), scale=2.0) == (512, 512)


def test_a_size_that_no_backbone_makes_is_refused_with_the_nearest():
    with pytest.raises(OptionError, match="nearest that works is 2048x1984"):
        native_size(find_backbone("flux"), find("flux1-2k"), (2000, 2048))


def test_a_size_beyond_the_training_names_the_checkpoints_that_can():
    with pytest.raises(OptionError, match=r"2048x2048, or take .*: flux1-2kto4k-v1.5"):
        native_size(find_backbone("flux"), find("flux1-2k"), (4096, 4096))
    assert native_size(find_backbone("flux"), find("flux1-2kto4k-v1.5"), (4096, 4096)) == (1024, 1024)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbones_own_size_suits_every_checkpoint_of_its_space(name):
    from latpix.checkpoints.registry import rows_that_read

    for row in rows_that_read(BACKBONES[name].space):
        assert native_size(BACKBONES[name], row)


def test_results_are_settled_in_order_and_the_last_line_of_an_output_counts(tmp_path):
    for index, step, seconds in ((1, 4, 1.0), (0, 4, 2.0), (0, 2, 3.0), (1, 4, 4.0)):
        add_result(tmp_path, {"index": index, "step": step, "output": f"{index}_{step}", "seconds": seconds})
    settle_results(tmp_path)
    assert [row["seconds"] for row in read_results(tmp_path)] == [3.0, 2.0, 4.0]
    assert len((tmp_path / NAME).read_text().splitlines()) == 3
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize(
    "line", [{"seed": 10**30}, {"seed": -1}, {"output": "a/b"}, {"output": "x" * 300}, {"output": "../x"}]
)
def test_a_line_of_a_manifest_that_cannot_be_is_told_apart_and_the_others_run(line, tmp_path):
    lines = [{"caption": "a cat", **line}, {"caption": "a dog", "output": "dog.png"}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    bad, dog = find_prompts((), None, tmp_path / "m.jsonl")
    assert isinstance(bad, Failure)
    assert "entry 1" in str(bad.error)
    assert dog.stem == "dog"


def test_a_backbone_of_one_size_is_asked_for_that_one_only():
    with pytest.raises(OptionError, match="2048x2048"):
        native_size(find_backbone("dinov2"), find("dinov2-2k"), (1024, 1024))
