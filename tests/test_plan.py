from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from latpix.checkpoints.registry import find
from latpix.devices import is_out_of_memory, parse_bytes
from latpix.errors import MemoryLimitError, OptionError
from latpix.network.base_decoder import BAND, BaseDecoder
from latpix.network.config import NetworkConfig
from latpix.network.model import build, default_pieces
from latpix.operations import call_operations
from latpix.plan import ROOM, CostModel, Job, Setting

MIB = 2**20
SMALL = NetworkConfig(
    latent_channels=8, width=64, heads=2, depth=2, pixel_width=8, pixel_attention_width=32, pixel_heads=2,
    pixel_depth=1, latent_width=16, latent_depth=1, caption_width=12, caption_length=7,
)  # fmt: skip


def costs(config=SMALL):
    return CostModel(config, held=10**7, dtype=torch.float32, on_cpu=True)


def whole(side, config=SMALL):
    return Setting(side, default_pieces(config), 1)


def peak(height, width, tile, config=SMALL, **job):
    return costs(config).peak_bytes(Job(height, width, **job), Setting(tile, default_pieces(config), 1))


@pytest.mark.parametrize(
    ("text", "size"), [("1.5GiB", 3 * 2**29), ("900MB", 900_000_000), ("64 kib", 65536), (12, 12), ("2G", None)]
)
def test_sizes_are_read_with_their_units(text, size):
    if size is None:
        with pytest.raises(OptionError, match=r"1\.5GiB"):
            parse_bytes(text)
    else:
        assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "lots", "-1GiB", "0", "GiB", "inf", "nan", "1e400GiB", "0.5"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(OptionError, match="memory size"):
        parse_bytes(text)


def test_operations_are_those_of_the_networks_matrix_products():
    network, size = build(SMALL, device="meta"), 8 * 8 * 4
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        condition = network.condition(
            height=size, width=size, latent=torch.empty(1, 8, 8, 8), latent_sigma=torch.empty(1),
            caption=torch.empty(1, 7, 12),
        )  # fmt: skip
        network(torch.empty(1, 3, size, size), torch.empty(1), condition)
    counted = counter.get_total_flops()
    assert costs().operations(Job(8, 8, steps=1), whole(8)) == counted


def test_the_base_decoders_operations_are_those_of_its_convolutions_bands_included():
    with_base = replace(
        SMALL, image_channels=3, base_widths=(16, 12, 8, 8), base_blocks=(2, 2, 1, 1), latent_downsample=8,
        caption_width=0,
    )  # fmt: skip
    without = replace(with_base, base_widths=(), base_blocks=())
    base = BaseDecoder(with_base).requires_grad_(False)
    height, width = 2 * BAND + 3, 5
    with FlopCounterMode(display=False) as counter:
        base.paint(torch.zeros(1, 8, height, width), torch.zeros(1))
    counted = counter.get_total_flops()
    job = Job(height, width, steps=1)
    told = [costs(config).operations(job, whole(height)) for config in (with_base, without)]
    assert told[0] - told[1] == pytest.approx(counted, rel=2e-4)


@pytest.mark.parametrize(("name", "trillions"), [("flux2-2k", 177.86), ("flux1-2kto4k-v1.5", 175.83)])
def test_a_released_decode_takes_its_calls_less_what_is_done_once(name, trillions):
    """2048x2048 in 4 steps: 180.55 and 185.44 if every call did everything, less 2.69 and 9.60, and the caption's."""
    config = find(name).network
    cells = 2048 // (config.scale * config.latent_downsample)
    told = costs(config).operations(Job(cells, cells), whole(cells, config))
    assert told / 1e12 == pytest.approx(trillions, abs=0.01)
    again = Setting(cells, replace(default_pieces(config), keep_features=False), 1)
    heads = call_operations(config, 128, 128).heads
    assert costs(config).operations(Job(cells, cells), again) == told + 3 * heads


def test_a_guided_step_is_two_calls_and_a_tile_is_told_anew_at_every_step():
    guided, job = replace(costs(), guided=True), Job(16, 16, steps=3)
    assert guided.operations(job, whole(16)) == 2 * costs().operations(job, whole(16))
    picture, part = (call_operations(SMALL, side * 2, side * 2) for side in (16, 12))
    tiled = picture.latent_stack + 4 * 3 * (part.total - part.latent_stack)
    assert costs().operations(job, Setting(12, default_pieces(SMALL), 1)) == tiled


@pytest.mark.parametrize("name", ["flux2-2k", "flux1-2kto4k-v1.5"])
@pytest.mark.parametrize(("on_cpu", "depths"), [(True, (2, 1)), (False, (14, 2))])
@pytest.mark.parametrize(
    ("side", "limit", "most"),
    [(1024, None, 420), (2048, None, 1200), (4096, None, 4608), (2048, 760, 760), (4096, 2800, 2800)],
)
def test_the_peak_over_weights_at_full_width_is_foretold_below_its_target(name, on_cpu, depths, side, limit, most):
    """On a CPU with the blocks that its measured peaks have (tests/test_memory.py), else the whole network."""
    config = replace(find(name).network, depth=depths[0], pixel_depth=depths[1])
    over = CostModel(config, held=0, dtype=torch.bfloat16, on_cpu=on_cpu, frugal=limit is not None)
    cells = side // (config.scale * config.latent_downsample)
    job, bound = Job(cells, cells), (limit or 2**20) * MIB
    chosen = over.choose(job, bound)
    assert chosen.tile == cells, "the same picture"
    assert limit or not chosen.levers
    assert over.peak_bytes(job, chosen) <= most * MIB


