"""The recorded numbers of the reference come out again, case by case, and a wrong one is noticed."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from latpix.doctor import goldens_network

GOLDEN = Path(os.environ.get("LATPIX_GOLDEN", Path(__file__).parents[1] / "golden")) / "network"
CASES = [
    path.stem
    for path in sorted(GOLDEN.glob("*.json"))
    if path.stem.startswith(tuple(goldens_network.RUNNERS)) and not path.stem.endswith(goldens_network.DOCUMENTARY)
]


def test_there_are_cases_to_run():
    """A mistyped LATPIX_GOLDEN must not look like success."""
    assert CASES


def alone(case, folder):
    """A folder with that case and what it needs."""
    weights = json.loads((GOLDEN / f"{case}.json").read_text()).get("weights")
    for name in (f"{case}.json", f"{case}.safetensors", weights):
        if name is not None:
            shutil.copy(GOLDEN / name, folder / name)
    return folder


def rows(folder):
    return [*goldens_network.run(folder)]


@pytest.mark.parametrize("case", CASES)
def test_the_network_meets_its_golden(case, tmp_path):
    (row,) = rows(alone(case, tmp_path))
    assert (row.case, row.family) == (f"network/{case}", "network")
    assert row.ok, f"{row.max_error:.2f} times the tolerance"


@pytest.mark.parametrize("case", [c for c in CASES if c in ("functions", "net_p16_v1_txt_long", "sampler_sde3_linear")])
def test_a_golden_that_is_off_fails(case, tmp_path):
    folder = alone(case, tmp_path)
    path = folder / f"{case}.safetensors"
    tensors = load_file(path)
    name = {"functions": "timestep.emb", "sampler_sde3_linear": "output"}.get(case, "out.output")
    tensors[name].view(-1)[0] += 1e-3
    path.chmod(0o644)
    save_file(tensors, path)
    (row,) = rows(folder)
    assert not row.ok
    assert row.max_error > 1


@pytest.mark.skipif("sampler_one_step" not in CASES, reason="not among these goldens")
def test_a_result_that_is_not_a_number_fails(tmp_path):
    folder = alone("sampler_one_step", tmp_path)
    path = folder / "sampler_one_step.safetensors"
    tensors = load_file(path)
    path.chmod(0o644)
    save_file({**tensors, "noise": torch.full_like(tensors["noise"], float("nan"))}, path)
    (row,) = rows(folder)
    assert not row.ok


def test_unknown_families_and_an_empty_folder_are_told_on_stderr_not_as_rows(tmp_path, capsys):
    assert rows(tmp_path) == []
    (tmp_path / "video_case.json").write_text("{}")
    (tmp_path / "net_x_mask_quirk.json").write_text("{}")
    assert rows(tmp_path) == []
    told = capsys.readouterr()
    assert "no network goldens" in told.err
    assert "video_case" in told.err
    assert "mask_quirk" not in told.err
    assert told.out == ""
