"""Batches: the same samples whatever the workers, the ranks and the interruptions; pixels in their stated range."""

import json
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_shards import ENCODING, MeanCodec, pack_small, write_pictures

from latpix.data.ahead import Encoding
from latpix.data.loader import Loader, Loading
from latpix.data.order import Order
from latpix.data.pictures import decode, to_pixels
from latpix.data.shards import read_index
from latpix.errors import DataError, OptionError


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    pictures = write_pictures(folder / "in")
    (pictures / "01.json").write_text(json.dumps({"prompt": "long", "prompt_short": "short"}))
    return pack_small(pictures, folder / "out", encoding=ENCODING).output


CROPS = Loading(batch=4, seed=3, crop=32, by_detail=True, mirror=True)
BUCKETS = Loading(batch=2, seed=5)
LATENTS = Loading(batch=2, seed=1, crop=64, mirror=True, latents=True)


def take(loader, count):
    stream = iter(loader)
    return [next(stream) for _ in range(count)]


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert (one.names, one.captions, one.bucket) == (other.names, other.captions, other.bucket)
        assert torch.equal(one.pixels, other.pixels)
        assert (one.latent is None) == (other.latent is None)
        assert one.latent is None or torch.equal(one.latent, other.latent)


@pytest.mark.parametrize("loading", [CROPS, BUCKETS, LATENTS])
def test_workers_change_no_sample(shards, loading):
    assert_same(take(Loader(shards, loading, workers=2), 9), take(Loader(shards, loading), 9))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("seen", [0, 1, 3, 5])
def test_a_resumed_run_sees_what_the_unbroken_one_would(shards, seen, workers):
    unbroken = take(Loader(shards, CROPS), 8)
    broken = Loader(shards, CROPS, workers=workers)
    assert_same(take(broken, seen), unbroken[:seen])
    state = json.loads(json.dumps(broken.state_dict()))
    resumed = Loader(shards, CROPS, workers=workers)
    resumed.load_state_dict(state)
    assert_same(take(resumed, 8 - seen), unbroken[seen:])


@pytest.mark.parametrize("loading", [CROPS, BUCKETS])
@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_share_the_samples_of_one_process(shards, loading, ranks):
    whole = take(Loader(shards, loading), 6)
    shares = [take(Loader(shards, loading, rank=rank, ranks=ranks), 6) for rank in range(ranks)]
    for step, batch in enumerate(whole):
        assert batch.names == sum((share[step].names for share in shares), ())
        assert torch.equal(batch.pixels, torch.cat([share[step].pixels for share in shares]))


