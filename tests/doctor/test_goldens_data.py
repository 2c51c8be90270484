"""The data goldens: every table and measure is recomputed, and a wrong row or number is seen."""

import os
from pathlib import Path

import pytest
from safetensors.torch import load_file

from latpix.doctor.family import Golden
from latpix.doctor.goldens_data import run

NAME = "data_and_metrics"
FOLDER = Path(os.environ.get("LATPIX_GOLDEN", Path(__file__).parents[1] / "golden")) / "training"


@pytest.fixture
def golden():
    path = FOLDER / f"{NAME}.safetensors"
    if not path.exists():
        pytest.skip("no training goldens here")
    return Golden(FOLDER, NAME, {}, load_file(path))


def wrong(golden):
    return [case for case, error in run(golden) if error > 1]


def test_every_case_comes_out(golden):
    cases = dict(run(golden))
    assert max(cases.values()) <= 1
    tables = {"fixed2048", "fixed_sizes", "grid", "multires"}
    measures = {"metric.lq_color_de2000", "metric.lq_color_de2000_same_size", "metric.psnr"}
    assert set(cases) == tables | measures


@pytest.mark.parametrize("group", ["fixed2048", "fixed_sizes", "grid", "multires"])
def test_one_wrong_number_of_a_table_is_seen(golden, group):
    table = next(tensor for name, tensor in golden.tensors.items() if name.startswith(f"{group}."))
    table[3, -1] += 64
    assert dict(run(golden))[group] > 0


def test_a_wrong_measure_is_seen_and_an_unknown_one_is_skipped(golden, capsys):
    golden.tensors["metric.psnr"] *= 1.001
    golden.tensors["metric.beauty"] = golden.tensors["metric.psnr"].clone()
    assert wrong(golden) == ["metric.psnr"]
    assert "beauty" in capsys.readouterr().err
