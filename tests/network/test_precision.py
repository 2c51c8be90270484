"""Numeric types under mixed precision, quantity by quantity: the table of the network's specification."""

from dataclasses import replace

import pytest
import torch
from small_networks import FORMS, SMALL, SMALL_TEXT, SMALL_V1_5, call, condition_of, small_inputs, small_network
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from latpix.network.layers import pixel_positions
from latpix.network.precision import GroupNorm, RMSNorm, rest_in, resting_dtypes

BF16, F32 = torch.bfloat16, torch.float32


def resting(config):
    network = small_network(config)
    rest_in(network, BF16)
    return network


def types_of(values):
    return [value.dtype for value in values if isinstance(value, torch.Tensor)]


class Types(TorchFunctionMode):
    """Records the types that go into and come out of every call of some functions."""

    def __init__(self, *functions):
        super().__init__()
        self.into = {function: [] for function in functions}
        self.out_of = {function: [] for function in functions}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function in self.into:
            self.into[function].append(types_of(args))
            self.out_of[function].append(out.dtype)
        return out


def watched(config, *functions):
    """The types of one whole call, the condition's part included."""
    network, given = resting(config), small_inputs(config)
    with Types(*functions) as types:
        call(network, given)
    return types


def module_types(config):
    """By module name: the types that go in, the types that come out (of the first tensor of each)."""
    network, given, seen = resting(config), small_inputs(config), {}

    def keep(name):
        def hook(_module, args, out):
            seen[name] = (types_of(args), types_of(out if isinstance(out, tuple | list) else (out,)))

        return hook

    for name, module in network.named_modules():
        module.register_forward_hook(keep(name))
    call(network, given)
    return seen


def named(seen, *endings):
    found = {name: types for name, types in seen.items() if name.endswith(endings)}
    assert found, endings
    return found.items()


@pytest.mark.parametrize("form", FORMS)
def test_linears_convolutions_and_attention_work_in_bfloat16(form):
    multiply = (F.linear, torch.conv2d, F.scaled_dot_product_attention)
    types = watched(FORMS[form], *multiply)
    for function in multiply if form != "text" else (F.linear, F.scaled_dot_product_attention):
        assert types.into[function], function
        for into, out in zip(types.into[function], types.out_of[function], strict=True):
            assert {out, *into} - {torch.bool} == {BF16}, function


def test_waves_of_time_and_rotary_tables_are_float32():
    assert module_types(SMALL)["time_embedding.up"][0] == [F32]
    condition = condition_of(resting(SMALL), small_inputs(SMALL))
    rotations = [scope.rotation for scope in (*condition.patch_scopes, *condition.pixel_scopes)]
    for rotation in (*rotations, condition.caption_rotation):
        assert types_of((rotation.cos, rotation.sin)) == [F32, F32]


def test_queries_and_keys_stay_float32_through_norm_and_rotation(monkeypatch):
    rotated, attended = [], []

    def record(module, name, into):
        original = getattr(module, name)

        def recording(*args):
            out = original(*args)
            into.append([*types_of(args), out.dtype])
            return out

        monkeypatch.setattr(module, name, recording)

    from latpix.network import attention, patch_block

    for module in (attention, patch_block):
        record(module, "rotate", rotated)
    record(attention, "attend", attended)
    network, given = resting(SMALL), small_inputs(SMALL)
    call(network, given)
    blocks = SMALL.depth + SMALL.pixel_depth
    assert rotated == [[F32, F32]] * (4 * SMALL.depth + 2 * SMALL.pixel_depth)
    assert attended == [[BF16, BF16, BF16, BF16]] * blocks  # rounded where they are joined


