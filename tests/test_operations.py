"""Counted operations are those that torch counts in the plain implementation, to the last one."""

from dataclasses import replace

import pytest
import torch
from small_networks import FORMS, SMALL_TINY, small_inputs, small_network
from torch.utils.flop_counter import FlopCounterMode

from latpix.benchmark import plain, plain_base
from latpix.benchmark.traffic import ATTENTION_ON_CPU
from latpix.checkpoints.registry import find
from latpix.network.model import build
from latpix.operations import base_operations, call_operations

GEOMETRIES = {
    **FORMS,
    "cells folded": replace(FORMS["v1"], latent_downsample=2, scale=2),
    "every block gated": replace(FORMS["v1.5"], gate_interval=1, latent_depth=2, pixel_depth=3),
    "wide windows": replace(SMALL_TINY, attention_window=3, pixel_depth=2),
    "a picture read too": replace(FORMS["v1"], image_channels=3),
}


@pytest.mark.parametrize("grid", [(4, 6), (5, 3)])
@pytest.mark.parametrize("form", GEOMETRIES)
def test_operations_of_a_call_are_those_that_torch_counts(form, grid):
    config = GEOMETRIES[form]
    network, given = small_network(config), small_inputs(config, grid=grid, batch=1)
    with FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU) as counter:
        plain.predict(config, dict(network.named_parameters()), **given)
    assert call_operations(config, *grid, caption_tokens=5).total == counter.get_total_flops()


@pytest.mark.parametrize("config", [SMALL_TINY, find("flux2-tiny").network], ids=["small", "flux2-tiny"])
def test_operations_of_a_base_decoder_are_those_that_torch_counts(config):
    parameters = dict(build(config, device="meta").named_parameters())
    latent, sigma = (torch.empty(shape, device="meta") for shape in ((1, config.latent_channels, 5, 7), (1,)))
    with FlopCounterMode(display=False) as counter:
        plain_base.paint_base(config, parameters, latent, sigma)
    assert base_operations(config, 5, 7) == counter.get_total_flops()
    assert base_operations(FORMS["v1"], 5, 7) == 0


def test_a_long_caption_counts_as_far_as_it_is_read():
    config = FORMS["v1"]
    assert call_operations(config, 2, 3, caption_tokens=99) == call_operations(config, 2, 3)
    assert call_operations(config, 2, 3, caption_tokens=1).total < call_operations(config, 2, 3).total


@pytest.mark.parametrize(
    ("name", "side", "trillions"),
    [("flux2-2k", 1024, 6.678), ("flux2-2k", 4096, 486.569), ("flux1-2kto4k-v1.5", 2048, 46.361)],
)
def test_the_released_networks_take_what_their_description_says(name, side, trillions):
    assert call_operations(find(name).network, side // 16, side // 16).total / 1e12 == pytest.approx(
        trillions, abs=6e-4
    )


def test_what_is_hoisted_is_counted_once():
    operations = call_operations(find("flux2-2k").network, 64, 64)
    assert operations.once == operations.latent_stack + operations.heads + operations.caption_embedding
    assert 0.03 < operations.once / operations.total < 0.04
