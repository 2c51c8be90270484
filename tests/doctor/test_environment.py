"""The doctor's facts are facts of this machine, and its verdict follows from the goldens."""

import json
from pathlib import Path

import pytest
import torch

from latpix import __version__
from latpix.cli.main import run
from latpix.doctor.environment import environment
from latpix.doctor.goldens import RUNNERS, recompute
from latpix.doctor.rows import GoldenRow
from latpix.errors import UsageError


def test_the_facts_are_those_of_this_machine():
    found = environment()
    assert (found["latpix"], found["torch"]) == (__version__, torch.__version__)
    assert found["devices"][0] == "cpu"
    assert found["device_facts"]["cpu"]["threads"] == torch.get_num_threads()
    assert set(found["extras"]) == {"captions", "backbones", "train", "eval"}
    assert found["weights"] == {"flux2-tiny": True, "flux2-lite": True}
    assert all(kinds["plain"] for kinds in found["device_facts"]["cpu"]["attention"].values())
    json.dumps(found)


def test_a_missing_extra_is_seen(monkeypatch):
    import latpix.doctor.environment as module

    monkeypatch.setattr(module, "EXTRAS", {"captions": ("a_library_that_nobody_has",)})
    assert environment()["extras"] == {"captions": False}


def golden_rows(errors):
    def runner(_folder, _device):
        yield from (GoldenRow.of(f"network/case{k}", "network", error) for k, error in enumerate(errors))

    return runner


@pytest.mark.parametrize(("errors", "code"), [((0.0, 0.9), 0), ((0.0, 1.1), 1), ((float("inf"),), 1), ((), 1)])
def test_the_exit_code_is_the_verdict(tmp_path, monkeypatch, capsys, errors, code):
    (tmp_path / "network").mkdir()
    (tmp_path / "strange").mkdir()
    monkeypatch.setitem(RUNNERS, "network", golden_rows(errors))
    assert run(["doctor", "--goldens", str(tmp_path), "--json"]) == code
    out, err = capsys.readouterr()
    document = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert [row["ok"] for row in document["goldens"]] == [error <= 1 for error in errors]
    assert all(set(row) == {"case", "family", "max_error", "tolerance", "ok"} for row in document["goldens"])
    assert "strange: nothing recomputes it" in err
    assert "skipped backbones" in err


def test_people_get_a_line_per_case(tmp_path, monkeypatch, capsys):
    (tmp_path / "network").mkdir()
    monkeypatch.setitem(RUNNERS, "network", golden_rows((0.5, 2.0)))
    assert run(["doctor", "--goldens", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "torch" in out
    assert "ok           0.5 of 1  network/case0" in out
    assert "WRONG          2 of 1  network/case1" in out
    assert "1 of 2 cases" in err


def test_a_folder_without_goldens_is_wrong_usage(tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(UsageError):
            list(recompute(folder, "cpu"))


def test_the_committed_goldens_have_a_runner():
    committed = Path(__file__).parents[1] / "golden"
    assert {entry.name for entry in committed.iterdir() if entry.is_dir()} <= set(RUNNERS)
