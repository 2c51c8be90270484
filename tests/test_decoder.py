from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_captions import write_encoder
from small_decoder import write_space_checkpoint
from torch.utils.flop_counter import FlopCounterMode

from latpix import Decoder, Latent, read_picture
from latpix.benchmark.traffic import ATTENTION_ON_CPU
from latpix.captions.provide import embed
from latpix.checkpoints.load import LoadedCheckpoint, load, outline
from latpix.checkpoints.quantize import quantize
from latpix.checkpoints.registry import find
from latpix.errors import (
    CaptionError,
    DownloadError,
    LatentError,
    MemoryLimitError,
    MemoryWarning,
    OptionError,
    OutputError,
)
from latpix.fitting import Fitting
from latpix.network.config import NetworkConfig
from latpix.network.model import Denoiser
from latpix.per_picture import reference_of

SMALL = NetworkConfig(
    latent_channels=16, width=32, heads=2, depth=2, pixel_width=4, pixel_attention_width=16, pixel_heads=2,
    pixel_depth=1, latent_width=8, latent_depth=1, caption_width=12, caption_length=7,
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    return Decoder.load("flux2-tiny", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def latent():
    return torch.randn(2, 128, 8, 9, generator=torch.Generator().manual_seed(1))


def small(name):
    """A registry row with a network small enough for a test, and weights that do something."""
    row = find(name)
    torch.manual_seed(0)
    network = Denoiser(SMALL).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.normal_(std=0.1)
    loaded = LoadedCheckpoint(replace(row, network=SMALL), network, "0" * 64, Path("small"))
    return Decoder(loaded, torch.device("cpu"), torch.float32)


def test_pixels_are_four_times_the_native_size_in_range_and_without_gradients(tiny, latent):
    pixels = tiny.decode(latent[:1].requires_grad_(), steps=1)
    assert pixels.shape == (1, 3, 8 * 64, 9 * 64)
    assert pixels.dtype == torch.float32
    assert pixels.abs().max() <= 1
    assert not pixels.requires_grad


def test_picture_k_of_a_batch_is_the_same_to_the_bit_as_alone(tiny, latent):
    both = tiny.decode(latent, seed=5, steps=2)
    assert torch.equal(both[1:], tiny.decode(latent[1:], seed=6, steps=2))
    assert torch.equal(both[:1], tiny.decode(latent[:1], seed=[5], steps=2))


def test_a_seed_decides_the_picture(tiny, latent):
    one = tiny.decode(latent[:1], seed=1, steps=1)
    assert torch.equal(one, tiny.decode(latent[:1], seed=1, steps=1))
    assert not torch.equal(one, tiny.decode(latent[:1], seed=2, steps=1))


def test_a_latent_brings_its_seed_its_sigma_and_its_native_size(tiny, latent):
    story = Latent(tensor=latent[:1], space="flux2", seed=9, latent_sigma=0.3, native_height=120, native_width=130)
    pixels = tiny.decode(story, steps=1)
    assert pixels.shape == (1, 3, 480, 520)
    plain = tiny.decode(latent[:1], seed=9, latent_sigma=0.3, steps=1)
    assert torch.equal(pixels, plain[..., :480, :520])
    assert not torch.equal(plain, tiny.decode(latent[:1], seed=9, steps=1))


def test_latents_below_eight_cells_are_padded_inside(tiny, latent):
    assert tiny.decode(latent[:1, :, :1, :3], steps=1).shape == (1, 3, 64, 192)


@pytest.mark.parametrize(
    ("options", "size"),
    [({"scale": 2.5}, (320, 360)), ({"scale": 8}, (1024, 1152)), ({"size": (300, 150)}, (300, 150))],
)
def test_any_scale_and_size_is_resampled(tiny, latent, options, size):
    assert tiny.decode(latent[:1], steps=1, **options).shape[-2:] == size


def test_one_tile_is_the_whole_picture_bit_for_bit(tiny, latent):
    whole = tiny.decode(latent[:1], steps=1, tile="off")
    assert torch.equal(whole, tiny.decode(latent[:1], steps=1, tile=9))
    assert not torch.equal(whole, tiny.decode(latent[:1], steps=1, tile=8))


@pytest.mark.parametrize(
    ("cells", "tiles", "tile"), [((8, 8), 1, 8), ((10, 9), 1, 10), ((11, 11), 4, 8), ((8, 21), 4, 8), ((20, 20), 9, 8)]
)
def test_inside_the_trained_sizes_a_picture_is_one_piece_and_beyond_it_is_tiles_of_the_largest(cells, tiles, tile):
    """Native sides of 64 to 64 pixels, cells of 8: a quarter beyond is still inside, and so are not too long shapes."""
    decoder = small("flux1-2k")
    decoder.checkpoint = replace(decoder.checkpoint, native_sizes=(64, 64))
    plan = decoder.plan(height=cells[0], width=cells[1])
    assert (plan.tiles, plan.tile) == (tiles, tile)
    assert bool(plan.levers) == (tiles > 1)
    assert decoder.plan(height=cells[0], width=cells[1], tile="off").tiles == 1


def test_a_picture_painted_straight_into_a_file_is_that_of_the_same_tiles(tiny, latent, tmp_path):
    pixels = tiny.decode(latent[:1], steps=2, tile=8, seed=3)
    seen = []
    tiny.decode_to_tiff(
        latent[:1],
        tmp_path / "a.tiff",
        steps=2,
        tile=8,
        seed=3,
        on_step=lambda i, n, x0: seen.append((i, n, x0.shape[2])),
    )
    assert seen == [(1, 2, 512), (2, 2, 512)]
    assert [path.name for path in tmp_path.iterdir()] == ["a.tiff"]
    assert (read_picture(tmp_path / "a.tiff") - pixels).abs().max() < 2 / 127.5  # rounded to levels
    with pytest.raises(OutputError, match="exists already"):
        tiny.decode_to_tiff(latent[:1], tmp_path / "a.tiff")
    story = Latent(tensor=latent[:1], space="flux2", native_height=120, native_width=130)
    tiny.decode_to_tiff(story, tmp_path / "b.tiff", steps=1)
    assert read_picture(tmp_path / "b.tiff").shape[2:] == (480, 520)


def test_colours_are_held_to_a_picture_or_to_the_base_decoders(tiny, latent):
    grey = torch.zeros(1, 3, 20, 30)
    plain = tiny.decode(latent[:1], steps=1)
    held = tiny.decode(latent[:1], steps=1, colour_lock=grey)
    assert F.avg_pool2d(held, 64).abs().max() < 0.5 * F.avg_pool2d(plain, 64).abs().max()
    assert not torch.equal(tiny.decode(latent[:1], steps=1, colour_lock=True), plain)
    with pytest.raises(OptionError, match=r"\[1 or 1, 3, height, width\]"):
        reference_of(grey[0], 1, tiny.checkpoint)
    with pytest.raises(OptionError, match="no base decoder"):
        small("flux1-2k").decode(torch.randn(1, 16, 8, 8), caption=torch.zeros(1, 5, 12), colour_lock=True)


@pytest.mark.parametrize(("cells", "native"), [((8, 9), (120, 130)), ((1, 3), (16, 48))])
def test_locked_colours_are_the_base_decoders_where_the_latent_holds_padding(tiny, cells, native):
    tensor = torch.randn(1, 128, *cells, generator=torch.Generator().manual_seed(1))
    story = Latent(tensor=tensor, space="flux2", native_height=native[0], native_width=native[1])
    locked = tiny.decode(story, steps=1, colour_lock=True)
    given = ("latent_sigma", "caption", "null_caption", "caption_model", "seed", "detail_map", "memory_limit")
    (one,) = tiny._ones(story, steps=1, **dict.fromkeys(given))
    held = one.base_at_native_size()[..., : native[0], : native[1]]
    grid = tuple(max(1, round(side / 16)) for side in native)
    off = F.interpolate(locked, size=grid, mode="area") - F.interpolate(held, size=grid, mode="area")
    assert off.abs().max() < 0.02


def test_a_black_detail_map_changes_nothing_and_a_white_one_is_the_noisiest_latent_to_the_gates():
    decoder, latent = small("flux1-2k"), torch.randn(1, 16, 8, 8)
    caption = torch.randn(1, 5, 12)

    def decoded(**options):
        return decoder.decode(latent, caption=caption, steps=1, **options)

    black, white = -torch.ones(1, 3, 4, 4), torch.ones(1, 3, 5, 7)
    assert torch.equal(decoded(detail_map=black), decoded())
    assert torch.equal(decoded(detail_map=white, latent_sigma=0.1), decoded(latent_sigma=0.8))
    half = torch.cat([black, white[..., :4, :4]], dim=3)
    assert not torch.equal(decoded(detail_map=half), decoded())


def test_on_step_counts_the_steps_of_the_whole_batch(tiny, latent):
    seen = []
    tiny.decode(latent, steps=2, on_step=lambda step, steps, x0: seen.append((step, steps, tuple(x0.shape))))
    assert seen == [(k, 4, (1, 3, 512, 576)) for k in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"latent_sigma": 1.2}, OptionError, "between 0"),
        ({"latent_sigma": -0.1}, OptionError, "between 0"),
        ({"latent_sigma": 0.9}, OptionError, "trained up to 0.8"),
        ({"latent_sigma": [0.1, 0.2, 0.3]}, OptionError, "3 values"),
        ({"steps": 0}, OptionError, "1 to 4 steps"),
        ({"steps": 5}, OptionError, "1 to 4 steps"),
        ({"scale": 32}, OptionError, "0.5 to 16"),
        ({"scale": 2, "size": (8, 8)}, OptionError, "give one"),
        ({"seed": [1, 2]}, OptionError, "2 seeds for 1"),
        ({"tile": 4}, OptionError, "at least 8"),
        ({"memory_limit": "much"}, OptionError, "memory size"),
        ({"memory_limit": "200MiB"}, MemoryLimitError, "smallest"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_can(tiny, latent, options, error, words):
    with pytest.raises(error, match=words):
        tiny.decode(latent[:1], **options)


def test_a_latent_of_another_space_is_refused(tiny):
    with pytest.raises(LatentError, match='"flux1"'):
        tiny.decode(torch.randn(1, 16, 8, 8))
    with pytest.raises(LatentError, match="sdxl"):
        tiny.decode(Latent(tensor=torch.randn(1, 4, 8, 8), space="sdxl"))


def test_a_network_with_a_caption_stream_asks_for_a_caption_of_the_right_width():
    decoder, latent = small("flux1-2k"), torch.randn(1, 16, 8, 8)
    with pytest.raises(CaptionError, match=r"none was given.*--caption-file.*--no-caption"):
        decoder.decode(latent)
    with pytest.raises(CaptionError, match="3 captions for 1 latents"):
        decoder.decode(latent, caption=["a", "b", "c"])
    with pytest.raises(CaptionError, match="12"):
        decoder.decode(latent, caption=torch.randn(1, 5, 13))
    assert decoder.decode(latent, caption=torch.randn(1, 5, 12), steps=1).shape == (1, 3, 256, 256)


def test_a_text_is_embedded_by_the_text_encoder_one_for_all_pictures_or_one_for_each(tmp_path):
    gemma, decoder = write_encoder(tmp_path / "gemma"), small("flux1-2k")
    latent = torch.randn(2, 16, 8, 8)
    states = embed(["a cat", "a dog"], model=gemma, device="cpu")

    def decoded(latent, caption):
        return decoder.decode(latent, caption=caption, caption_model=gemma, steps=1)

    assert torch.equal(decoded(latent, ["a cat", "a dog"]), decoded(latent, states))
    assert torch.equal(decoded(latent, "a cat"), decoded(latent, states[:1]))
    told = Latent(tensor=latent, space="flux1", caption="a cat")
    assert torch.equal(decoded(told, None), decoded(latent, "a cat"))
    assert torch.equal(decoded(told, ["a dog"]), decoded(latent, "a dog"))


def test_a_text_encoder_that_a_limit_leaves_no_room_for_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("latpix.fitting.resident_bytes", lambda: 10**9)
    gemma, decoder, latent = write_encoder(tmp_path / "gemma"), small("flux1-2k"), torch.randn(1, 16, 8, 8)
    with pytest.raises(MemoryLimitError, match=r"text encoder takes \d+ MiB, and 3142 MiB.*latpix caption.*raise"):
        decoder.decode(latent, caption="an owl", memory_limit="4GiB")
    with pytest.raises(DownloadError):  # it would be loaded
        decoder.decode(latent, caption="an owl", memory_limit="64GiB")
    to_folder = {"caption": "an owl", "caption_model": gemma, "steps": 1, "memory_limit": 10**9 + 100}
    with pytest.raises(MemoryLimitError, match="text encoder takes"):
        decoder.decode(latent, **to_folder)
    embed("an owl", model=gemma, device="cpu")
    with pytest.raises(MemoryLimitError, match="too small for a latent"):
        decoder.decode(latent, **to_folder)
    assert decoder.decode(latent, **{**to_folder, "memory_limit": "4GiB"}).shape == (1, 3, 256, 256)


def test_a_network_without_a_caption_stream_takes_any_caption_and_loads_nothing(tiny, latent):
    plain = tiny.decode(latent[:1], steps=1)
    assert torch.equal(plain, tiny.decode(latent[:1], steps=1, caption="a cat", caption_model="no/encoder"))


def test_an_undistilled_network_is_guided_away_from_the_null_caption():
    decoder, latent = small("flux1-2kto4k-v1.5-teacher"), torch.randn(1, 16, 8, 8)
    caption, null = torch.randn(1, 5, 12), torch.randn(1, 7, 12)
    with pytest.raises(DownloadError, match="text encoder"):  # of the negative prompt
        decoder.decode(latent, caption=caption, steps=2)
    guided = decoder.decode(latent, caption=caption, null_caption=null, steps=2)
    same = decoder.decode(latent, caption=caption, null_caption=caption, steps=2)
    assert not torch.equal(guided, same)


def test_a_plan_names_the_output_and_tells_which_lever_a_limit_pulls(tiny):
    plan = tiny.plan(height=8, width=12)
    assert (plan.height, plan.width, plan.tiles, plan.levers) == (512, 768, 1, ())
    assert plan.seconds > 0
    in_memory, in_files = (tiny.plan(height=64, width=64, tile=24, in_files=there) for there in (False, True))
    assert in_files.peak_bytes < in_memory.peak_bytes
    with pytest.raises(MemoryLimitError) as refusal:
        tiny.plan(height=64, width=64, memory_limit="10MB")
    least = int(str(refusal.value).split("fits into is ")[1].split(" MiB")[0])
    tight = tiny.plan(height=64, width=64, memory_limit=f"{least}MiB")
    assert tight.peak_bytes <= least * 2**20
    assert tight.tiles > 1
    assert "tiles" in tight.levers[-1]
    assert tiny.plan(height=64, width=64, batch=8).peak_bytes > tiny.plan(height=64, width=64).peak_bytes
    assert (tiny.plan(height=8, width=8, scale=2).height, tiny.plan(height=8, width=8, size=(99, 90)).width) == (
        256,
        90,
    )


@pytest.mark.parametrize("tile", ["off", 8])
@pytest.mark.parametrize("name", ["flux2-tiny", "flux1-2k", "flux1-2kto4k-v1.5-teacher"])
def test_a_decodes_operations_are_those_that_torch_counts(tiny, tmp_path, monkeypatch, name, tile):
    monkeypatch.setattr("latpix.fitting.operations_per_second", lambda *_: 1.0)
    decoder, words = tiny if name == "flux2-tiny" else small(name), torch.randn(2, 1, 7, 12)
    how = {"caption": words[0], "null_caption": words[1], "steps": 2, "tile": tile}
    width = 8 if tile == "off" else 12
    latent = torch.randn(1, decoder.space.channels, 8, width)
    decoder.decode(latent[..., :8], **{**how, "steps": 1})  # attention is probed once
    for in_files in (False, True):
        with FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU) as counter:
            if in_files:
                decoder.decode_to_tiff(latent, tmp_path / "a.tiff", **how)
            else:
                decoder.decode(latent, **how)
        told = decoder.plan(height=8, width=width, steps=2, tile=tile, in_files=in_files).seconds
        # Windows that reach beyond the picture are counted as far as they lie in it, and computed whole.
        assert told == pytest.approx(counter.get_total_flops(), rel=0.04 if name == "flux2-tiny" else 0.01)


@pytest.mark.parametrize(
    "given", [{"height": 0}, {"width": -3}, {"batch": 0}, {"scale": float("nan")}, {"scale": -4}], ids=str
)
def test_a_plan_of_what_cannot_be_is_refused(tiny, given):
    ((name, value),) = given.items()
    with pytest.raises(OptionError, match=f"{name} is {value}"):
        tiny.plan(**{"height": 8, "width": 8, **given})


def test_on_an_accelerator_what_others_hold_there_counts_too(tiny, monkeypatch):
    there = Decoder(LoadedCheckpoint(tiny.checkpoint, tiny.network, "", Path()), torch.device("cuda"), torch.float32)
    monkeypatch.setattr("latpix.fitting.operations_per_second", lambda *_: 1.0)
    weights = sum(p.nbytes for p in tiny.network.parameters())
    peaks = []
    for reserved in (0, weights, weights + 10**9):
        monkeypatch.setattr("latpix.fitting.reserved_bytes", lambda _device, reserved=reserved: reserved)
        peaks.append(there.plan(height=8, width=8).peak_bytes)
    assert peaks[0] == peaks[1] == peaks[2] - 10**9


def test_a_quantized_checkpoint_is_planned_as_it_rests(tmp_path, monkeypatch):
    plain = write_space_checkpoint(tmp_path / "plain.safetensors", "sdxl")
    quantize(plain, tmp_path / "int8.safetensors")
    files = [plain, tmp_path / "int8.safetensors"]
    bare, loaded = ([make(file) for file in files] for make in (outline, load))
    weights = [sum(p.nbytes for p in found.network.parameters()) for found in bare]
    assert weights == [sum(p.nbytes for p in found.network.parameters()) for found in loaded]
    assert all(p.is_meta for found in bare for p in found.network.parameters())
    monkeypatch.setattr("latpix.fitting.resident_bytes", lambda: 10**8)
    decoders = [Decoder.without_weights(file, device="cpu", dtype="float32") for file in files]
    held = [decoder._fitting.held() for decoder in decoders]
    assert held[0] - held[1] == weights[0] - weights[1] > 0


class RunsOut:
    """A block's hook: memory runs out at some calls, as a CPU's allocator says it."""

    def __init__(self, decoder, times, after=0):
        self.left, self.calls, self.after = times, 0, after
        self.handle = decoder.network.pixel_blocks[0].register_forward_pre_hook(self)

    def __call__(self, *_):
        self.calls += 1
        if self.left and self.calls > self.after:
            self.left -= 1
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"
            )


