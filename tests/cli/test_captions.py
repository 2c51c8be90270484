"""`latpix caption`, and decoding with what it made: the same bits as with the encoder at hand."""

import shutil

import pytest
import torch
from small_captions import WIDTH, write_encoder, write_reading_checkpoint
from small_decoder import write_latent, write_picture

from latpix import read_picture
from latpix.captions.prompt_prefix import NEGATIVE_PROMPT
from latpix.files.caption_files import read_captions
from latpix.files.picture_files import read_metadata


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("encoder") / "gemma")


@pytest.fixture(scope="module")
def reads(tmp_path_factory):
    """A checkpoint that reads captions."""
    return write_reading_checkpoint(tmp_path_factory.mktemp("weights") / "reads.safetensors")


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("LATPIX_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_caption_writes_one_file_of_all_texts_and_its_path_on_stdout(latpix, gemma):
    answer = latpix("caption", "a cat", "a dog", "a cat", "-o", "c.safetensors", "--model", gemma)
    assert answer == (0, "c.safetensors\n", "")
    captions = read_captions("c.safetensors")
    assert captions.texts == ("a cat", "a dog")
    assert captions.embedding.shape == (2, 300, WIDTH)


def test_caption_reads_a_prompt_file_drops_blank_lines_and_speaks_json(latpix, gemma, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\n\n  a dog  \n", encoding="utf-8")
    words = ("caption", "--prompts", "prompts.txt", "-o", "c.safetensors", "--model", gemma)
    (line,) = latpix(*words, "--negative", "--json").lines
    assert (line["output"], line["captions"], line["shape"]) == ("c.safetensors", 3, [3, 300, WIDTH])
    assert line["encoder"].startswith("gemma#")
    assert read_captions("c.safetensors").texts == ("a cat", "a dog", NEGATIVE_PROMPT)


@pytest.mark.parametrize("words", [(), ("a cat", "--prompts", "prompts.txt")])
def test_caption_takes_texts_or_a_prompt_file_and_not_both(refused, words):
    assert "and not both" in refused("caption", *words, "-o", "c.safetensors", code=2, out="c.safetensors")


def test_an_existing_caption_file_is_refused_kept_or_replaced_as_asked(latpix, gemma):
    words = ("caption", "a cat", "-o", "c.safetensors", "--model", gemma)
    latpix(*words)
    answer = latpix("caption", "a dog", *words[2:])
    assert (answer.code, "exists already" in answer.err) == (1, True)
    assert latpix("caption", "a dog", *words[2:], "--skip-existing") == (
        0, "", "c.safetensors is there already; skipped\n",
    )  # fmt: skip
    assert read_captions("c.safetensors").texts == ("a cat",)
    assert latpix("caption", "a dog", *words[2:], "--overwrite").code == 0
    assert read_captions("c.safetensors").texts == ("a dog",)


@pytest.mark.parametrize("out", ["c.pt", "nowhere/c.safetensors"])
def test_an_output_that_cannot_be_is_refused_before_the_encoder_is_asked_for(refused, out):
    assert "OutputError" in refused("caption", "a cat", "-o", out, out=out)


def test_without_an_encoder_the_ways_on_are_named(refused):
    message = refused("caption", "a cat", "-o", "c.safetensors", out="c.safetensors")
    for way in ("hf download", "--model DIR", "--caption-file", "--no-caption"):
        assert way in message


def test_a_caption_file_decodes_to_the_same_bits_as_the_encoder_which_is_not_needed_any_more(
    latpix, gemma, reads, tmp_path, home
):
    own = shutil.copytree(gemma, tmp_path / "gemma")
    write_latent(tmp_path / "a.safetensors")
    words = ("decode", "a.safetensors", "--checkpoint", reads, "--steps", 1)
    told = latpix(*words, "-o", "told.png", "--caption", "a cat", "--caption-model", own)
    assert told == (0, "told.png\n", "")
    assert latpix("caption", "a dog", "a cat", "-o", "c.safetensors", "--model", own).code == 0
    shutil.rmtree(own)
    shutil.rmtree(home)
    assert latpix(*words, "-o", "read.png", "--caption", "a cat", "--caption-file", "c.safetensors").code == 2
    write_latent(tmp_path / "b.safetensors", caption="a cat")
    words = ("decode", "b.safetensors", *words[2:])
    assert latpix(*words, "-o", "read.png", "--caption-file", "c.safetensors").code == 0
    assert torch.equal(read_picture("told.png"), read_picture("read.png"))
    story = read_metadata("read.png")
    assert (story["caption"], story["caption_embedding"]["from"]) == ("a cat", "file")
    assert story["caption_embedding"]["sha256"] == read_metadata("told.png")["caption_embedding"]["sha256"]


def test_a_decode_after_a_caption_needs_no_encoder(latpix, gemma, reads, tmp_path):
    own = shutil.copytree(gemma, tmp_path / "gemma")
    latpix("caption", "a cat", "", "-o", "c.safetensors", "--model", own)
    shutil.rmtree(own)
    write_latent(tmp_path / "a.safetensors")
    words = ("decode", "a.safetensors", "--checkpoint", reads, "--steps", 1, "--caption-model", own)
    assert latpix(*words, "-o", "cat.png", "--caption", "a cat").code == 0
    assert latpix(*words, "-o", "null.png", "--no-caption").code == 0
    assert not torch.equal(read_picture("cat.png"), read_picture("null.png"))
    assert read_metadata("null.png")["caption"] == ""


def test_upscale_takes_the_same_caption_options(latpix, gemma, reads, tmp_path):
    write_picture(tmp_path / "a.png")
    latpix("caption", "", "-o", "null.safetensors", "--model", gemma)
    words = ("upscale", "a.png", "--checkpoint", reads, "--steps", 1)
    assert latpix(*words, "-o", "file.png", "--caption-file", "null.safetensors").code == 0
    assert latpix(*words, "-o", "null.png", "--no-caption", "--caption-model", gemma).code == 0
    assert torch.equal(read_picture("file.png"), read_picture("null.png"))


def test_a_checkpoint_that_reads_captions_is_refused_without_one_before_it_is_loaded(refused, reads, tmp_path):
    write_latent(tmp_path / "a.safetensors")
    message = refused("decode", "a.safetensors", "-o", "out.png", "--checkpoint", reads, out="out.png")
    assert message.startswith('CaptionError: "reads captions" reads a caption, and none was given.')


def test_what_a_caption_file_lacks_is_listed(latpix, refused, gemma, reads, tmp_path):
    latpix("caption", "a cat", "a dog", "-o", "c.safetensors", "--model", gemma)
    write_latent(tmp_path / "a.safetensors", caption="a fox")
    words = ("decode", "a.safetensors", "-o", "out.png", "--checkpoint", reads, "--caption-file", "c.safetensors")
    assert 'not "a fox"' in refused(*words, out="out.png")


def test_a_dry_run_asks_for_no_encoder(latpix, reads, tmp_path):
    write_latent(tmp_path / "a.safetensors")
    words = ("decode", "a.safetensors", "-o", "a.png", "--checkpoint", reads, "--caption", "a cat", "--dry-run")
    assert latpix(*words).code == 0


def test_a_checkpoint_without_a_caption_stream_never_asks_for_an_encoder(latpix, small, tmp_path):
    write_latent(tmp_path / "a.safetensors")
    words = ("decode", "a.safetensors", "--checkpoint", small, "--steps", 1)
    assert latpix(*words, "-o", "null.png", "--no-caption").code == 0
    assert latpix(*words, "-o", "plain.png").code == 0
    assert torch.equal(read_picture("null.png"), read_picture("plain.png"))