def test_any_step_can_be_asked_for_and_single_samples_of_it(shards):
    loader = Loader(shards, CROPS)
    unbroken = take(Loader(shards, CROPS), 6)
    assert_same([loader.batch_of(step) for step in (4, 0)], [unbroken[4], unbroken[0]])
    assert torch.equal(loader.batch_of(2, [3]).pixels, unbroken[2].pixels[3:])
    assert loader.step == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_nobody_elses_random_numbers_are_used_up(shards, workers):
    before = torch.get_rng_state()
    take(Loader(shards, CROPS, workers=workers), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_epochs_differ_and_each_sees_every_sample(shards):
    loader = Loader(shards, BUCKETS)
    epochs = [[loader.batch_of(step + epoch * loader.steps_per_epoch) for step in range(loader.steps_per_epoch)]
              for epoch in range(2)]  # fmt: skip
    names = [[name for batch in epoch for name in batch.names] for epoch in epochs]
    everything = {entry.name for entry in read_index(shards)}
    assert set(names[0]) == set(names[1]) == everything
    assert names[0] != names[1]
    assert all(batch.pixels.shape == (2, 3, *map(int, reversed(batch.bucket.split("x")))) for batch in epochs[0])


def test_crops_of_one_sample_differ_from_step_to_step(shards):
    one = Loading(batch=7, crop=32)
    loader = Loader(shards, one)
    first, second = loader.batch_of(0), loader.batch_of(1)
    crops = [dict(zip(batch.names, batch.pixels, strict=True)) for batch in (first, second)]
    assert sum(not torch.equal(crops[0][name], crops[1][name]) for name in crops[0]) >= 6


def test_pixels_are_levels_in_their_stated_range_even_of_a_bright_picture(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    from PIL import Image

    Image.new("RGB", (64, 64), (200, 220, 255)).save(folder / "bright.png")
    packed = pack_small(folder, tmp_path / "out")
    (entry,) = read_index(packed.output)
    batch = Loader(packed.output, Loading(batch=1)).batch_of(0)
    assert torch.equal(batch.pixels[0], to_pixels(decode(entry.read(packed.output, entry.picture), "it")))
    torch.testing.assert_close(batch.pixels[0, :, 0, 0], torch.tensor([200, 220, 255]) / 127.5 - 1)


def test_latents_are_cut_with_their_pixels_also_when_mirrored(shards):
    loader = Loader(shards, LATENTS)
    for step in range(8):
        batch = loader.batch_of(step)
        assert batch.latent.shape == (2, 6, 2, 2)
        # The latent's first three channels are mean colours, whatever lies around the crop, up to the resize's reach.
        means = torch.nn.functional.avg_pool2d(batch.pixels, 32)
        assert (batch.latent[:, :3] - means).abs().mean() < 0.1
        slopes = batch.latent[:, 3:] - batch.latent[:, :3] * 7 / 16
        ramp = (torch.arange(32) / 32).repeat(2) - 31 / 64
        expected = torch.nn.functional.avg_pool2d(batch.pixels * ramp, 32)
        assert (slopes - expected).abs().mean() < 0.1 * max(0.3, expected.abs().mean())


def test_one_of_several_captions_is_drawn(shards):
    loader = Loader(shards, Loading(batch=7, crop=32))
    drawn = Counter(caption for step in range(12) for caption in loader.batch_of(step).captions)
    assert drawn["long"] + drawn["short"] == 12
    assert drawn["long"] > 0
    assert drawn["short"] > 0
    assert drawn["picture 0"] == 12
    assert drawn[""] == 24  # of 03 and 05


def test_large_pictures_come_at_half_size_too(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    from PIL import Image

    checks = Image.linear_gradient("L").resize((1024, 1024)).convert("RGB")
    checks.save(folder / "large.png")
    packed = pack_small(folder, tmp_path / "out")
    loader = Loader(packed.output, Loading(batch=1, crop=512, halve=True))
    ranges = {round(float(batch.pixels.amax() - batch.pixels.amin()), 0) for batch in take(loader, 12)}
    assert ranges == {1.0, 2.0}  # half of the gradient, or all of it


@pytest.mark.parametrize(
    ("loading", "error", "message"),
    [
        (Loading(batch=1, crop=400), DataError, "the largest possible is 128"),
        (Loading(batch=1, crop=48, latents=True), OptionError, "cut through latent cells, which cover 32"),
        (Loading(batch=1, crop=64, latents=True, halve=True), OptionError, "other latents"),
        (Loading(batch=1, by_detail=True), OptionError, "need a crop"),
        (Loading(batch=1, halve=True), OptionError, "needs a crop"),
        (Loading(batch=0), OptionError, "batch of 0"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(shards, loading, error, message):
    with pytest.raises(error, match=message):
        Loader(shards, loading)


def test_latents_that_are_not_there_are_asked_for_by_name(tmp_path):
    folder = write_pictures(tmp_path / "in", [(64, 64)])
    plain = pack_small(folder, tmp_path / "plain").output
    with pytest.raises(DataError, match="--encode SPACE"):
        Loader(plain, Loading(batch=1, latents=True))
    upright = pack_small(folder, tmp_path / "upright", encoding=Encoding(codec=MeanCodec())).output
    with pytest.raises(OptionError, match="--mirrored"):
        Loader(upright, Loading(batch=1, latents=True, mirror=True))
    assert Loader(upright, Loading(batch=1, latents=True)).batch_of(0).latent.shape == (1, 6, 2, 2)


def test_a_position_of_other_shards_or_settings_is_refused(shards, tmp_path):
    state = Loader(shards, CROPS).state_dict()
    other = pack_small(write_pictures(tmp_path / "in", seed=1), tmp_path / "out").output
    for loader in (Loader(other, CROPS), Loader(shards, BUCKETS)):
        with pytest.raises(DataError, match="other shards or other settings"):
            loader.load_state_dict(state)
    with pytest.raises(OptionError, match="cannot be shared by 3 ranks"):
        Loader(shards, CROPS, ranks=3)


def test_without_an_index_the_tars_are_read(shards, tmp_path):
    for path in shards.glob("*.tar"):
        (tmp_path / path.name).symlink_to(path)
    assert read_index(tmp_path) == read_index(shards)
    with pytest.raises(DataError, match="latpix data pack"):
        read_index(tmp_path / "nowhere")


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), st.integers(1, 9), st.integers(0, 3))
def test_an_epoch_is_full_batches_of_one_bucket_that_see_every_sample(buckets, batch, seed):
    order = Order(buckets, batch=batch, seed=seed)
    for epoch in range(2):
        steps = [order.samples(epoch * order.steps_per_epoch + step) for step in range(order.steps_per_epoch)]
        assert {len(samples) for samples in steps} == {batch}
        assert all(len({buckets[sample] for sample in samples}) == 1 for samples in steps)
        assert {sample for samples in steps for sample in samples} == set(range(len(buckets)))
    assert order.place(order.steps_per_epoch).epoch == 1


def test_a_batch_of_one_is_the_shuffled_order_itself():
    order = Order(list("aabbab"), batch=1, seed=0)
    assert sorted(order.samples(step)[0] for step in range(6)) == list(range(6))
    assert order.steps_per_epoch == 6
