"""The forecast of a run's memory and operations: counted without data, it is what a real pass keeps and computes."""

from dataclasses import replace

import pytest
import torch
from small_networks import SMALL, SMALL_TINY, SMALL_V1_5, condition_of, small_inputs
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from latpix.errors import UsageError
from latpix.network.base_decoder import BaseDecoder
from latpix.network.model import Denoiser, build
from latpix.training.config import RunConfig
from latpix.training.forecast import activation_bytes, call_operations, forecast, learner, learning_size, size
from latpix.training.job import Call, Outline
from latpix.training.learning import adapter, everything, nothing
from latpix.training.painter import Painter
from latpix.training.recompute import recompute_blocks
from latpix.training.tiny_export import take_base

PLAIN = Call(network="")


def settings_of(**changes):
    return RunConfig(**{"steps": 1, "batch": 2, "size": 32, "precision": "float32", **changes})


@pytest.mark.parametrize("config", [SMALL, SMALL_TINY], ids=["caption", "tiny"])
def test_counted_activations_are_those_of_a_real_pass(config):
    painter = Painter(Denoiser(config), "velocity", "float32")
    everything(painter.network)
    given = small_inputs(config, grid=(4, 4), caption_length=config.caption_length)
    weights = {weight.data_ptr() for weight in painter.parameters()}
    kept, held = {}, []

    def note(tensor):
        held.append(tensor)
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        inputs = [given.get(name) for name in ("x_t", "timestep", "latent", "latent_sigma", "caption")]
        painter(*inputs, image=given.get("image"))
    assert activation_bytes(config, settings_of(size=4 * config.patch_size), PLAIN) == sum(kept.values())


