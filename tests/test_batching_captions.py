"""The captions of a run: whose text an item is painted with, where its embedding came from, and that it is remade."""

import json
from dataclasses import replace

import pytest
import torch
from small_captions import WIDTH, write_encoder, write_reading_checkpoint
from small_decoder import write_checkpoint, write_latent

from latpix import Decoder
from latpix.batching.captions import embed_captions
from latpix.batching.inputs import Failure, find_inputs, read_manifest
from latpix.batching.outputs import plan_work
from latpix.batching.painting import Painting, with_captions
from latpix.batching.remake import remake
from latpix.batching.run import decode
from latpix.captions.model_files import MODEL
from latpix.captions.prompt_prefix import NEGATIVE_PROMPT, VERSION
from latpix.captions.provide import embed
from latpix.errors import CaptionError, DownloadError, UsageError
from latpix.files.caption_files import CaptionFile, save_captions
from latpix.files.picture_files import read_metadata, read_picture


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("encoder") / "gemma")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_reading_checkpoint(tmp_path_factory.mktemp("weights") / "reads.safetensors")


@pytest.fixture(scope="module")
def decoder(weights):
    return Decoder.load(weights, device="cpu", dtype="float32")


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("LATPIX_HOME", str(tmp_path / "home"))


def write_captions(path, *texts, prefix=VERSION):
    """A caption file whose texts are told apart by their numbers."""
    draws = torch.Generator().manual_seed(0)
    embedding = torch.randn(len(texts), 300, WIDTH, generator=draws).bfloat16()
    save_captions(CaptionFile(embedding=embedding, texts=texts, encoder=MODEL, prefix=prefix), path, overwrite=True)
    return path


def make(tmp_path, decoder, *paths, out="out", **painting):
    work = plan_work(find_inputs(paths, "latent"), tmp_path / out, reads="latent")
    return [*decode(work, decoder=decoder, painting=Painting(steps=1, **painting))]


# Whose text


def test_each_item_is_painted_with_its_own_text_the_manifests_first(tmp_path, decoder, gemma):
    for name in ("a", "b"):
        write_latent(tmp_path / f"{name}.safetensors", caption="a fox")
    lines = [{"latent": "a.safetensors", "caption": "a cat"}, {"latent": "b.safetensors"}]
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    work = plan_work(read_manifest(tmp_path / "jobs.jsonl", "latent"), tmp_path / "out", reads="latent")
    [*_] = decode(work, decoder=decoder, painting=Painting(steps=1, caption_model=gemma))
    stories = [read_metadata(tmp_path / "out" / f"{name}.png") for name in ("a", "b")]
    assert [story["caption"] for story in stories] == ["a cat", "a fox"]
    made = stories[0]["caption_embedding"]
    assert (made["from"], made["encoder"]) == ("encoder", str(gemma))
    assert not torch.equal(read_picture(tmp_path / "out/a.png"), read_picture(tmp_path / "out/b.png"))


def test_the_runs_caption_replaces_the_latents_own(tmp_path, decoder, gemma):
    file = write_latent(tmp_path / "a.safetensors", caption="a fox")
    make(tmp_path, decoder, file, caption="a cat", caption_model=gemma)
    assert read_metadata(tmp_path / "out/a.png")["caption"] == "a cat"


def test_captions_embedded_beforehand_give_the_same_bits_without_cache_or_encoder(
    tmp_path, decoder, gemma, monkeypatch
):
    file = write_latent(tmp_path / "a.safetensors", caption="a fox")
    make(tmp_path, decoder, file, caption_model=gemma)
    work = plan_work(find_inputs([file], "latent"), tmp_path / "more", reads="latent")
    painting = with_captions(Painting(steps=1, caption_model=gemma), work, decoder.checkpoint, device="cpu")
    assert set(painting.captions.embeddings) == {"a fox"}
    monkeypatch.setenv("LATPIX_HOME", str(tmp_path / "empty"))
    [*_] = decode(work, decoder=decoder, painting=replace(painting, caption_model="no/encoder"))
    assert torch.equal(read_picture(tmp_path / "out/a.png"), read_picture(tmp_path / "more/a.png"))