def test_a_quantized_weight_is_in_the_peak_while_it_is_wide():
    config, job = find("flux2-2k").network, Job(8, 8)
    modulators = 6 * 256 * config.pixel_width * config.width * 4
    plain = costs(config)
    more = replace(plain, quantized=True).peak_bytes(job, whole(8, config)) - plain.peak_bytes(job, whole(8, config))
    assert modulators / 6 < more < modulators  # the part that a stage reads, and what is on the way to it


def test_the_base_decoders_coarse_level_is_in_the_peak_whole():
    wide, narrow = (
        replace(SMALL, image_channels=3, base_widths=(width, 8, 8, 64), base_blocks=(1, 1, 1, 1))
        for width in (16384, 8)
    )
    costs_more = peak(16, 16, 8, wide) - peak(16, 16, 8, narrow)
    assert costs_more >= 16 * 16 * (16384 - 8) * 4


def test_a_smaller_tile_costs_less_memory_until_the_overlaps_take_it_back():
    peaks = [peak(64, 64, tile) for tile in (16, 32, 64)]
    assert peaks == sorted(peaks)


def test_each_way_takes_less_memory_than_the_one_before_and_exact_ones_come_first():
    job = Job(64, 64, batch=3)
    settings = list(costs().settings(job, may_split=True))
    peaks = [costs().peak_bytes(job, setting) for setting in settings]
    assert peaks == sorted(peaks, reverse=True)
    assert [len(setting.levers) for setting in settings[:4]] == [0, 1, 2, 3]
    assert [lever.what.split()[0] for lever in settings[4].levers] == ["pieces", "one", "latent", "4"]
    assert {setting.tile for setting in settings[:4]} == {64}
    assert settings[2].batch == 1
    assert "the same picture" in str(settings[3].levers[2])
    assert "another picture" in str(settings[4].levers[3])


def test_pictures_that_must_stay_together_are_not_split():
    assert {setting.batch for setting in costs().settings(Job(16, 16, batch=3))} == {3}


def test_pictures_that_do_not_fit_together_come_one_at_a_time_before_tiles_are_cut():
    job, one = Job(64, 64, batch=3), peak(64, 64, 64)
    apart = costs().choose(job, one, may_split=True)
    assert (apart.batch, apart.tile, [lever.what for lever in apart.levers]) == (1, 64, ["one picture at a time"])
    with pytest.raises(MemoryLimitError, match=r"\(one at a time: \d+ MiB, painted"):
        costs().choose(job, one)


def test_a_limit_is_met_by_the_first_way_that_fits():
    job = Job(64, 64)
    all_at_once, half = peak(64, 64, 64), peak(64, 64, 32)
    assert costs().choose(job, all_at_once).levers == ()
    chosen = costs().choose(job, half)
    assert chosen.tile >= 32
    assert costs().peak_bytes(job, chosen) <= half


def test_a_limit_too_small_names_the_smallest_that_would_do():
    job = Job(64, 64)
    with pytest.raises(MemoryLimitError, match="MiB") as refusal:
        costs().choose(job, 2**20)
    least = int(str(refusal.value).split("fits into is ")[1].split(" MiB")[0])
    costs().choose(job, least * 2**20)  # and that one does
    with pytest.raises(MemoryLimitError):
        costs().choose(job, int((least - 1) / (1 + ROOM)) * 2**20)


def test_a_refusal_says_what_a_file_would_need_where_that_is_less():
    wide = replace(SMALL, latent_downsample=16)
    for job, told in ((Job(64, 64), True), (Job(64, 64, in_files=True), False), (Job(64, 64, output=4096), False)):
        with pytest.raises(MemoryLimitError) as refusal:
            costs(wide).choose(job, 2**20)
        assert ("straight into a .tiff: " in str(refusal.value)) == told
    with pytest.raises(MemoryLimitError) as refusal:
        costs(wide).choose(Job(64, 64), 2**20)
    least = int(str(refusal.value).split(".tiff: ")[1].split(" MiB")[0])
    costs(wide).choose(Job(64, 64, in_files=True), least * MIB)


def test_a_picture_of_any_size_is_refused_in_no_time():
    with pytest.raises(MemoryLimitError):
        costs().choose(Job(10**5, 10**5, largest=64), 2**20)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_says_that_memory_ran_out(error, is_memory):
    assert is_out_of_memory(error) == is_memory


def test_the_batch_and_the_resampled_pictures_are_counted():
    picture = 12 * (16 * 64) ** 2
    small = replace(SMALL, latent_downsample=16)
    alone = peak(16, 16, 16, small)
    assert costs(small).peak_bytes(Job(16, 16, batch=4), Setting(16, default_pieces(small), 4)) >= alone + 3 * picture
    assert peak(16, 16, 16, small, output=16 * (16 * 64) ** 2) >= 17 * picture
