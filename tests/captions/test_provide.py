"""A caption that was embedded once is there without the encoder; the encoder is loaded once and is gone afterwards."""

import gc
import os
import shutil

import pytest
import torch
from small_captions import WIDTH, write_encoder

from latpix.captions import provide
from latpix.captions.cache import entry, lookup
from latpix.captions.encoder import CaptionEncoder
from latpix.captions.model_files import MODEL, identity
from latpix.captions.prompt_prefix import VERSION
from latpix.captions.provide import as_states, embed, null_embedding
from latpix.errors import CaptionError, DownloadError
from latpix.files.caption_files import CaptionFile, read_captions, save_captions


def of(folder, *texts, **options):
    return embed(texts, model=folder, device="cpu", dtype="float32", **options)


@pytest.fixture
def loads(monkeypatch):
    """How often the encoder is loaded; it is loaded all the same."""
    real, seen = CaptionEncoder.load, []

    def load(*words, **options):
        seen.append(words)
        return real(*words, **options)

    monkeypatch.setattr(provide.CaptionEncoder, "load", load)
    return seen


def test_embeddings_are_the_encoders_states_in_bfloat16_in_the_order_of_the_texts(gemma):
    embedding = of(gemma, "a dog", "a cat", "a dog")
    states = CaptionEncoder.load(gemma, device="cpu", dtype="float32").encode(["a dog", "a cat"])
    assert embedding.dtype == torch.bfloat16
    assert torch.equal(embedding, states[[0, 1, 0]].bfloat16())


def test_a_caption_that_was_embedded_needs_no_encoder_even_if_its_folder_is_gone(own_gemma):
    first = of(own_gemma, "a cat", "")
    shutil.rmtree(own_gemma)
    assert torch.equal(of(own_gemma, "", "a cat"), first[[1, 0]])
    with pytest.raises(CaptionError, match="neither a folder"):
        of(own_gemma, "a dog")


def test_many_captions_load_the_encoder_once_and_only_the_new_ones_are_encoded(gemma, loads):
    of(gemma, "a cat")
    done = []
    of(gemma, "a cat", "a dog", "a fox", on_caption=lambda number, count: done.append((number, count)))
    assert done == [(1, 2), (2, 2)]
    assert len(loads) == 2


def test_the_encoder_is_gone_when_the_embeddings_are_there(gemma):
    from transformers import Gemma2Model

    def alive():
        return sum(type(thing) is Gemma2Model for thing in gc.get_objects())

    gc.collect()
    before = alive()
    of(gemma, "a cat", "a dog")
    assert alive() == before


def test_captions_that_were_finished_before_an_interrupt_are_kept(gemma, monkeypatch):
    def interrupt(number, count):
        if number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        of(gemma, "a cat", "a dog", "a fox", on_caption=interrupt)
    assert [lookup(gemma, text) is not None for text in ("a cat", "a dog", "a fox")] == [True, True, False]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_entry_is_ignored_and_made_again(gemma, loads, damage):
    first = of(gemma, "a cat")
    path = entry(gemma, "a cat")
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes({"cut": data[:-100], "flipped": bytes(data), "empty": b"", "text": b"this is a letter"}[damage])
    assert torch.equal(of(gemma, "a cat"), first)
    assert len(loads) == 2
    assert read_captions(path).texts == ("a cat",)


def test_an_entry_of_another_text_or_prefix_counts_as_not_there(gemma):
    of(gemma, "a cat", "a dog")
    shutil.copyfile(entry(gemma, "a dog"), entry(gemma, "a cat"))
    assert lookup(gemma, "a cat") is None
    assert lookup(gemma, "a dog") is not None
    captions = CaptionFile(
        embedding=torch.zeros(1, 300, 4).bfloat16(), texts=("a dog",), encoder=identity(gemma), prefix="older"
    )
    save_captions(captions, entry(gemma, "a dog"), overwrite=True)
    assert lookup(gemma, "a dog") is None


def test_other_weights_in_the_same_folder_are_another_encoder(own_gemma):
    before, name = of(own_gemma, "a cat"), identity(own_gemma)
    shutil.rmtree(own_gemma)
    write_encoder(own_gemma, seed=1)
    for file in own_gemma.iterdir():
        os.utime(file, (1, 1))
    assert identity(own_gemma) != name
    assert not torch.equal(of(own_gemma, "a cat"), before)


def test_without_the_cache_nothing_is_read_or_written(gemma, loads, home):
    of(gemma, "a cat", cache=False)
    assert not home.exists()
    of(gemma, "a cat")
    of(gemma, "a cat", cache=False)
    assert len(loads) == 3


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(gemma, home):
    home.mkdir()
    (home / "captions").write_text("a file where the folder should be")
    assert of(gemma, "a cat").shape == (1, 300, WIDTH)


def test_the_null_caption_is_the_empty_text(gemma):
    null = null_embedding(model=gemma, device="cpu", dtype="float32")
    assert torch.equal(null, of(gemma, ""))
    assert not torch.equal(null, of(gemma, "a cat"))


def test_the_null_caption_of_the_released_encoder_may_be_brought_as_a_file(home):
    with pytest.raises(DownloadError, match=r"null\.safetensors"):
        null_embedding()
    (home / "captions").mkdir(parents=True)
    brought = torch.randn(1, 300, 8).bfloat16()
    save_captions(
        CaptionFile(embedding=brought, texts=("",), encoder=MODEL, prefix=VERSION),
        home / "captions" / "null.safetensors",
    )
    assert torch.equal(null_embedding(), brought)
    with pytest.raises(DownloadError):
        embed("a cat")


def test_one_text_is_a_list_of_one_and_none_is_refused(gemma):
    assert torch.equal(embed("a cat", model=gemma, device="cpu", dtype="float32"), of(gemma, "a cat"))
    with pytest.raises(CaptionError, match="no caption"):
        of(gemma)
    with pytest.raises(CaptionError, match="UTF-8"):
        of(gemma, "a \udcff cat")


def test_states_that_overflow_are_refused(own_gemma):
    from safetensors.torch import load_file, save_file

    path = own_gemma / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], 1e6)
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(CaptionError, match="overflowed in float16"):
        embed(["a cat"], model=own_gemma, device="cpu", dtype="float16")


def test_texts_among_states_are_embedded_together(gemma, loads):
    states = torch.randn(1, 5, WIDTH)
    first, second, third, none = as_states(
        ["a cat", states, ["a dog", ""], None], model=gemma, device=torch.device("cpu")
    )
    assert len(loads) == 1
    assert second is states
    assert none is None
    assert torch.equal(torch.cat([first, third]), embed(["a cat", "a dog", ""], model=gemma))
