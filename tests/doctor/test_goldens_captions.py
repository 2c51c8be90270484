"""The caption goldens: what they hold is compared, and what cannot be run is skipped with a line."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from latpix.doctor import goldens_captions
from latpix.doctor.goldens_backbones import run

COMMITTED = Path(__file__).parents[1] / "golden" / "backbones"


@pytest.fixture
def folder(tmp_path):
    """The caption goldens alone, to change."""
    for name in ("captions.json", "captions.safetensors"):
        shutil.copyfile(COMMITTED / name, tmp_path / name)
    shutil.copytree(COMMITTED / "captions", tmp_path / "captions")
    return tmp_path


def failed(folder):
    return [row.case.removeprefix("backbones/captions.") for row in run(folder) if not row.ok]


def edit(folder, change):
    path = folder / "captions.json"
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


def test_the_variant_with_the_soft_cap_would_not_pass(folder):
    tensors = load_file(folder / "captions.safetensors")
    assert failed(folder) == []
    save_file(
        tensors | {"short.embedding": tensors["short.embedding_softcap"].clone()}, folder / "captions.safetensors"
    )
    assert failed(folder) == ["short"]


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("prefix_tokens", 723),
        ("padded_length", 1021),
        ("selected_positions", [0, [722, 1020]]),
        ("prefix", "Another prefix: "),
    ],
)
def test_a_wrong_number_of_a_case_fails_it(folder, key, wrong):
    edit(folder, lambda description: description["cases"][2].update({key: wrong}))
    assert failed(folder) == ["full"]


@pytest.mark.parametrize("key", ["padded_ids", "selected_ids", "selected_mask"])
def test_a_wrong_id_of_a_synthetic_case_fails_it(folder, key):
    def change(description):
        description["synthetic"][2][key][1] += 5

    edit(folder, change)
    assert failed(folder) == ["synthetic.2"]


def test_without_the_encoder_or_its_library_only_id_sequences_are_recomputed(folder, monkeypatch, capsys):
    whole = [row.case for row in run(folder)]
    monkeypatch.setattr(goldens_captions, "find_spec", lambda name: None)
    synthetic = [case for case in whole if ".synthetic." in case]
    assert [row.case for row in run(folder)] == synthetic
    assert "latpix[captions]" in capsys.readouterr().err
    monkeypatch.undo()
    shutil.rmtree(folder / "captions")
    assert [row.case for row in run(folder)] == synthetic
    assert "the encoder of the captions is missing" in capsys.readouterr().err
