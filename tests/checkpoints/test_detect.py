import json
from dataclasses import replace
from pathlib import Path

import pytest

from latpix.checkpoints.convert import to_ours
from latpix.checkpoints.detect import ambiguity, difference, fits, fitting_rows, misfit, nearest_row, traits
from latpix.checkpoints.registry import CHECKPOINTS, find

RELEASED = json.loads((Path(__file__).parents[1] / "golden" / "checkpoints.json").read_text())
V1_OF_16 = {"flux1-2k", "sd3-2k", "sd3-2kto4k", "flux1-2kto4k", "qwen-2kto4k"}
STUDENTS, TEACHERS = ({f"{space}-2kto4k-v1.5{kind}" for space in ("flux1", "qwen")} for kind in ("", "-teacher"))
LAYOUTS = {  # of the released files: the rows that a file of that layout may be
    "v1_z16": V1_OF_16,
    "v1_z128": {"flux2-2k", "flux2-2kto4k", "flux2-2kto4k-2606"},
    "v1_z4": {"sdxl-2kto4k"},
    "v1_z768": {"dinov2-2k"},
    "v1_z1152_sr8": {"siglip-2k"},
    "v1pt5_z16": STUDENTS,
    "v1pt5_z128_unpatch": {"flux2-2kto4k-v1.5"},
    "v1pt5_z16_aux": STUDENTS | TEACHERS,
    "v1pt5_z128_unpatch_aux": {"flux2-2kto4k-v1.5", "flux2-2kto4k-v1.5-teacher"},
    "pixeldit": {"pixeldit-2kto4k"},
}
PATH = Path("model_ema_bf16.pth")


def shapes_of(name):
    layout = RELEASED["layouts"][name]
    shapes = shapes_of(layout["extends"]) if "extends" in layout else to_ours(as_tuples(layout["shapes"]))
    removed = tuple(layout.get("remove_prefix", ()))
    if removed:
        shapes = {name: s for name, s in shapes.items() if not name.startswith(("latent_projection.", "gates."))}
    return {**shapes, **to_ours(as_tuples({**layout.get("replace", {}), **layout.get("add", {})}))}


def as_tuples(shapes):
    return {name: tuple(shape) for name, shape in shapes.items()}


def test_every_released_layout_is_asked_about():
    assert set(LAYOUTS) == set(RELEASED["layouts"])


@pytest.mark.parametrize(("layout", "names"), LAYOUTS.items())
def test_a_layout_fits_exactly_the_rows_that_share_it(layout, names):
    assert {row.name for row in fitting_rows(shapes_of(layout))} == names


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        ("v1_z128", "v1, width 1536, 14 blocks, latent projection 512 wide on 128 channels"),
        ("v1pt5_z128_unpatch", "v1.5, width 1536, 14 blocks, latent projection 1024 wide on 32 channels"),
        ("v1pt5_z16_aux", "v1.5, width 1536, 14 blocks, latent projection 1024 wide on 16 channels"),
        ("pixeldit", "pixeldit, width 1536, 14 blocks"),
    ],
)
def test_version_and_widths_are_read_off_the_shapes(layout, text):
    assert str(traits(shapes_of(layout))) == text


def test_a_network_of_no_row_is_still_described():
    row = find("flux2-tiny")
    half = replace(row.network, width=128, heads=2)
    assert str(traits(replace(row, network=half).shapes)).startswith("tiny, width 128, 4 blocks")
    assert traits({"encoder.weight": (3, 3)}) is None


def test_a_student_may_keep_the_rgb_head_and_a_teacher_may_have_lost_it_but_not_in_part():
    student, teacher = find("flux1-2kto4k-v1.5"), find("flux1-2kto4k-v1.5-teacher")
    assert fits(teacher.shapes, student)
    assert fits(student.shapes, teacher)
    assert len(teacher.shapes) - len(student.shapes) == 6
    part = {name: shape for name, shape in teacher.shapes.items() if name != "latent_projection.rgb_head.up.bias"}
    for row in (student, teacher):
        assert difference(part, row).missing == ("lq_proj.lq_aux_rgb_head.1.bias",)
    reshaped = {**teacher.shapes, "latent_projection.rgb_head.up.bias": (3,)}
    assert difference(reshaped, student).reshaped == ("lq_proj.lq_aux_rgb_head.1.bias",)


def test_a_file_without_the_rgb_head_is_a_students_unless_it_is_named():
    assert {row.name for row in fitting_rows(find("qwen-2kto4k-v1.5").shapes)} == STUDENTS


def test_v1_never_had_an_rgb_head():
    head = {n: s for n, s in find("flux1-2kto4k-v1.5-teacher").shapes.items() if ".rgb_head." in n}
    assert len(difference({**find("flux1-2k").shapes, **head}, find("flux1-2k")).strange) == 6


def test_a_misfit_names_a_few_of_each_kind_with_counts_and_what_would_fit():
    message = misfit(PATH, find("flux1-2kto4k-v1.5").shapes, find("flux1-2k"))
    assert 'is not a "flux1-2k" file: of its 461 tensors and the 456 expected' in message
    assert "5 strange (lq_proj.pit_head.bias, lq_proj.pit_head.weight, pit_lq_gate.content_proj.bias, " in message
    assert "of another shape (lq_proj.gate_modules.0.content_proj.bias, " in message
    assert "By its shapes it is v1.5, width 1536" in message
    assert "Registry rows that fit: flux1-2kto4k-v1.5, qwen-2kto4k-v1.5." in message


def test_a_file_of_no_row_is_compared_with_the_nearest():
    shapes = dict(find("siglip-2k").shapes)
    del shapes["final_norm.weight"]
    assert nearest_row(shapes) is find("siglip-2k")
    message = misfit(PATH, shapes)
    assert 'fits no registry row; nearest is "siglip-2k"' in message
    assert "1 missing (final_layer.norm.weight)" in message


def test_a_file_of_something_else_is_not_compared_with_anything():
    message = misfit(PATH, {f"encoder.{k}.weight": (3,) for k in range(9)})
    assert "not a checkpoint of a pixel decoder: its 9 tensors are all strange (encoder.0.weight, " in message


def test_a_released_files_folder_makes_the_example_but_not_the_choice():
    rows = fitting_rows(CHECKPOINTS["sd3-2kto4k"].shapes)
    message = ambiguity(Path(CHECKPOINTS["sd3-2kto4k"].upstream_path), rows)
    assert f"fits {len(V1_OF_16)} registry rows" in message
    assert all(name in message for name in V1_OF_16)
    assert message.endswith("like='sd3-2kto4k' (on the command line --like sd3-2kto4k).")
