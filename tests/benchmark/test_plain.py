"""The oracle itself: it meets the reference's goldens and stands on its own."""

import ast
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_networks import FORMS, SMALL, SMALL_TINY, close, small_inputs, small_network
from torch.nn import functional as F

from latpix.benchmark import plain, plain_sampling
from latpix.checkpoints.convert import config_from_upstream, to_ours
from latpix.doctor.goldens_network import (
    DOCUMENTARY,
    FUNCTION,
    INTERMEDIATE,
    OUTPUT,
    SOLVER,
    SOLVER_MEAN,
    STUDENT,
    shift_of,
)

GOLDEN = Path(os.environ.get("LATPIX_GOLDEN", Path(__file__).parents[1] / "golden")) / "network"
CASES = [path.stem for path in sorted(GOLDEN.glob("*.json")) if not path.stem.endswith(DOCUMENTARY)]


def golden(case):
    """What the case's JSON says, its tensors, its configuration, and its parameters by our names."""
    about, tensors = json.loads((GOLDEN / f"{case}.json").read_text()), load_file(GOLDEN / f"{case}.safetensors")
    config = config_from_upstream(about["net"], about["net_class"])
    return about, tensors, config, to_ours(load_file(GOLDEN / about["weights"]))


def our_name(mid):
    """The plain implementation's name of one of a golden's intermediates; None where it keeps none."""
    for theirs, ours in {"t_emb": "time", "s_cond": "condition", "pixel_tokens": "pixels"}.items():
        if mid == theirs:
            return ours
    if mid.startswith("lq_out"):
        return f"features.{mid.removeprefix('lq_out')}"
    if mid.startswith("pixel_block"):
        return f"pixel_block.{mid.removeprefix('pixel_block').removesuffix('_out')}"
    if mid.startswith("block") and mid.endswith("_img"):
        return "patch_block." + mid.removeprefix("block").replace("_in_img", ".in").replace("_out_img", "")
    return None


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("net_")])
def test_a_plain_call_meets_its_golden(case):
    _, tensors, config, parameters = golden(case)
    names = {
        "lq_latent": "latent", "degrade_sigma": "latent_sigma", "y": "caption", "lq_video_or_image": "image",
        "lq_mask": "keep",
    }  # fmt: skip
    given = {ours: tensors[f"in.{name}"] for name, ours in names.items() if f"in.{name}" in tensors}
    seen = plain.steps_of_call(config, parameters, tensors["in.x"], tensors["in.t"], **given)
    compared = {"out.output": ("output", OUTPUT), "out.pred_lq_rgb": ("rgb", OUTPUT)}
    for name in tensors:
        if name.startswith("mid.") and our_name(name[4:]):
            compared[name] = (our_name(name[4:]), INTERMEDIATE)
    for name, (ours, tolerance) in compared.items():
        if name in tensors:
            expected = tensors[name]
            torch.testing.assert_close(seen[ours].reshape(expected.shape), expected, rtol=0, atol=tolerance)
    for name in (name for name in tensors if name.startswith("out.feature_block")):
        features = seen[f"patch_block.{name.removeprefix('out.feature_block')}"].mT.reshape(tensors[name].shape)
        torch.testing.assert_close(features, tensors[name], rtol=0, atol=INTERMEDIATE)


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("sampler_")])
def test_a_plain_decode_meets_its_golden(case):
    about, tensors, config, parameters = golden(case)
    options, noise = about["sampler"], tensors["noise"]
    known = {"latent": tensors.get("lq_latent"), "latent_sigma": tensors.get("degrade_sigma")}
    prediction = options.get("prediction_type", "velocity")

    def bound(caption):
        caption = caption.expand(len(noise), -1, -1)
        return lambda x_t, timestep: plain.predict(config, parameters, x_t, timestep, caption=caption, **known)

    def recorded(draw):
        return noise if draw == 0 else tensors[f"eps{draw - 1}"]

    if about["kind"] == "student":
        times = plain_sampling.student_times(options["t_list"], options["num_steps"])
        kind = options.get("sample_type") or "sde"
        sampled = plain_sampling.sample_student(bound(tensors["y"]), recorded, times, kind=kind, prediction=prediction)
        tolerance = mean_tolerance = STUDENT
    else:
        sampled = plain_sampling.sample_teacher(
            bound(tensors["y"]),
            recorded,
            plain_sampling.teacher_times(options["num_steps"], shift_of(options, *noise.shape[-2:])),
            without_caption=bound(tensors["y_null"]),
            guidance_scale=options["cfg_scale"],
            prediction=prediction,
        )
        tolerance, mean_tolerance = SOLVER, SOLVER_MEAN
    error = (sampled - tensors["output"][:, :, 0]).abs()
    assert error.max() <= tolerance
    assert error.mean() <= mean_tolerance


@pytest.fixture
def functions():
    """Entries of the goldens' function tables, and their tensors."""
    if not (GOLDEN / "functions.json").exists():
        pytest.skip("not among these goldens")
    entries = json.loads((GOLDEN / "functions.json").read_text())["entries"]
    return entries, load_file(GOLDEN / "functions.safetensors")


def near(actual, expected):
    torch.testing.assert_close(actual, expected.float(), rtol=0, atol=FUNCTION)