def test_recomputed_blocks_give_the_same_gradients_and_keep_less():
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = Denoiser(SMALL)
        torch.nn.init.normal_(network.final_proj.weight)
        assert not recompute or recompute_blocks(network) == 6  # 3 patch, 2 pixel, 1 residual block
        given = small_inputs(SMALL)
        network(given["x_t"], given["timestep"], condition_of(network, given)).square().sum().backward()
        gradients.append({name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    assert gradients[0].keys() == gradients[1].keys()
    wide = replace(SMALL, depth=6)
    settings = settings_of(batch=1, size=64)
    kept = activation_bytes(wide, settings, PLAIN)
    assert activation_bytes(wide, replace(settings, recompute=True), PLAIN) < 0.8 * kept


def test_the_base_decoders_blocks_are_recomputed_too():
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        base = BaseDecoder(SMALL_TINY)
        for weight in base.parameters():
            torch.nn.init.normal_(weight, std=0.3)
        assert not recompute or recompute_blocks(base) == sum(SMALL_TINY.base_blocks)
        latent = torch.randn(2, SMALL_TINY.latent_channels, 3, 2, generator=torch.Generator().manual_seed(1))
        base(latent, torch.tensor([0.0, 0.5])).square().sum().backward()
        gradients.append([weight.grad for weight in base.parameters()])
    assert all(torch.equal(kept, again) for kept, again in zip(*gradients, strict=True))


def test_sharing_among_gpus_divides_all_but_activations():
    network = build(SMALL, device="meta")
    outline = Outline(trained={"a": network}, frozen={"b": network}, alive=("a",), samples_per_epoch=7)
    settings = settings_of(batch=3, accumulate=2)
    alone, shared = (forecast(outline, "a", settings, ranks=ranks) for ranks in (1, 4))
    assert alone.weight_bytes == 3 * 4 * size(network)
    assert alone.optimizer_bytes == 12 * learning_size(learner(network, everything))
    assert (shared.weight_bytes, shared.optimizer_bytes) == (alone.weight_bytes // 4, alone.optimizer_bytes // 4)
    assert shared.activation_bytes == alone.activation_bytes == activation_bytes(SMALL, settings, PLAIN)
    assert (alone.samples_per_step, shared.samples_per_step) == (6, 24)
    assert shared.gathered_bytes > 0 == alone.gathered_bytes
    assert alone.operations_per_step is None


def test_what_was_taken_out_of_a_network_does_not_learn_and_only_denoisers_activations_are_foretold():
    network = build(SMALL_TINY, device="meta")
    base = take_base(network)
    outline = Outline(trained={"a": network}, frozen={"base": base}, alive=("a",), samples_per_epoch=None)
    plan = forecast(outline, "a", settings_of())
    assert plan.learning == plan.parameters["a"] == size(network)
    assert plan.weight_bytes == 4 * (2 * size(network) + size(base))
    assert plan.activation_bytes > 0
    other = Outline(trained={"base": base.requires_grad_(True)}, frozen={}, alive=("base",), samples_per_epoch=None)
    plan = forecast(other, "base", settings_of())
    assert plan.document()["activation_bytes"] is None
    assert plan.total_bytes == plan.weight_bytes + plan.optimizer_bytes == (8 + 12) * size(base)


@pytest.mark.parametrize(("ranks", "would_do"), [(1, 2), (3, 4)])
def test_gpus_that_do_not_divide_into_groups_are_refused_with_a_number_that_does(ranks, would_do):
    outline = Outline(trained={}, frozen={}, alive=(), samples_per_epoch=None)
    with pytest.raises(UsageError, match=f"{ranks} GPUs do not divide into groups of 2 .*--gpus {would_do}, or"):
        forecast(outline, "a", settings_of(context=2), ranks=ranks)


def test_counted_operations_are_those_of_a_real_pass():
    config = SMALL_V1_5
    painter = Painter(Denoiser(config), "velocity", "float32")
    given = small_inputs(config, grid=(4, 4), caption_length=config.caption_length)
    inputs = [given[name] for name in ("x_t", "timestep", "latent", "latent_sigma", "caption")]
    with (
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
    ):  # whose products are counted one by one
        painter(*inputs)
    settings = settings_of(size=4 * config.patch_size)
    forward = call_operations(config, settings, replace(PLAIN, backward=False))
    assert forward == counter.get_total_flops()
    both = call_operations(config, settings, PLAIN)
    assert 2.8 * forward < both < 3.6 * forward  # attention is computed a second time on the way back
    recomputed = call_operations(config, replace(settings, recompute=True), PLAIN)
    assert both + 0.8 * forward < recomputed <= both + forward


def test_what_does_not_learn_costs_less():
    settings = settings_of(size=64)
    kinds = [
        PLAIN,
        replace(PLAIN, learn=adapter),
        replace(PLAIN, learn=nothing),
        replace(PLAIN, learn=nothing, after=(1,)),
    ]
    for count in (activation_bytes, call_operations):
        whole, some, none, features = (count(SMALL_V1_5, settings, call) for call in kinds)
        assert whole > max(some, none)
        assert none > features
    network = build(SMALL_V1_5, device="meta")
    outline = Outline(
        trained={"a": network},
        frozen={"b": network},
        alive=("a",),
        samples_per_epoch=None,
        calls=(Call(network="a", learn=adapter), Call(network="b", times=0.5, backward=False, learn=nothing)),
    )
    plan = forecast(outline, "a", settings)
    names = ("latent_projection", "gates", "pixel_gate")
    assert plan.learning == sum(weight.numel() for name, weight in network.named_parameters() if name.startswith(names))
    assert plan.optimizer_bytes == 12 * plan.learning < 12 * plan.parameters["a"]
    passes = (call_operations(SMALL_V1_5, settings, call) for call in (kinds[1], replace(kinds[2], backward=False)))
    assert plan.operations_per_step == sum(share * count for share, count in zip((1, 0.5), passes, strict=True))


def test_processes_that_share_a_picture_keep_and_compute_a_part_of_it_and_all_keys():
    alone, shared = settings_of(size=64), settings_of(size=64, context=2)
    for count in (activation_bytes, call_operations):
        whole, part = (count(SMALL_V1_5, settings, PLAIN) for settings in (alone, shared))
        assert whole / 2 < part < 0.9 * whole