def test_without_any_caption_nothing_is_painted_and_the_ways_on_are_named(tmp_path, decoder):
    file = write_latent(tmp_path / "a.safetensors")
    with pytest.raises(CaptionError, match=r"--caption TEXT.*--caption-file FILE.*--no-caption"):
        make(tmp_path, decoder, file)


def test_an_item_without_a_caption_among_others_fails_alone(tmp_path, decoder, gemma):
    files = [write_latent(tmp_path / "a.safetensors", caption="a fox"), write_latent(tmp_path / "b.safetensors")]
    made, failed = make(tmp_path, decoder, *files, caption_model=gemma)
    assert made.output.exists()
    assert isinstance(failed, Failure)
    assert isinstance(failed.error, CaptionError)


def test_no_caption_paints_everything_with_the_empty_text_and_says_so(tmp_path, decoder, gemma):
    file = write_latent(tmp_path / "a.safetensors", caption="a fox")
    make(tmp_path, decoder, file, no_caption=True, caption_model=gemma)
    make(tmp_path, decoder, file, out="same", caption="", caption_model=gemma)
    make(tmp_path, decoder, file, out="fox", caption_model=gemma)
    assert read_metadata(tmp_path / "out/a.png")["caption"] == ""
    pictures = [read_picture(tmp_path / out / "a.png") for out in ("out", "same", "fox")]
    assert torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])


@pytest.mark.parametrize(
    "options",
    [
        {"caption": "a cat", "no_caption": True},
        {"caption": "", "caption_file": "a"},
        {"caption_file": "a", "no_caption": True},
    ],
)
def test_two_answers_to_one_question_are_wrong_usage(options):
    with pytest.raises(UsageError, match="give one of them"):
        Painting(**options)


def test_a_checkpoint_that_reads_no_captions_never_asks_for_an_encoder(tmp_path):
    small = Decoder.load(write_checkpoint(tmp_path / "small.safetensors"), device="cpu", dtype="float32")
    file = write_latent(tmp_path / "a.safetensors", caption="a fox")
    for out, options in {"plain": {}, "null": {"no_caption": True}, "file": {"caption_file": "gone"}}.items():
        make(tmp_path, small, file, out=out, **options)
    story = read_metadata(tmp_path / "plain/a.png")
    assert (story["caption"], story["caption_embedding"]) == ("a fox", None)


# From a file


def test_a_file_gives_each_item_the_embedding_of_its_text(tmp_path, decoder):
    file = write_captions(tmp_path / "c.safetensors", "a cat", "a fox")
    captions = embed_captions(["a fox", "a cat"], decoder.checkpoint, file=file)
    assert torch.equal(captions.embedding("a cat"), captions.embeddings["a cat"])
    assert [captions.text("a fox"), captions.text("a cat")] == ["a fox", "a cat"]
    with pytest.raises(CaptionError, match=r'not "a dog", one for items without a caption'):
        embed_captions(["a fox", "a dog", None], decoder.checkpoint, file=file)


@pytest.mark.parametrize("negative", [(), (NEGATIVE_PROMPT,)])
def test_a_files_only_caption_is_for_all_items(tmp_path, decoder, negative):
    file = write_captions(tmp_path / "c.safetensors", "a cat", *negative)
    captions = embed_captions(["a fox", None], decoder.checkpoint, file=file)
    assert [captions.text("a fox"), captions.text(None)] == ["a cat", "a cat"]
    assert captions.embedding("a fox").shape == (1, 300, WIDTH)


def test_a_file_of_another_prefix_is_refused(tmp_path, decoder):
    file = write_captions(tmp_path / "c.safetensors", "a cat", prefix="pid-0")
    with pytest.raises(CaptionError, match='prompt prefix "pid-0"'):
        embed_captions(["a cat"], decoder.checkpoint, file=file)


# With guidance


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "teacher.safetensors"
    write_reading_checkpoint(path, guidance_scale=2.0, kind="teacher", times=None, steps=1, max_steps=4)
    return Decoder.load(path, device="cpu", dtype="float32")