def test_plain_positions_meet_their_goldens(functions):
    entries, tensors = functions
    for name, entry in entries.items():
        if name.startswith("rope") and name != "rope_apply":
            grid, reference = ((entry[f"{kind}_h"], entry[f"{kind}_w"]) for kind in ("grid", "ref_grid"))
            for mode, size in {"original": None, "ntk_aware": reference}.items():
                config = replace(SMALL, patch_size=1, rope_reference=size)
                angles = plain.picture_angles(config, grid, entry["head_dim"])
                near(angles.cos(), tensors[f"{name}.{mode}.cos"])
                near(angles.sin(), tensors[f"{name}.{mode}.sin"])
        elif name.startswith("pixelpos"):
            table = plain.pixel_positions(entry["dim"], entry["height"], entry["width"])
            near(table[0].flatten(1).mT, tensors[f"{name}.table"])


def test_plain_alignment_meets_its_goldens(functions):
    entries, tensors = functions
    for name in (name for name in entries if name.startswith("align")):
        entry = entries[name]
        config = replace(
            SMALL,
            latent_downsample=entry["latent_spatial_down_factor"],
            scale=entry["sr_scale"],
            patch_size=entry["patch_size"],
            latent_unpatchify=entry["unpatchify"],
        )
        near(plain.align(config, tensors[f"{name}.latent"], tuple(entry["grid"])), tensors[f"{name}.out"])


def test_plain_times_meet_their_goldens(functions):
    entries, tensors = functions
    for name in (name for name in entries if name.startswith("solver_t_")):
        near(plain_sampling.teacher_times(entries[name]["steps"], entries[name]["shift"]), tensors[name])
    for steps, times in entries["t_lists"].items():
        near(plain_sampling.student_times(entries["t_lists"]["4"], int(steps)), torch.tensor(times))
    for row in entries["dynamic_shift_teacher"]:
        shift = plain_sampling.dynamic_shift(row["base_shift"], row["base_size"], row["h"], row["w"])
        assert shift == pytest.approx(row["shift"], rel=1e-6)


@pytest.mark.parametrize("module", [plain, plain_sampling])
def test_the_oracle_shares_nothing_with_the_network_but_its_configuration(module):
    tree = ast.parse(Path(module.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name for name in imported if name.startswith("latpix")} == {"latpix.network.config"}


@pytest.mark.parametrize("form", FORMS)
def test_the_oracle_reads_every_parameter(form):

    network, given = small_network(FORMS[form]), small_inputs(FORMS[form], grid=(2, 3), batch=1)
    parameters = {name: p for name, p in network.named_parameters() if not name.startswith("base_decoder.")}
    complete = plain.predict(FORMS[form], parameters, **given)
    assert complete.isfinite().all()
    for name in parameters:
        rest = {other: value for other, value in parameters.items() if other != name}
        if name.endswith(".bias"):
            changed = plain.predict(FORMS[form], {**rest, name: parameters[name] + 0.1}, **given)
            last = f"patch_blocks.{FORMS[form].depth - 1}.caption"
            assert not torch.equal(changed, complete) or name.startswith(last), name
        else:
            with pytest.raises(KeyError, match=name):
                plain.predict(FORMS[form], rest, **given)


def test_the_oracles_nearest_neighbours_are_torchs_for_every_pair_of_sizes():
    for cells in range(1, 40):
        row = torch.arange(cells, dtype=torch.float32).view(1, 1, 1, cells)
        for patches in range(1, 90):
            assert torch.equal(plain.nearest(row, 1, patches), F.interpolate(row, size=(1, patches), mode="nearest"))


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("grid", [(4, 6), (5, 3), (1, 1)])
def test_every_patch_is_in_exactly_one_window(grid, block):
    here = [number for window, _ in plain.windows(SMALL_TINY, grid, block) for number in window]
    assert sorted(here) == list(range(grid[0] * grid[1]))


def test_a_window_holds_neighbours_at_their_places():
    assert plain.windows(SMALL_TINY, (3, 3), 1) == [
        ([0], [3]), ([1, 2], [2, 3]), ([3, 6], [1, 3]), ([4, 5, 7, 8], [0, 1, 2, 3]),
    ]  # fmt: skip


def test_cutting_and_joining_are_inverse():
    picture = torch.randn(2, 3, 8, 12)
    assert torch.equal(plain.join(plain.cut(picture, 4), (2, 3)), picture)


def test_attention_is_the_softmax_of_scaled_products():
    q, k, v = torch.randn(3, 2, 7, 2, 8).unbind(0)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / 8**0.5
    close(plain.attend(q, k, v), torch.einsum("bhqk,bkhd->bqhd", scores.softmax(dim=-1), v).flatten(2))


def test_nothing_is_shown_but_what_is_asked_for_and_the_last_is_the_output():
    network, given = small_network(SMALL), small_inputs(SMALL)
    parameters = dict(network.named_parameters())
    seen = plain.steps_of_call(SMALL, parameters, **given)
    assert list(seen)[-1] == "output"
    assert torch.equal(seen["output"], plain.predict(SMALL, parameters, **given))


def test_bfloat16_weights_are_widened():
    network, given = small_network(SMALL), small_inputs(SMALL)
    rounded = {name: value.bfloat16() for name, value in network.named_parameters()}
    wide = {name: value.float() for name, value in rounded.items()}
    assert torch.equal(plain.predict(SMALL, rounded, **given), plain.predict(SMALL, wide, **given))


def test_a_latent_cell_becomes_downsample_times_scale_pixels():
    assert plain_sampling.output_size(SMALL, 3, 5) == (48, 80)
