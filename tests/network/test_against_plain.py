"""The network and the plain implementation agree, whatever the configuration."""

from dataclasses import replace

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from small_networks import FORMS, SMALL, SMALL_V1_5, call, close, condition_of, paint, small_inputs, small_network

from latpix.benchmark import plain
from latpix.network.pieces import Pieces

# patch, downsample, scale, unpatchify; in the order of patches per cell: 4, 4, 3, 2, 1, 1, 1, 1/2, 1/2, 1/4
GEOMETRIES = [
    (4, 4, 4, 1), (4, 8, 4, 2), (4, 4, 3, 1), (8, 4, 4, 1), (8, 4, 2, 1), (8, 8, 2, 2), (8, 4, 4, 2), (8, 2, 2, 1),
    (8, 4, 2, 2), (8, 2, 1, 1),
]  # fmt: skip


def plainly(network, given, **changes):
    return plain.predict(network.config, dict(network.named_parameters()), **{**given, **changes})


@st.composite
def changes(draw):
    """Of SMALL; not yet a configuration, as checking its tuples' types takes a random number."""

    def one(*choices):
        return draw(st.sampled_from(choices))

    patch, downsample, scale, unpatchify = one(*GEOMETRIES)
    window = one(None, None, 2, 3)
    image_channels = one(0, 0, 3) if patch % scale == 0 else 0
    latent_depth, depth = one(0, 1, 2), one(1, 2, 3)
    widths = (6, 5, 4) if image_channels and downsample == 4 * unpatchify and one(False, True) else ()
    return {
        "patch_size": patch,
        "latent_channels": 4 * unpatchify**2,
        "latent_downsample": downsample,
        "scale": scale,
        "latent_unpatchify": unpatchify,
        "image_channels": image_channels,
        "base_widths": widths,
        "base_blocks": (1,) * len(widths),
        "caption_width": 0 if window else one(0, 12),
        "caption_rope_theta": one(None, 10000.0, 100.0),
        "width": one(16, 24),
        "heads": one(1, 2),
        "depth": depth,
        "rope_reference": one(None, (32, 48), (16, 16)),
        "attention_window": window,
        "pixel_width": one(4, 8),
        "pixel_attention_width": one(8, 24),
        "pixel_depth": one(1, 2),
        "latent_width": one(4, 8),
        "latent_depth": latent_depth,
        "padding": one("zeros", "replicate", "reflect"),
        "gate": one("channel", "token"),
        "gate_interval": one(1, 2, 3),
        "pixel_gate": one(False, True),
        "rgb_head": one(None, -1, 1) if latent_depth and patch % scale == 0 and not image_channels else None,
    }


@settings(max_examples=120, phases=(Phase.explicit, Phase.generate))  # examples are small as they come: no shrinking
@given(
    changed=changes(),
    grid=st.tuples(st.integers(2, 4), st.integers(2, 5)),
    caption_length=st.integers(1, 8),
    extra=st.sampled_from([0, 0, 1]),
    without=st.sampled_from([(), (), ("latent",), ("image",), ("latent", "image")]),
    keep=st.sampled_from([None, (1.0, 0.0), (0.5, 1.0)]),
    seed=st.integers(0, 2**31),
)
def test_any_configuration_computes_what_the_plain_implementation_does(
    changed, grid, caption_length, extra, without, keep, seed
):
    config = replace(SMALL, **changed)
    network = small_network(config, seed)
    inputs = small_inputs(config, grid=grid, caption_length=caption_length, extra=extra, seed=seed)
    for name in set(without) & set(inputs) - ({"image"} if config.base_widths else set()):
        del inputs[name]
    if keep is not None:
        inputs["keep"] = torch.tensor(keep)
    expected = plainly(network, inputs)
    close(call(network, inputs), expected)
    if keep is None:
        close(paint(network, inputs, Pieces(tokens=7, patches=5, keep_features=seed % 2 == 0)), expected)


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (5, 1), (7, 9)])
@pytest.mark.parametrize("form", FORMS)
def test_any_size_computes_what_the_plain_implementation_does(form, grid):
    network, inputs = small_network(FORMS[form]), small_inputs(FORMS[form], grid=grid, batch=1)
    expected = plainly(network, inputs)
    close(call(network, inputs), expected)
    close(paint(network, inputs), expected)


@pytest.mark.parametrize(("tap", "depth"), [(-1, 0), (-1, 2), (1, 2), (2, 2)])
def test_the_rgb_head_paints_what_the_plain_one_does(tap, depth):
    config = replace(SMALL_V1_5, rgb_head=tap, latent_depth=depth)
    network, inputs = small_network(config), small_inputs(config)
    head, condition = network.latent_projection.rgb_head, condition_of(network, inputs)
    expected = plain.steps_of_call(config, dict(network.named_parameters()), **inputs)["rgb"]
    assert expected.shape == (2, 3, 8, 12)  # native size: 4 x 6 patches of 8, scale 4
    close(head(condition.features.rgb_source), expected)


@pytest.mark.parametrize("form", FORMS)
def test_every_input_reaches_the_output(form):
    """Otherwise the agreement above would prove little."""
    network, inputs = small_network(FORMS[form]), small_inputs(FORMS[form])
    before = call(network, inputs)
    for name, other in small_inputs(FORMS[form], seed=2).items():
        change = (call(network, {**inputs, name: other}) - before).abs().amax(dim=(1, 2, 3))
        if (form, name) == ("text", "latent_sigma"):
            assert change.max() == 0  # nothing to be noisy
        else:
            assert change.min() > 3e-3, name


@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_reaches_the_output_but_those_of_the_last_captions(form):
    network, inputs = small_network(FORMS[form]).requires_grad_(True), small_inputs(FORMS[form])
    call(network, inputs).square().sum().backward()
    last = f"patch_blocks.{FORMS[form].depth - 1}.caption."
    idle = {last + name for name in ("q_norm", "out", "norm2", "mlp.gate", "mlp.up", "mlp.down")}
    for name, parameter in network.named_parameters():
        if name.startswith("base_decoder."):
            continue  # it paints before: tests/network/test_base_decoder.py
        reaches = parameter.grad is not None and bool(parameter.grad.any())
        assert reaches is (name.rpartition(".")[0] not in idle), name