def test_guidance_pushes_away_from_the_negative_prompt_by_default(tmp_path, teacher, gemma):
    file = write_latent(tmp_path / "a.safetensors", caption="a fox")
    make(tmp_path, teacher, file, caption_model=gemma)
    fox, negative = embed(["a fox", NEGATIVE_PROMPT], model=gemma).split(1)
    plain = torch.randn(1, 128, 2, 3)
    told = teacher.decode(plain, caption="a fox", caption_model=gemma, steps=1)
    assert torch.equal(told, teacher.decode(plain, caption=fox, null_caption=negative, steps=1))
    assert not torch.equal(told, teacher.decode(plain, caption=fox, null_caption=fox, steps=1))
    made = read_metadata(tmp_path / "out/a.png")["caption_embedding"]
    assert made["negative_sha256"] != made["sha256"]
    assert remake(tmp_path / "out/a.png", checkpoint=teacher_file(teacher, tmp_path), device="cpu").same_bits


def teacher_file(teacher, tmp_path):
    from latpix.checkpoints.load import save

    save(teacher.network, teacher.checkpoint, tmp_path / "teacher.safetensors")
    return tmp_path / "teacher.safetensors"


def test_a_file_may_bring_the_negative_prompt_and_must_where_there_is_no_encoder(tmp_path, teacher):
    both = write_captions(tmp_path / "both.safetensors", "a fox", NEGATIVE_PROMPT)
    captions = embed_captions(["a fox"], teacher.checkpoint, file=both)
    assert torch.equal(captions.negative, captions.embeddings[NEGATIVE_PROMPT])
    alone = write_captions(tmp_path / "alone.safetensors", "a fox")
    with pytest.raises(DownloadError):
        embed_captions(["a fox"], teacher.checkpoint, file=alone)


def test_a_student_never_asks_for_the_negative_prompt(tmp_path, decoder):
    file = write_captions(tmp_path / "c.safetensors", "a cat")
    assert embed_captions(["a cat"], decoder.checkpoint, file=file).negative is None
    states = torch.randn(1, 4, WIDTH)
    assert decoder.decode(torch.randn(1, 128, 2, 2), caption=states, steps=1).shape == (1, 3, 128, 128)


# Made again


def test_a_picture_is_made_again_from_the_cache_and_from_the_encoder(tmp_path, decoder, weights, gemma, monkeypatch):
    file = write_latent(tmp_path / "a.safetensors", caption="a fox")
    make(tmp_path, decoder, file, caption_model=gemma)
    assert remake(tmp_path / "out/a.png", checkpoint=weights, device="cpu").same_bits
    monkeypatch.setenv("LATPIX_HOME", str(tmp_path / "empty"))
    assert remake(tmp_path / "out/a.png", checkpoint=weights, device="cpu").same_bits


def test_a_picture_is_made_again_from_its_caption_file_wherever_that_lies_now(tmp_path, decoder, weights):
    file = write_latent(tmp_path / "a.safetensors", caption="a fox")
    words = write_captions(tmp_path / "words.safetensors", "a fox", "a cat")
    make(tmp_path, decoder, file, caption_file=words)
    assert remake(tmp_path / "out/a.png", checkpoint=weights, device="cpu").same_bits
    words.rename(tmp_path / "out/words.safetensors")
    assert remake(tmp_path / "out/a.png", checkpoint=weights, device="cpu").same_bits
    write_captions(tmp_path / "out/words.safetensors", "a cat", "a fox")
    made = remake(tmp_path / "out/a.png", checkpoint=weights, device="cpu")
    assert made.same_bits is None
    assert "sha256 differs" in made.reason
    (tmp_path / "out/words.safetensors").unlink()
    assert "is not there any more" in remake(tmp_path / "out/a.png", checkpoint=weights, device="cpu").reason


def test_what_is_missing_to_embed_a_caption_again_is_said(tmp_path, decoder, weights, gemma):
    file = write_latent(tmp_path / "a.safetensors", caption="a fox")
    own = write_encoder(tmp_path / "gemma", seed=3)
    make(tmp_path, decoder, file, caption_model=own)
    write_encoder(own, seed=4)
    made = remake(tmp_path / "out/a.png", checkpoint=weights, device="cpu")
    assert made.same_bits is None
    assert "embedded to other numbers" in made.reason
