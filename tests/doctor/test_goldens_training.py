"""The training goldens pass, every tensor of them counts, and a folder of other cases runs as it is."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from latpix.doctor.family import Golden
from latpix.doctor.goldens_training import RUNNERS, run
from latpix.errors import ScheduleError

COMMITTED = Path(__file__).parents[1] / "golden" / "training"
FOLDER = Path(os.environ.get("LATPIX_GOLDEN", COMMITTED.parent)) / "training"
FAMILIES = sorted(RUNNERS.keys() - {"data_and_metrics"})  # that one has a test of its own
# What no result depends on: weights that a step does not use, what the average starts from, and documentary parts.
# Draws that are only compared with a chance stay on their side of it when they are changed a little.
SILENT = {
    "latent_noising": {"u_clean"},
    "ema_lr": {"ema.rate", "ema.seq.target_init.bias", "ema.seq.target_init.weight", "lr.decay", "lr.decay_steps"},
    "teacher_step": {"lq_keep", "u_apply", "net.W"},
    "distill_steps": {"fake.R", "fake.W", "student.R", "student.W", "teacher.R", "t_list.1"},
}
DOCUMENTARY = ("norm.", "repa.")


def golden(family):
    path = FOLDER / f"{family}.safetensors"
    if not path.exists():
        pytest.skip(f"no {family} among the goldens")
    return Golden(FOLDER, family, {}, load_file(path))


def errors(golden):
    return dict(RUNNERS[golden.name](golden))


def changed(tensor):
    """Another tensor of its shape, not far from it."""
    return 1.1 * tensor + 0.01 if tensor.is_floating_point() else (tensor + 1) % 3


@pytest.mark.parametrize("family", FAMILIES)
def test_every_case_of_a_family_passes(family):
    found = errors(golden(family))
    assert found
    assert {case: error for case, error in found.items() if not error <= 1} == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_value_anywhere_fails_its_family(family):
    whole = golden(family)
    unseen = set()
    for name, tensor in whole.tensors.items():
        if not name.startswith(DOCUMENTARY):
            spoiled = Golden(FOLDER, family, {}, whole.tensors | {name: changed(tensor)})
            with suppress(ScheduleError):  # times that do not fall to 0 are noticed, too
                if max(errors(spoiled).values()) <= 1:
                    unseen.add(name)
    assert unseen == SILENT.get(family, set())


def test_only_the_case_that_is_wrong_fails():
    whole = golden("distill_steps")
    name = "student_gan.grad_student.tau"
    spoiled = Golden(FOLDER, whole.name, {}, whole.tensors | {name: changed(whole.tensors[name])})
    assert [case for case, error in errors(spoiled).items() if error > 1] == ["student_gan"]


def test_rows_name_their_family_and_case():
    rows = {row.case: row for row in run(COMMITTED)}
    assert {"training/ema_lr.lr.warm2000", "training/teacher_step.gradients"} <= rows.keys()
    assert {(row.family, row.tolerance, row.ok) for row in rows.values()} == {("training", 1.0, True)}


def test_other_rates_sizes_and_counts_run_unchanged(tmp_path):
    steps = torch.tensor([0, 25, 50, 70])
    save_file({"lr.steps": steps, "lr.warm50": (steps / 50).clamp(1e-6, 1).double()}, tmp_path / "ema_lr.safetensors")
    z, hw = torch.randn(5), torch.tensor([[64, 64], [256, 64]])
    save_file(
        {
            "ln.z": z,
            "ln.t_mean-0.8_std1.6": (1.6 * z - 0.8).sigmoid(),
            "dynshift.hw": hw,
            "dynshift.base2_64": torch.tensor([2.0, 2 * 2**0.5]).double(),
            "power.u": z.sigmoid(),
            "power.t_k3": z.sigmoid() ** (1 / 3),
        },
        tmp_path / "flow_matching.safetensors",
    )
    rows = {row.case: row for row in run(tmp_path)}
    flow = {"ln.t_mean-0.8_std1.6", "dynshift.base2_64", "power.t_k3"}
    assert set(rows) == {"training/ema_lr.lr.warm50"} | {f"training/flow_matching.{name}" for name in flow}
    assert all(row.ok for row in rows.values())


def test_what_is_unknown_is_skipped_with_a_line_and_documentary_goldens_without(tmp_path, capsys):
    assert list(run(tmp_path)) == []
    assert "no training goldens in" in capsys.readouterr().err
    shutil.copy(COMMITTED / "latent_noising.safetensors", tmp_path)
    for name in ("strange", "legacy_blur_kernels"):
        save_file({"x.y": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    path = tmp_path / "latent_noising.safetensors"
    save_file(load_file(path) | {"sdxl.other.sigma": torch.zeros(6)}, path)
    rows = list(run(tmp_path))
    assert {row.case.split(".")[0] for row in rows} == {"training/latent_noising"}
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[0] for line in lines if "strange" in line] == [
        f"skipped {tmp_path / 'strange.safetensors'}"
    ]
    assert len([line for line in lines if "sdxl.other" in line]) == 1
    assert len(lines) == 2
