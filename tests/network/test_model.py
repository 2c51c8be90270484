"""What holds for the assembled network, beside its numbers."""

import ast
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_networks import (
    FORMS,
    SMALL,
    SMALL_TINY,
    SMALL_V1_5,
    call,
    close,
    condition_of,
    paint,
    small_inputs,
    small_network,
)

import latpix.network
from latpix.network.config import PIXELDIT, V1, V1_5
from latpix.network.model import Denoiser, build
from latpix.network.pieces import Pieces


def one_of(given, k):
    return {name: tensor[k : k + 1] for name, tensor in given.items()}


@pytest.mark.parametrize("form", ["v1", "v1.5", "text"])
def test_a_fresh_network_paints_exactly_nothing(form):
    assert call(build(FORMS[form]), small_inputs(FORMS[form])).abs().max() == 0


def test_a_fresh_network_with_a_base_picture_paints_exactly_that():
    given = small_inputs(SMALL_TINY)
    assert torch.equal(call(build(SMALL_TINY), given), given["image"])


@pytest.mark.parametrize("config", [SMALL, SMALL_V1_5, SMALL_TINY])
def test_a_fresh_network_ignores_its_latent(config):
    network, given = build(config), small_inputs(config)
    seen = []
    network.pixel_blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    call(network, given)
    call(network, {**given, "latent": 3 - given["latent"], "latent_sigma": 1 - given["latent_sigma"]})
    assert torch.equal(*seen)
    assert not any(feature.any() for feature in condition_of(network, given).features.per_gate)


def test_fresh_weights_are_those_that_training_from_scratch_starts_from():
    torch.manual_seed(0)
    config = replace(SMALL_V1_5, width=64, latent_width=32, rgb_head=-1, image_channels=3)
    fresh = dict(build(config).named_parameters())
    zero = {"patch_embedding.bias", "final_proj.weight", "final_proj.bias"}
    for name, parameter in fresh.items():
        latent_side, leaf = name.startswith("latent_projection"), name.rpartition(".")[2]
        if name.endswith("log_alpha"):
            assert float(parameter) == pytest.approx(math.log(5))
        elif "norm" in name:
            assert bool((parameter == float(leaf == "weight")).all()), name
        elif "gate" in name and ".mlp." not in name:
            assert parameter.std() < 0.015 if leaf == "weight" else bool((parameter == 2).all()), name
        elif name in zero or "heads." in name or "pixel_head." in name or (latent_side and leaf == "bias"):
            assert not parameter.any(), name
        elif latent_side or (name.startswith("time_embedding") and leaf == "weight"):
            assert float(parameter.std()) == pytest.approx(0.02, rel=0.15), name
        else:
            assert parameter.any(), name
    assert float(fresh["caption_embedding.positions"].std()) == pytest.approx(1, rel=0.2)
    bound = math.sqrt(6 / sum(fresh["patch_embedding.weight"].shape))  # Xavier's
    assert float(fresh["patch_embedding.weight"].abs().max()) == pytest.approx(bound, rel=0.01)


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_of_a_batch_is_the_picture_alone(form):
    """To rounding: a product of more rows may add in another order. For the bits, ``Decoder`` paints one by one."""
    network, given = small_network(FORMS[form]), small_inputs(FORMS[form], batch=3)
    whole = call(network, given)
    for k in range(3):
        close(call(network, one_of(given, k)), whole[k : k + 1])


@pytest.mark.parametrize("form", FORMS)
def test_one_condition_serves_every_step_to_the_bit(form):
    network, given = small_network(FORMS[form]), small_inputs(FORMS[form])
    condition = condition_of(network, given)
    for timestep in (1000.0, 342.0, 0.0):
        step = {**given, "timestep": torch.full((2,), timestep)}
        assert torch.equal(network(given["x_t"], step["timestep"], condition), call(network, step))


def test_what_does_not_depend_on_time_is_computed_once_per_decode():
    network, given = small_network(SMALL_V1_5), small_inputs(SMALL_V1_5)
    calls = []
    for module in (network.latent_projection, network.caption_embedding, *network.latent_projection.heads):
        module.register_forward_hook(lambda module, *_: calls.append(module))
    condition = condition_of(network, given)
    before = len(calls)
    for _ in range(3):
        network(given["x_t"], given["timestep"], condition)
    assert before == len(calls) == 2 + SMALL_V1_5.latent_outputs


def test_a_decode_reads_its_inputs_and_writes_none_of_them():
    """It works in place: what the next step reads again must not be what it works in."""
    network, given = small_network(SMALL_V1_5), small_inputs(SMALL_V1_5)
    condition, before = condition_of(network, given), {name: value.clone() for name, value in given.items()}
    with torch.no_grad():
        first, second = (network(given["x_t"], given["timestep"], condition) for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(given[name], before[name]) for name in given)


@pytest.mark.parametrize("form", ["v1.5", "tiny"])
def test_maps_of_the_patch_path_stay_what_they_were_when_later_blocks_run(form):
    network, given = small_network(FORMS[form]), small_inputs(FORMS[form])
    condition = condition_of(network, given)
    recorded = network.features(given["x_t"], given["timestep"], condition, (0, 1, 2))
    with torch.no_grad():
        found = network.features(given["x_t"], given["timestep"], condition, (0, 1, 2))
    for one, expected in zip(found, recorded, strict=True):
        close(one, expected)