def test_the_pixel_position_table_is_float64_rounded_to_float32():
    exact = pixel_positions(5000, 16, dtype=torch.float64)
    assert exact.dtype == torch.float64
    table = condition_of(resting(SMALL), small_inputs(SMALL)).row_positions
    assert table.dtype == F32
    assert torch.equal(pixel_positions(5000, 16), exact.float())
    index = torch.arange(5000, dtype=torch.float64)  # the third frequency: 10000^(-2/4) = 0.01
    torch.testing.assert_close(exact[:, 2], (index / 100).sin(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_rms_norms_put_out_float32_even_for_bfloat16(form):
    network, seen = resting(FORMS[form]), module_types(FORMS[form])
    norms = [name for name, module in network.named_modules() if isinstance(module, RMSNorm)]
    assert {seen[name][1][0] for name in norms} == {F32}
    assert {seen[name][0][0] for name in norms if name.endswith(("q_norm", "k_norm"))} == {BF16}


def test_an_rms_norm_rounds_to_its_inputs_type_before_the_weight():
    norm, x = RMSNorm(4), torch.tensor([[1.0, 2.0, 3.0, 5.0]])
    norm.weight.data.fill_(1 + 2**-12)
    plain = x / (x.square().mean() + 1e-6).sqrt()
    assert torch.equal(norm(x.bfloat16()), plain.bfloat16().float() * (1 + 2**-12))


def test_other_norms_and_exponentials_are_float32_and_activations_follow_what_they_receive():
    functions = (F.group_norm, F.layer_norm, torch.Tensor.exp, torch.sigmoid, F.silu, F.gelu)
    types = watched(SMALL_V1_5, *functions)
    assert types.into[F.group_norm]
    assert all(into[0] == F32 for into in types.into[F.group_norm])
    assert types.into[torch.Tensor.exp] == [[F32]] * (SMALL_V1_5.latent_outputs + 1)  # of log_alpha
    assert types.into[torch.sigmoid] == [[F32]] * (SMALL_V1_5.latent_outputs + 1)  # of a gate's logit
    assert {into[0] for into in types.into[F.gelu]} == {BF16}
    # Float32: after two group norms each, and the pixel blocks' condition. Else: stack, time twice, SwiGLUs.
    silus = [into[0] for into in types.into[F.silu]]
    assert silus.count(F32) == 2 * SMALL_V1_5.latent_depth + 1
    assert silus.count(BF16) == 3 + 2 * SMALL_V1_5.depth
    assert all(
        into[0] == out for f in (F.silu, F.gelu) for into, out in zip(types.into[f], types.out_of[f], strict=True)
    )


def test_the_rgb_heads_norm_is_float32():
    config = replace(SMALL_V1_5, rgb_head=-1)
    network = resting(config)
    features = condition_of(network, small_inputs(config)).features
    with Types(F.layer_norm) as types:
        network.latent_projection.rgb_head(features.rgb_source)
    assert types.into[F.layer_norm][0][0] == types.out_of[F.layer_norm][0] == F32


def test_time_and_its_modulations_are_bfloat16():
    seen = module_types(SMALL)
    assert seen["time_embedding"][1] == [BF16]
    for name, (into, out) in named(seen, "image.modulation", "caption.modulation"):
        assert (into, out) == ([BF16], [BF16]), name


def test_a_modulated_norm_is_float32_until_the_next_linear_rounds_it():
    for name, (into, out) in named(module_types(SMALL), "qkv", "mlp.gate", "compress", "mlp.up"):
        if name.startswith("pixel_blocks") and name.endswith("qkv"):
            assert into == [BF16], name  # compress stands between
        else:
            assert (into, out) == ([F32], [BF16]), name


def test_the_image_stream_is_bfloat16_up_to_the_first_gate_and_float32_from_there():
    seen = module_types(SMALL_V1_5)
    assert seen["patch_embedding"][1] == [BF16]
    assert seen["gates.0"][0][0] == BF16
    for name, (_, out) in named(seen, "gates.0", "gates.1", "patch_blocks.0", "patch_blocks.2", "pixel_gate"):
        assert out[0] == F32, name
    assert seen["pixel_blocks.0"][0][1] == F32  # what the pixel blocks are conditioned on


def test_the_image_stream_of_a_network_without_gates_stays_bfloat16():
    seen = module_types(SMALL_TEXT)
    for i in range(SMALL_TEXT.depth):
        assert seen[f"patch_blocks.{i}"][1] == [BF16, F32]
    assert seen["pixel_blocks.0"][0][1] == BF16


def test_the_caption_stream_is_float32_throughout():
    seen = module_types(SMALL)
    assert seen["caption_embedding"][1] == [F32]
    for i in range(SMALL.depth):
        assert seen[f"patch_blocks.{i}"][0][1] == seen[f"patch_blocks.{i}"][1][1] == F32


def test_the_latent_stack_and_its_heads_are_bfloat16():
    network, seen = resting(SMALL_V1_5), module_types(SMALL_V1_5)
    for name, (_, out) in named(seen, "latent_stack", "blocks.0", "heads.0", "heads.1", "pixel_head"):
        if name.startswith("latent_projection"):
            assert set(out) == {BF16}, name
    assert {seen[n][1][0] for n, m in network.named_modules() if isinstance(m, GroupNorm)} == {F32}
    features = condition_of(network, small_inputs(SMALL_V1_5)).features
    assert set(types_of((*features.per_gate, features.pixel))) == {BF16}


@pytest.mark.parametrize("config", [SMALL, SMALL_V1_5])
def test_a_gate_is_a_bfloat16_linear_and_a_float32_sigma(config):
    seen = module_types(config)
    for name, (into, out) in named(seen, "gates.0", "gates.1"):
        assert into[1:] == [BF16, F32], name  # latent features and sigma; the logit is tested with the activations
        assert seen[f"{name}.proj"][1] == [BF16], name
        assert out == [F32], name


def test_pixel_tokens_are_float32_and_the_output_is_bfloat16():
    seen = module_types(SMALL)
    assert seen["pixel_embedding"][1] == [BF16]
    for name, (into, out) in named(seen, "pixel_blocks.0", "pixel_blocks.1"):
        assert into[0] == out[0] == F32, name
    assert seen["final_norm"][0] == [F32]
    assert seen["final_proj"][1] == [BF16]
    assert seen[""][1] == [BF16]


def test_only_linear_and_convolution_weights_rest_in_bfloat16():
    types = {name: parameter.dtype for name, parameter in resting(SMALL_V1_5).named_parameters()}
    wide = {name for name, dtype in types.items() if dtype == F32}
    assert wide == {name for name in types if "norm" in name or name.endswith(("positions", "log_alpha"))}
    assert types == resting_dtypes(small_network(SMALL_V1_5), BF16)


@pytest.mark.parametrize("form", ["v1", "v1.5", "text"])
def test_resting_weights_compute_what_autocast_does(form):
    """The rules are autocast's, as the trained networks ran: what is left is far below bfloat16's own error."""
    network, given = small_network(FORMS[form]), small_inputs(FORMS[form])
    exact = call(network, given)
    with torch.autocast("cpu", dtype=BF16):
        autocast = call(network, given).float()
    rest_in(network, BF16)
    ours = call(network, given).float()
    assert 1e-4 < (autocast - exact).abs().mean() < 2e-2
    assert (ours - autocast).abs().mean() < 0.1 * (autocast - exact).abs().mean()


@pytest.mark.parametrize("form", FORMS)
def test_float32_weights_leave_everything_in_float32(form):
    network, given, seen = small_network(FORMS[form]), small_inputs(FORMS[form]), set()
    for module in network.modules():
        module.register_forward_hook(lambda _m, args, out: seen.update(types_of((*args, out))))
    call(network, given)
    assert seen == {F32}
