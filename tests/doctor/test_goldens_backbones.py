"""The backbone goldens pass, every part of them counts, and a folder of other cases runs as it is."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from latpix.doctor.goldens_backbones import RUNNERS, run
from latpix.doctor.goldens_schedules import TABLES

COMMITTED = Path(__file__).parents[1] / "golden" / "backbones"
FOLDER = Path(os.environ.get("LATPIX_GOLDEN", COMMITTED.parent)) / "backbones"


def rows_of(folder):
    return {row.case: row for row in run(folder)}


@pytest.fixture
def copy(tmp_path):
    """A folder of our own with the committed goldens, to change."""
    return Path(shutil.copytree(COMMITTED, tmp_path / "backbones"))


def alone(family, folder):
    """A folder of our own with one family, and what lies beside its files."""
    shutil.copytree(COMMITTED, folder, ignore=lambda place, names: [n for n in names if strange(place, n, family)])
    return folder


def strange(place, name, family):
    return Path(place) == COMMITTED and name.partition(".")[0] not in (family, "picture")


def change(folder, family, edit):
    """Rewrite a family's tensors; ``edit`` returns those to replace or add."""
    path = folder / f"{family}.safetensors"
    tensors = load_file(path)
    save_file(tensors | edit(tensors), path)


@pytest.mark.parametrize("family", RUNNERS)
def test_every_case_of_a_family_passes(family):
    if not any((FOLDER / f"{family}{suffix}").exists() for suffix in (".safetensors", ".json")):
        pytest.skip(f"no {family} among the goldens")
    rows = [row for row in run(FOLDER) if row.case.startswith(f"backbones/{family}.")]
    assert rows
    assert {row.case: row.max_error for row in rows if not row.ok} == {}
    assert {(row.family, row.tolerance) for row in rows} == {("backbones", 1.0)}


def test_case_names_come_from_the_files():
    names = {name.partition(".")[0] for name in load_file(COMMITTED / "normalization.safetensors")}
    found = {case.rpartition(".")[2] for case in rows_of(COMMITTED) if "/normalization." in case}
    assert found == names


def outputs():
    """Every tensor that a runner has to reproduce: not the inputs, nor the documentary ones."""
    whole = ("clean", "noise", "tokens", "values")
    last = ("raw", "edm", "bn_mean", "bn_var", "stat_mean", "stat_var")
    for family in sorted(set(RUNNERS) - set(TABLES)):
        for name in load_file(COMMITTED / f"{family}.safetensors"):
            given = name in whole or name.rpartition(".")[2] in last
            if not given and ".weights." not in name and not name.endswith(("_bf16", "_uint8", "_softcap")):
                yield family, name


@pytest.mark.parametrize(("family", "name"), list(outputs()), ids=lambda part: part)
def test_a_wrong_value_anywhere_fails_its_family(tmp_path, family, name):
    def spoil(tensors):
        wrong = tensors[name].clone()
        wrong.view(-1)[-2] += 1 if wrong.is_floating_point() else -1  # of ids the column, which must stay in range
        return {name: wrong}

    folder = alone(family, tmp_path / "backbones")
    change(folder, family, spoil)
    failed = [case for case, row in rows_of(folder).items() if not row.ok]
    assert failed
    assert all(case.startswith(f"backbones/{family}.") for case in failed)


@pytest.mark.parametrize("space", ["dinov2", "siglip"])
def test_a_wrong_weight_of_a_decoder_fails(copy, space):
    name = f"{space}.weights.decoder_layers.1.intermediate.dense.weight"
    change(copy, "rae_decoder", lambda tensors: {name: tensors[name].flip(0)})
    failed = [case for case, row in rows_of(copy).items() if not row.ok]
    assert failed == [f"backbones/rae_decoder.{space}"]


@pytest.mark.parametrize("key", ["sigma_edm", "latent_sigma"])
def test_a_wrong_noise_level_fails(copy, key):
    path = copy / "sdxl_frame.json"
    description = json.loads(path.read_text())
    description["rows"][1][key] += 0.01
    path.write_text(json.dumps(description))
    failed = [case for case, row in rows_of(copy).items() if not row.ok]
    assert failed == [f"backbones/sdxl_frame.k{description['rows'][1]['K']}"]


def test_other_sizes_and_counts_run_unchanged(tmp_path):
    raw = torch.randn(3, 4, 2, 7)
    save_file(
        {"sdxl.raw": raw, "sdxl.latent": 0.13025 * raw, "sdxl.raw_back": raw.clone()},
        tmp_path / "normalization.safetensors",
    )
    clean, noise = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3)
    save_file({"clean": clean, "noise": noise, "flow.0": 0.7 * clean + 0.3 * noise}, tmp_path / "noising.safetensors")
    (tmp_path / "noising.json").write_text('{"sigmas": [0.3]}')
    rows = rows_of(tmp_path)
    assert set(rows) == {"backbones/normalization.sdxl", "backbones/noising.flow.0"}
    assert all(row.ok for row in rows.values())


def test_what_is_unknown_is_skipped_with_a_line(copy, capsys):
    (copy / "words.json").write_text("{}")
    save_file({"x.y": torch.zeros(1)}, copy / "strange.safetensors")
    change(copy, "normalization", lambda tensors: {"flux9.raw": torch.zeros(1, 4, 2, 2)})
    change(copy, "noising", lambda tensors: {"other.0": torch.zeros(1)})
    before = rows_of(COMMITTED).keys()
    capsys.readouterr()
    assert rows_of(copy).keys() == before
    lines = capsys.readouterr().err.splitlines()
    for word in ("words", "strange", "flux9", "other"):
        assert len([line for line in lines if line.startswith("skipped") and word in line]) == 1


def test_an_absent_folder_gives_a_line_and_no_row(tmp_path, capsys):
    assert rows_of(tmp_path / "nowhere") == {}
    assert "no backbone goldens in" in capsys.readouterr().err
