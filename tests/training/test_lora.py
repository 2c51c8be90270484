"""Low-rank adapters: fresh they change nothing, merged they are the weights, and only they learn."""

import pytest
import torch
from small_networks import SMALL, SMALL_V1_5, call, close, small_inputs, small_network

from latpix.training.lora import RANK, LowRank, add_lora, merged
from latpix.training.painter import Painter, denoiser_weights


def adapted(config):
    """A network with adapters that are not zero any more."""
    network = small_network(config)
    add_lora(network)
    generator = torch.Generator().manual_seed(7)
    for name, weight in network.named_parameters():
        if "lora_up" in name:
            weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
    return network


def test_fresh_adapters_change_nothing():
    given = small_inputs(SMALL)
    before, network = call(small_network(SMALL), given), small_network(SMALL)
    add_lora(network)
    assert torch.equal(call(network, given), before)


@pytest.mark.parametrize("config", [SMALL, SMALL_V1_5], ids=["v1", "v1.5"])
def test_merged_weights_paint_as_the_network_with_its_adapters(config):
    given, network = small_inputs(config), adapted(config)
    expected, plain = call(network, given).detach(), small_network(config)
    untouched = call(plain, given)
    plain.load_state_dict(merged(network.state_dict()))  # strict: the names are those without adapters
    assert (expected - untouched).abs().max() > 0.05
    close(call(plain, given), expected, 1e-5)
    exported = denoiser_weights(Painter(network, "velocity", "float32").state_dict())
    assert all(torch.equal(exported[name], weight) for name, weight in plain.state_dict().items())


def test_a_network_without_adapters_is_merged_to_itself():
    state = small_network(SMALL).state_dict()
    same = merged(state)
    assert same.keys() == state.keys()
    assert all(same[name] is state[name] for name in state)


def test_the_pictures_stream_and_the_pixels_feed_forward_have_adapters_and_nothing_else_does():
    network = adapted(SMALL)
    found = [name for name, module in network.named_modules() if isinstance(module, LowRank)]
    patch = [f"patch_blocks.{i}.image.{part}" for i in range(3) for part in ("qkv", "out")]
    patch += [f"patch_blocks.{i}.image.mlp.{part}" for i in range(3) for part in ("gate", "up", "down")]
    assert sorted(found) == sorted(
        [*patch, *(f"pixel_blocks.{j}.mlp.{part}" for j in (0, 1) for part in ("up", "down"))]
    )
    assert network.get_submodule("patch_blocks.0.image.qkv").lora_down.weight.shape == (RANK, 16)


def test_only_adapters_learn_and_all_of_them_get_a_gradient():
    network = adapted(SMALL)
    learning = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert learning == {name for name, _ in network.named_parameters() if ".lora_" in name}
    call(network, small_inputs(SMALL)).square().sum().backward()
    assert all(weight.grad.any() for name, weight in network.named_parameters() if name in learning)
