import json
from pathlib import Path

import pytest
import torch

from latpix.checkpoints.convert import WITHOUT_EFFECT, config_from_upstream, to_ours, to_upstream, upstream_name
from latpix.checkpoints.registry import CHECKPOINTS, find
from latpix.errors import CheckpointError

NAMES = list(find("flux2-2kto4k-v1.5-teacher").shapes)
BASES = json.loads((Path(__file__).parents[1] / "golden" / "checkpoints.json").read_text())["net_bases"]
REFUSED = ("in_channels", "rope_mode", "enable_ed", "lq_inject_mode", "lq_conv_padding_mode", "lq_gate_type")
TEXT = {"hidden_size": 1536, "num_groups": 24}


@pytest.mark.parametrize("row", CHECKPOINTS.values(), ids=lambda row: row.name)
def test_names_there_and_back_are_the_same_and_no_two_meet(row):
    upstream = to_upstream(dict.fromkeys(row.shapes, 0))
    assert len(upstream) == len(row.shapes)
    assert list(to_ours(upstream)) == list(row.shapes)


def test_no_name_of_ours_is_upstreams_unless_the_part_is_called_alike():
    same = {name for name in NAMES if upstream_name(name) == name}
    assert all(name.startswith("pixel_blocks.") and ".norm" in name for name in same)


@pytest.mark.parametrize("prefix", ["net.", "", "model.diffusion_model.", "core."])
def test_every_prefix_is_taken_off(prefix):
    upstream = to_upstream({name: k for k, name in enumerate(NAMES)}, prefix=prefix)
    assert list(to_ours(upstream)) == NAMES


def test_training_leftovers_are_dropped_and_strange_names_stay_to_be_reported():
    leftovers = ["net_ema.x", "fake_score.x", "discriminator.x", "core.pos_embed", "core._repa_projector.0.weight"]
    state = dict.fromkeys(["net.final_layer.linear.bias", "net.odd.weight", *leftovers])
    assert list(to_ours(state)) == ["final_proj.bias", "odd.weight"]


def test_one_parameter_under_two_prefixes_is_refused():
    with pytest.raises(CheckpointError, match=r'"final_layer\.linear\.bias" is there twice'):
        to_ours({"net.final_layer.linear.bias": 1, "final_layer.linear.bias": 2})


def test_tensors_travel_untouched():
    tensor = torch.randn(3, dtype=torch.bfloat16)
    there = to_upstream({"final_proj.bias": tensor})
    assert there == {"net.final_layer.linear.bias": tensor}
    assert to_ours(there)["final_proj.bias"] is tensor


@pytest.mark.parametrize("key", [*WITHOUT_EFFECT, "ed_window_size", "ed_hidden_size"])
def test_keys_without_effect_change_nothing(key):
    net = {name: value for name, value in BASES["v1pt5"].items() if name != key}
    assert config_from_upstream({**net, key: 7}, "PidNet") == config_from_upstream(net, "PidNet")


@pytest.mark.parametrize("key", [key for key in BASES["v1"] if not key.startswith("ed_") and key not in WITHOUT_EFFECT])
def test_every_other_key_changes_the_network_or_is_refused(key):
    net = BASES["v1"]
    other = {bool: lambda v: not v, int: lambda v: v + 3, float: lambda v: v + 3, str: lambda v: v + "s"}
    switched_on = {"lq_aux_rgb_head_latent_block_idx": {"lq_aux_rgb_head": True}}.get(key, {})
    changed = {**net, **switched_on, key: other[type(net[key])](net[key])}
    if key in REFUSED:
        with pytest.raises(CheckpointError, match=key):
            config_from_upstream(changed, "PidNet")
    else:
        assert config_from_upstream(changed, "PidNet") != config_from_upstream({**net, **switched_on}, "PidNet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lq_magic": 1}, "unknown keys: lq_magic"),
        ({"enable_ed": True}, "enable_ed=True"),
        ({"lq_inject_mode": "concat"}, "only 'controlnet' is built"),
        ({"lq_gate_type": "none"}, "expected one of sigma_aware_per_token_per_dim, sigma_aware_per_token"),
        ({"rope_mode": "yarn"}, "expected one of ntk_aware, original"),
    ],
)
def test_what_cannot_be_built_is_named(change, message):
    with pytest.raises(CheckpointError, match=message):
        config_from_upstream({**BASES["v1"], **change}, "PidNet")


def test_what_would_have_to_be_guessed_is_named():
    with pytest.raises(CheckpointError, match="missing keys: lq_latent_channels, lq_gate_type"):
        config_from_upstream(TEXT, "PidNet")
    with pytest.raises(CheckpointError, match="expected one of PidNet, PixDiT_T2I"):
        config_from_upstream(TEXT, "UNet")


def test_only_the_conditioned_class_adapts_its_rotary_base_unasked():
    net = {name: value for name, value in BASES["v1"].items() if not name.startswith("rope_")}
    assert config_from_upstream(net, "PidNet").rope_reference == (1024, 1024)
    assert config_from_upstream(TEXT, "PixDiT_T2I").rope_reference is None
