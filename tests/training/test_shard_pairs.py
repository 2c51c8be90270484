"""What the official recipes learn from: packed latents or encoded ones, captions from the cache or the encoder."""

from dataclasses import replace

import pytest
import torch
from small_captions import WIDTH, write_encoder
from small_official import prepare, settings_of
from small_shards import ENCODING, pack_small

from latpix.backbones.codec import Codec
from latpix.captions import provide
from latpix.checkpoints.registry import find
from latpix.data.ahead import Encoding
from latpix.errors import DataError, UsageError
from latpix.training.caption_states import CaptionStates
from latpix.training.shard_pairs import ShardPairs, count_samples

ROW, TEXT, CPU = find("flux2-2kto4k-v1.5-teacher"), find("pixeldit-2kto4k"), torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    prepare(folder)
    encoding = Encoding(codec=Codec.load("flux2-lite", device="cpu", dtype="float32"))
    pack_small(folder / "pictures", folder / "encoded", encoding=encoding)
    pack_small(folder / "pictures", folder / "of another space", encoding=ENCODING)
    return folder


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def pairs(folder, row=ROW, vae="flux2-lite", **changes):
    return ShardPairs(settings_of("teacher", folder, **changes), row, CPU, vae=vae)


def test_packed_latents_are_those_that_would_be_made(folder):
    packed, made = pairs(folder, shards=str(folder / "encoded")), pairs(folder)
    assert (packed.codec, made.loader.loading.latents) == (None, False)
    for step in range(3):
        one, other = packed.draw(step, range(2)), made.draw(step, range(2))
        assert one.names == other.names
        assert one.latent.shape == (2, 128, one.pixels.shape[2] // 64, one.pixels.shape[3] // 64)
        torch.testing.assert_close(one.latent, other.latent, rtol=1e-3, atol=1e-3)
        assert one.native.shape[2:] == (one.pixels.shape[2] // 4, one.pixels.shape[3] // 4)


def test_a_network_without_latents_gets_one_without_channels(folder):
    batch = pairs(folder, TEXT).draw(0, range(2))
    assert batch.latent.shape == (2, 0, 1, 1)
    assert batch.native.shape == batch.pixels.shape


def test_samples_are_the_same_at_once_accumulated_or_in_any_order(folder):
    whole, parts = pairs(folder, batch=4), pairs(folder, batch=1, accumulate=4)
    for step in (0, 1, 5, 2):  # read ahead, and not
        together = whole.draw(step, range(4))
        apart = [parts.draw(step, range(number, number + 1)) for number in range(4)]
        assert together.names == sum((one.names for one in apart), ())
        for what in ("pixels", "latent", "caption"):
            assert torch.equal(getattr(together, what), torch.cat([getattr(one, what) for one in apart]))


def test_what_comes_next_is_read_ahead(folder, monkeypatch):
    data = pairs(folder, batch=2, accumulate=2)
    asked = []
    real = data.loader.batch_of
    monkeypatch.setattr(
        data.loader, "batch_of", lambda step, numbers: asked.append((step, numbers)) or real(step, numbers)
    )
    for step, first in ((0, 0), (0, 2), (1, 0), (1, 2)):
        data.draw(step, range(first, first + 2))
    data._ahead[(2, (0, 1))].result()
    assert asked == [(0, (0, 1)), (0, (2, 3)), (1, (0, 1)), (1, (2, 3)), (2, (0, 1))]


def test_the_position_is_the_loaders_and_only_of_these_shards(folder):
    data = pairs(folder)
    data.draw(6, range(2))
    position = data.position()
    assert position["step"] == 7
    again = pairs(folder)
    again.seek(position)
    assert again.position() == position
    with pytest.raises(DataError, match="other shards or other settings"):
        pairs(folder, batch=3).seek(position)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shards": ""}, "latpix data pack FOLDER... -o SHARDS"),
        (
            {"shards": "of another space"},
            'space "flux1", scale 4, but flux2-2kto4k-v1.5-teacher reads "flux2", scale 4',
        ),
        ({"size": 64}, "more than the 64x64 pixels that size=64 allows"),
        ({"context": 3}, "pictures of 64x128, whose 8 rows of patches cannot be shared evenly by context=3 processes"),
        (
            {"shards": "encoded", "vae": "black-forest-labs/FLUX.2-dev"},
            "holds latents of flux2-lite, which only approximates the VAE that flux2-2kto4k-v1.5-teacher reads. "
            "Pack with --vae black-forest-labs/FLUX.2-dev",
        ),
    ],
)
def test_shards_that_do_not_fit_are_refused(folder, monkeypatch, changes, message):
    if changes.get("shards"):
        changes = {**changes, "shards": str(folder / changes["shards"])}
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError) as refusal:
        pairs(folder, **changes)
    assert message in str(refusal.value)


def test_the_samples_of_an_epoch_are_counted_where_there_are_shards(folder):
    settings = settings_of("teacher", folder)
    assert count_samples(settings) == 5
    assert count_samples(replace(settings, shards="")) is None


def test_captions_have_their_own_states_and_pictures_without_have_those_of_the_empty_text(folder):
    data, seen = pairs(folder, batch=5), set()
    for step in range(2):  # both buckets
        captions = data.loader.batch_of(step).captions
        seen |= set(captions)
        for text, state in zip(captions, data.draw(step, range(5)).caption, strict=True):
            assert torch.equal(state, data.states([text])[0])
    assert seen == {"", "picture 0", "picture 2", "picture 4"}
    assert not torch.equal(data.states([""]), data.states(["picture 0"]))


@pytest.mark.slow
def test_the_encoder_gives_what_the_cache_would_have_and_stays_loaded(tmp_path):
    model = str(write_encoder(tmp_path / "encoder"))
    states = CaptionStates(model, CPU)
    fresh = states(["a bridge", "a boat"])
    encoder = states.encoder
    assert fresh.shape == (2, 300, WIDTH)
    assert torch.equal(states(["a boat"])[0], fresh[1])
    assert states.encoder is encoder is not None
    provide.embed(["a bridge", "a boat"], model=model, device="cpu")
    cached = CaptionStates(model, CPU)
    assert torch.equal(cached(["a bridge", "a boat"]), fresh)
    assert cached.encoder is None
