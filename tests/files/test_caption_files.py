"""A caption file comes back as it was written, and anything else is refused in a sentence."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from latpix.errors import CaptionError, OutputError
from latpix.files.caption_files import CaptionFile, read_captions, save_captions

TEXTS = ("a cat", "", "Ein Käfer – 猫 🐈")


@pytest.fixture
def captions():
    embedding = torch.randn(3, 300, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    return CaptionFile(embedding=embedding, texts=TEXTS, encoder="some/encoder", prefix="pid-1")


def test_a_caption_file_there_and_back_is_the_same(tmp_path, captions):
    save_captions(captions, tmp_path / "a.safetensors")
    back = read_captions(tmp_path / "a.safetensors")
    assert torch.equal(back.embedding, captions.embedding)
    assert (back.texts, back.encoder, back.prefix) == (TEXTS, "some/encoder", "pid-1")


def test_the_file_is_what_the_interface_says(tmp_path, captions):
    save_captions(captions, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        metadata = file.metadata()
        assert list(file.keys()) == ["embedding"]
        assert file.get_tensor("embedding").dtype == torch.bfloat16
    assert metadata["format"] == "latpix-caption-1"
    assert (metadata["encoder"], metadata["prefix_version"]) == ("some/encoder", "pid-1")
    assert tuple(json.loads(metadata["texts"])) == TEXTS


def write(path, *, embedding=None, **metadata):
    tensors = {"embedding": torch.zeros(1, 300, 8).bfloat16()} if embedding is None else embedding
    whole = {"format": "latpix-caption-1", "encoder": "e", "prefix_version": "pid-1", "texts": '["a cat"]'} | metadata
    save_file(tensors, path, {key: value for key, value in whole.items() if value is not None})


BAD = {
    "another kind": ({"format": "latpix-latent-1"}, 'it is "latpix-latent-1"'),
    "no kind": ({"format": None}, "does not say what it is"),
    "no encoder": ({"encoder": None}, "lacks encoder"),
    "no texts": ({"texts": None, "prefix_version": None}, "lacks prefix_version, texts"),
    "texts that are no JSON": ({"texts": "a cat"}, "not JSON"),
    "texts that are no list": ({"texts": '{"a": 1}'}, "list of strings"),
    "too many texts": ({"texts": '["a", "b"]'}, "1 captions, but 2 texts"),
    "another tensor": ({"embedding": {"latent": torch.zeros(1, 300, 8).bfloat16()}}, "holds latent"),
    "two tensors": ({"embedding": {"embedding": torch.zeros(1, 300, 8), "x": torch.zeros(1)}}, "holds embedding, x"),
    "shape": ({"embedding": {"embedding": torch.zeros(1, 77, 8).bfloat16()}}, "expected .captions, 300, width"),
    "rank": ({"embedding": {"embedding": torch.zeros(300, 8).bfloat16()}}, r"shape \[300, 8\]"),
    "type": ({"embedding": {"embedding": torch.zeros(1, 300, 8)}}, "expected bfloat16"),
    "values": ({"embedding": {"embedding": torch.full((1, 300, 8), torch.nan).bfloat16()}}, "NaN or infinite"),
    "digest": ({"sha256": "0" * 64}, "does not match the sha256"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_file_is_said(tmp_path, name):
    wrong, words = BAD[name]
    write(tmp_path / "a.safetensors", **wrong)
    with pytest.raises(CaptionError, match=words):
        read_captions(tmp_path / "a.safetensors")


def test_a_file_without_a_digest_is_read(tmp_path):
    write(tmp_path / "a.safetensors")
    assert read_captions(tmp_path / "a.safetensors").texts == ("a cat",)


@pytest.mark.parametrize("content", [None, b"", b"this is a letter, not a caption file"])
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    path = tmp_path / "a.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CaptionError, match=r"a\.safetensors"):
        read_captions(path)


def test_what_is_no_caption_embedding_is_not_written(tmp_path, captions):
    with pytest.raises(CaptionError, match="2 texts"):
        save_captions(replace(captions, texts=TEXTS[:2]), tmp_path / "a.safetensors")
    with pytest.raises(OutputError, match=r"as \.safetensors"):
        save_captions(captions, tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_replaced_only_if_asked(tmp_path, captions):
    path = tmp_path / "a.safetensors"
    save_captions(captions, path)
    with pytest.raises(OutputError, match="exists"):
        save_captions(captions, path)
    save_captions(replace(captions, encoder="another"), path, overwrite=True)
    assert read_captions(path).encoder == "another"