def test_where_memory_runs_out_the_decode_goes_on_with_less_and_says_so(tiny, latent):
    whole = tiny.decode(latent, steps=1)
    steps, out = [], RunsOut(tiny, 1)
    try:
        with pytest.warns(MemoryWarning, match="ran out of memory; going on with pieces of"):
            again = tiny.decode(latent, steps=1, on_step=lambda step, *_: steps.append(step))
    finally:
        out.handle.remove()
    torch.testing.assert_close(again, whole)
    assert all(setting.levers for setting in tiny.last_settings)
    assert steps == list(range(1, len(latent) + 1))


def test_a_picture_painted_before_memory_ran_out_is_told_as_it_was_painted(tiny, latent):
    out = RunsOut(tiny, 1, after=1)
    try:
        with pytest.warns(MemoryWarning):
            tiny.decode(latent, steps=1)
    finally:
        out.handle.remove()
    assert [bool(setting.levers) for setting in tiny.last_settings] == [False, True]


def test_a_batch_is_decoded_as_it_was_planned(tiny, monkeypatch):
    monkeypatch.setattr(Fitting, "held", lambda _self: 10**8)
    how = {"height": 8, "width": 8, "batch": 3, "steps": 1}
    for room in (0.99, 0.91):
        limit = int(room * tiny.plan(**how, memory_limit="64GiB").peak_bytes)
        plan = tiny.plan(**how, memory_limit=limit)
        tiny.decode(torch.randn(3, 128, 8, 8), steps=1, memory_limit=limit)
        assert plan.levers
        assert tiny.last_settings == (plan.setting,) * 3


def test_memory_that_runs_out_twice_is_an_error(tiny, latent):
    out = RunsOut(tiny, 2)
    try:
        with pytest.warns(MemoryWarning), pytest.raises(MemoryLimitError, match=r"memory again.*smaller tile"):
            tiny.decode(latent[:1], steps=1)
    finally:
        out.handle.remove()
    assert out.calls == 2


def test_another_error_is_not_taken_for_memory_that_ran_out(tiny, latent):
    def broken(*_):
        raise RuntimeError("shapes do not fit")

    handle = tiny.network.pixel_blocks[0].register_forward_pre_hook(broken)
    try:
        with pytest.raises(RuntimeError, match="do not fit"):
            tiny.decode(latent[:1], steps=1)
    finally:
        handle.remove()
