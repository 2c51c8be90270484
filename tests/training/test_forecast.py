"""The forecast of a run's memory: counted on tensors without data, it is what autograd really keeps."""

from dataclasses import replace

import pytest
import torch
from small_networks import SMALL, SMALL_TINY, condition_of, small_inputs

from latpix.network.model import Denoiser, build
from latpix.training.config import RunConfig
from latpix.training.forecast import activation_bytes, forecast, size
from latpix.training.job import Outline
from latpix.training.painter import Painter
from latpix.training.recompute import recompute_blocks


@pytest.mark.parametrize("config", [SMALL, SMALL_TINY], ids=["caption", "tiny"])
def test_counted_activations_are_those_of_a_real_pass(config):
    painter = Painter(Denoiser(config), "velocity", "float32")
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
    assert activation_bytes(config, 2, 4 * config.patch_size, "float32") == sum(kept.values())


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
    assert activation_bytes(wide, 1, 64, "float32", recompute=True) < 0.8 * activation_bytes(wide, 1, 64, "float32")


def test_sharing_among_gpus_divides_all_but_activations():
    network = build(SMALL, device="meta")
    outline = Outline(trained={"a": network}, frozen={"b": network}, alive=("a",), samples_per_epoch=7)
    settings = RunConfig(steps=1, batch=3, size=32, accumulate=2, precision="float32")
    alone, shared = (forecast(outline, "a", settings, ranks=ranks) for ranks in (1, 4))
    assert alone.weight_bytes == 3 * 4 * size(network)
    assert alone.optimizer_bytes == 12 * size(network)
    assert (shared.weight_bytes, shared.optimizer_bytes) == (alone.weight_bytes // 4, alone.optimizer_bytes // 4)
    assert shared.activation_bytes == alone.activation_bytes == activation_bytes(SMALL, 3, 32, "float32")
    assert (alone.samples_per_step, shared.samples_per_step) == (6, 24)
    assert shared.gathered_bytes > 0 == alone.gathered_bytes