@pytest.mark.parametrize("pieces", [(1, 1, 64), (5, 7, 13), (47, 11, 1)])
@pytest.mark.parametrize("keep_features", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_a_decode_in_pieces_is_the_call_that_records_gradients(form, keep_features, pieces):
    network, given = small_network(FORMS[form]), small_inputs(FORMS[form])
    tokens, patches, pixels = pieces
    cut = Pieces(tokens=2 * tokens, patches=2 * patches, pixels=pixels, keep_features=keep_features)  # a batch of two
    close(paint(network, given, cut), call(network, given))


def test_without_kept_features_none_is_there():
    network, given = small_network(SMALL_V1_5), small_inputs(SMALL_V1_5)
    features = condition_of(network, given, Pieces(keep_features=False)).features
    assert (features.per_gate, features.pixel) == ((), None)
    assert features.tokens.shape == (2, 24, SMALL_V1_5.latent_width)


def test_a_decode_makes_no_caption_tokens_that_nobody_reads():
    """Of the last block's caption only keys and values."""
    network, given, ran = small_network(SMALL), small_inputs(SMALL), []
    for i, block in enumerate(network.patch_blocks):
        for layer in (block.caption.qkv, block.caption.q_norm, block.caption.out, block.caption.mlp):
            layer.register_forward_hook(lambda *_, i=i: ran.append(i))
    paint(network, given)
    assert ran == [0] * 4 + [1] * 4


@pytest.mark.parametrize("form", FORMS)
def test_what_time_says_of_a_whole_schedule_at_once_is_what_it_says_at_each_step(form):
    network, given = small_network(FORMS[form]), small_inputs(FORMS[form])
    times = torch.tensor([999.0, 634.0, 342.0])
    condition = condition_of(network, given)
    prepared = replace(condition, times=network.time_table(times))
    for timestep in (times[[1, 2]], times[[0, 0]]):
        step = {**given, "timestep": timestep}
        close(network(given["x_t"], timestep, prepared), call(network, step))
    assert network(given["x_t"], torch.tensor([634.0, 500.0]), prepared)[1].isnan().all()  # not of the schedule


@torch.no_grad()
def test_another_caption_shares_all_but_the_caption():
    network, given = small_network(SMALL_V1_5), small_inputs(SMALL_V1_5)
    other = small_inputs(SMALL_V1_5, caption_length=3, seed=2)["caption"]
    retold = network.retold(condition_of(network, given), network.caption_embedding(other))
    expected = call(network, {**given, "caption": other})
    assert torch.equal(network(given["x_t"], given["timestep"], retold), expected)
    assert not torch.equal(call(network, given), expected)


def test_training_gets_the_gradients_of_the_unchunked_path():
    network, given = small_network(SMALL_V1_5).requires_grad_(True), small_inputs(SMALL_V1_5)
    cut = Pieces(tokens=5, patches=5)
    painted = call(network, given, cut)
    painted.square().mean().backward()
    close(paint(network, given, cut), painted.detach())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.pixel_blocks.parameters())


def test_tables_are_made_once_for_a_size_and_serve_training_too():
    network, given = small_network(SMALL), small_inputs(SMALL)
    with torch.inference_mode():
        first = condition_of(network, given)
    again = condition_of(network, given)
    assert again.patch_scopes[0] is first.patch_scopes[0]
    assert again.caption_rotation is first.caption_rotation
    assert again.row_positions.data_ptr() == first.row_positions.data_ptr()
    network.requires_grad_(True)
    call(network, given).sum().backward()  # a table that inference mode made could not be kept for this


def test_dropped_latent_features_leave_a_network_without_latent():
    network, given = small_network(SMALL_V1_5), small_inputs(SMALL_V1_5)
    dropped = call(network, {**given, "keep": torch.tensor([0.0, 1.0])})
    without = call(network, {name: tensor for name, tensor in given.items() if name != "latent"})
    close(dropped[:1], without[:1])
    assert torch.equal(dropped[1:], call(network, given)[1:])


def test_a_longer_caption_than_the_learned_positions_is_cut():
    network, given = small_network(SMALL), small_inputs(SMALL, caption_length=9)
    cut = {**given, "caption": given["caption"][:, : SMALL.caption_length]}
    assert torch.equal(call(network, given), call(network, cut))


@pytest.mark.parametrize("form", FORMS)
def test_a_network_on_the_meta_device_tells_its_output_for_free(form):
    network = build(FORMS[form], device="meta")
    given = {name: tensor.to("meta") for name, tensor in small_inputs(FORMS[form]).items()}
    painted = call(network, given)
    assert (painted.device.type, painted.shape) == ("meta", given["x_t"].shape)


@pytest.mark.parametrize(("config", "parameters"), [(V1, 456), (replace(V1_5, latent_unpatchify=1), 461)])
def test_a_released_form_has_as_many_tensors_as_its_file(config, parameters):
    assert len(list(build(config, device="meta").named_parameters())) == parameters


def test_the_text_to_image_form_has_no_latent_side():
    names = [name for name, _ in build(PIXELDIT, device="meta").named_parameters()]
    assert not [name for name in names if "latent" in name or name.startswith(("gates", "pixel_gate"))]


def test_a_network_keeps_nothing_but_its_parameters():
    assert [name for form in FORMS.values() for name, _ in Denoiser(form).named_buffers()] == []


@pytest.mark.parametrize("path", sorted(Path(latpix.network.__file__).parent.glob("*.py")), ids=lambda path: path.name)
def test_no_device_is_named_in_the_network(path):
    tree = ast.parse(path.read_text())
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    words |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not {word.partition(":")[0] for word in words} & {"cpu", "cuda", "mps", "xpu", "hip", "meta"}
