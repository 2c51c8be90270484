from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from latpix.devices import parse_bytes
from latpix.errors import MemoryLimitError, OptionError
from latpix.network.base_decoder import BAND, BaseDecoder
from latpix.network.config import NetworkConfig
from latpix.network.model import build, default_pieces
from latpix.plan import ROOM, CostModel, Job, Setting

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


@pytest.mark.parametrize("text", ["", "lots", "-1GiB", "0", "GiB"])
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


def test_the_batch_and_the_resampled_pictures_are_counted():
    picture = 12 * (16 * 64) ** 2
    small = replace(SMALL, latent_downsample=16)
    alone = peak(16, 16, 16, small)
    assert costs(small).peak_bytes(Job(16, 16, batch=4), Setting(16, default_pieces(small), 4)) >= alone + 3 * picture
    assert peak(16, 16, 16, small, output=16 * (16 * 64) ** 2) >= 17 * picture
