"""Draws by sample, gradients' rules, the painter, and saves that load strictly."""

import pytest
import torch
from small_networks import SMALL_TINY, small_inputs, small_network
from torch import nn

from latpix.errors import TrainingError
from latpix.sampling.paths import LEAST_TIME
from latpix.training.job import Part, SampleDraws
from latpix.training.optimizers import make_optimizers, prepare_gradients, trained
from latpix.training.painter import Painter
from latpix.training.parallel import World
from latpix.training.state import Saves, load_into

ALONE = World(torch.device("cpu"))


def test_a_samples_draws_are_its_own_in_every_batch():
    together, apart = SampleDraws(1, 5, range(4)), SampleDraws(1, 5, [2])
    for draw in (lambda d, n: d.normal("a", (n, 3)), lambda d, n: d.choice("b", (n,), 9)):
        assert torch.equal(draw(together, 4)[2], draw(apart, 1)[0])


def test_a_draw_left_out_changes_none_that_follow():
    whole, short = SampleDraws(1, 5, range(2)), SampleDraws(1, 5, range(2))
    first = whole.normal("noise", (2, 3))
    assert torch.equal(whole.normal("time", (2,)), short.normal("time", (2,)))
    assert whole.normal("noise", (2, 3)).ne(first).all()  # asked again, it is another draw


def test_a_single_number_is_the_same_for_all_processes_and_another_in_the_next_step():
    ours, theirs, next_step = (SampleDraws(1, step, [k]) for step, k in ((5, 0), (5, 1), (6, 0)))
    assert ours.uniform("rollout", ()) == theirs.uniform("rollout", ()) != next_step.uniform("rollout", ())
    assert ours.normal("x", (1, 2)).ne(theirs.normal("x", (1, 2))).all()


def test_entries_that_are_no_numbers_become_zero_and_the_rest_is_clipped():
    weight = nn.Parameter(torch.zeros(4))
    weight.grad = torch.tensor([3.0, float("nan"), -4.0, float("inf")])
    norm, finite = prepare_gradients([weight], 1.0, ALONE)
    assert (norm, finite) == (5.0, True)
    torch.testing.assert_close(weight.grad, torch.tensor([0.6, 0.0, -0.8, 0.0]))


def test_a_small_gradient_is_left_alone_and_an_overflowing_norm_forbids_the_step():
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([0.03, 0.04])
    assert prepare_gradients([weight], 0.1, ALONE)[1]
    assert torch.equal(weight.grad, torch.tensor([0.03, 0.04]))
    weight.grad = torch.full((2,), 3e38)
    assert not prepare_gradients([weight], 0.1, ALONE)[1]


def test_decay_reaches_biases_too():
    part = Part(network=nn.Linear(2, 2), learning_rate=0.1, weight_decay=0.5)
    (optimizer,) = make_optimizers(part)
    for weight in trained(part.network).values():
        weight.grad = torch.zeros_like(weight)
    before = part.network.bias.detach().clone()
    optimizer.step()
    torch.testing.assert_close(part.network.bias.detach(), before * (1 - 0.1 * 0.5))


def test_muon_has_the_matrices_that_a_part_names_and_adam_every_other_weight():
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    adam, muon = make_optimizers(Part(network=network, learning_rate=0.1, muon=("1.",)))
    (matrices,) = (group["params"] for group in muon.param_groups)
    assert [id(weight) for weight in matrices] == [id(network[1].weight)]
    (others,) = (group["params"] for group in adam.param_groups)
    assert {id(weight) for weight in others} == {id(w) for w in (network[0].weight, network[0].bias, network[1].bias)}


def test_a_painters_velocity_is_that_of_the_x0_it_puts_out_and_its_features_those_of_its_blocks():
    network = small_network(SMALL_TINY)
    given = small_inputs(SMALL_TINY)
    inputs = [given[name] for name in ("x_t", "timestep", "latent", "latent_sigma")]
    seen = {}
    for k, block in enumerate(network.patch_blocks):
        block.register_forward_hook(lambda module, args, out, k=k: seen.__setitem__(k, out[0]))
    velocity = Painter(network, "x0", "float32")(*inputs, image=given["image"])
    x0 = Painter(network, "velocity", "float32")(*inputs, image=given["image"])
    t = (given["timestep"] / 1000).clamp(min=LEAST_TIME).view(-1, 1, 1, 1)
    torch.testing.assert_close(velocity, (given["x_t"] - x0) / t)
    features = Painter(network, "x0", "float32")(*inputs, image=given["image"], after=(0, 1))
    assert [feature.shape for feature in features] == [(2, 16, 4, 6)] * 2
    for k in (0, 1):
        assert torch.equal(features[k].flatten(2).transpose(1, 2), seen[k])


def test_a_save_that_lacks_a_tensor_or_has_another_shape_is_refused_by_name(tmp_path):
    saves = Saves(tmp_path / "saves", keep=1)
    saves.start(3, {"a": torch.ones(2), "b": torch.ones(3)}, {})
    saves.close()
    (path,) = saves.all()
    with pytest.raises(TrainingError, match=r"missing: c \(1\); strange: b \(1\); of another shape: a"):
        load_into({"a": torch.ones(4), "c": torch.ones(3)}, path)


def test_a_save_holds_what_was_there_when_it_began(tmp_path):
    saves, weight, facts = Saves(tmp_path / "saves", keep=1), torch.ones(200_000), {"updates": {"a": 1}}
    saves.start(1, {"a": weight}, facts)
    weight.zero_()
    facts["updates"]["a"] = 2
    saves.close()
    (path,) = saves.all()
    load_into({"a": weight}, path)
    assert torch.equal(weight, torch.ones(200_000))
    assert (path / "facts_0.json").read_text() == '{"updates": {"a": 1}}'
