"""A small Gemma 2 runs the code that the real one does; what must not happen to it is refused in a sentence."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_captions import WIDTH, write_encoder

from latpix.captions.encoder import CaptionEncoder
from latpix.captions.model_files import MODEL
from latpix.captions.prompt_prefix import PREFIX
from latpix.errors import CaptionError, DownloadError, MissingExtraError, OptionError


def load(folder, dtype="float32"):
    return CaptionEncoder.load(folder, device="cpu", dtype=dtype)


@pytest.fixture(scope="module")
def encoder(gemma):
    return load(gemma)


def test_a_caption_becomes_three_hundred_states_without_gradients(encoder):
    states = encoder.encode(["a cat", "a dog"])
    assert states.shape == (2, 300, WIDTH)
    assert states.dtype == torch.float32
    assert not states.requires_grad
    assert not torch.equal(states[0], states[1])


def test_a_captions_bits_do_not_depend_on_its_neighbours(encoder):
    both = encoder.encode(["a dog", "a photograph of a cat on a wooden table"])
    assert torch.equal(both[1:], encoder.encode(["a photograph of a cat on a wooden table"]))


def test_the_states_are_those_of_the_whole_prompt_at_the_kept_positions(encoder):
    prompts = encoder.tokens(["a cat"])
    own = int(prompts.mask.sum())
    assert prompts.ids.shape[1] == prompts.prefix_tokens + 298
    alone = encoder._model(input_ids=prompts.ids[:, :own]).last_hidden_state  # without padding
    kept = [position for position in prompts.kept if position < own]
    torch.testing.assert_close(encoder.encode(["a cat"])[:, : len(kept)], alone[:, kept], rtol=1e-4, atol=1e-5)


def test_states_of_padding_differ_by_position(encoder):
    tail = encoder.encode(["a cat"])[0, -50:]
    assert (tail[1:] - tail[:-1]).abs().amax(dim=1).min() > 0


def test_words_beyond_the_last_token_do_not_count(encoder):
    long = "cat " * 400
    prompts = encoder.tokens([long])
    assert prompts.mask.all()
    assert torch.equal(encoder.encode([long]), encoder.encode([long + "and a dog"]))


def test_the_soft_cap_of_the_configuration_is_ignored(tmp_path, encoder):
    hard = write_encoder(tmp_path / "hard", softcap=0.05)
    assert torch.equal(load(hard).encode(["a cat"]), encoder.encode(["a cat"]))


def test_the_weights_rest_in_the_type_asked_for_and_the_head_is_not_there(gemma):
    encoder = load(gemma, "bfloat16")
    parameters = dict(encoder._model.named_parameters())
    assert {parameter.dtype for parameter in parameters.values()} == {torch.bfloat16}
    assert not any("lm_head" in name for name in parameters)
    assert encoder.encode(["a cat"]).dtype == torch.bfloat16


def test_a_head_in_the_file_is_left_alone_but_what_is_strange_or_missing_is_named(own_gemma, encoder):
    path = own_gemma / "model.safetensors"
    weights = load_file(path)
    save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}, path, {"format": "pt"})
    assert torch.equal(load(own_gemma).encode(["a cat"]), encoder.encode(["a cat"]))
    weights["model.strange.weight"] = weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(CaptionError, match=r"lacks layers\.1\.mlp\.up_proj\.weight and has .*strange\.weight"):
        load(own_gemma)


def test_a_folder_of_another_model_is_refused(own_gemma):
    config = json.loads((own_gemma / "config.json").read_text())
    (own_gemma / "config.json").write_text(json.dumps(config | {"model_type": "gemma"}))
    with pytest.raises(CaptionError, match='"gemma" model, but captions are embedded by Gemma 2'):
        load(own_gemma)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_damaged_or_incomplete_folder_is_refused(own_gemma, name):
    (own_gemma / name).write_bytes((own_gemma / name).read_bytes()[:100])
    with pytest.raises(CaptionError, match="no text encoder that can be loaded"):
        load(own_gemma)
    (own_gemma / name).unlink()
    with pytest.raises(CaptionError, match="no text encoder that can be loaded"):
        load(own_gemma)


def test_a_model_that_is_nowhere_names_the_three_ways_on(tmp_path):
    with pytest.raises(DownloadError) as download:
        CaptionEncoder.load()
    with pytest.raises(CaptionError) as folder:
        CaptionEncoder.load(tmp_path / "nowhere")
    for message in (str(download.value), str(folder.value)):
        for way in (f"hf download {MODEL}", "--caption-file", "--no-caption"):
            assert way in message


def test_without_transformers_the_extra_is_named(gemma, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"latpix\[captions\]"):
        load(gemma)


def test_an_unknown_device_or_type_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(OptionError):
        CaptionEncoder.load(tmp_path, device="abacus")
    with pytest.raises(OptionError):
        load(tmp_path, "int3")


def test_loading_leaves_the_librarys_settings_alone_and_says_nothing(gemma, capfd):
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled(), logging.get_verbosity()
    load(gemma).close()
    assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == before
    assert capfd.readouterr() == ("", "")


def test_another_prefix_and_length_can_be_asked_for(encoder):
    assert encoder.encode(["a cat"], prefix="", length=20).shape == (1, 20, WIDTH)
    assert encoder.tokens(["a cat"], prefix="", length=20).prefix_tokens == 0
    assert encoder.tokens(["a cat"]).prefix_tokens == len(encoder._tokenizer(PREFIX)["input_ids"])
