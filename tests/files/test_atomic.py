"""Outputs appear whole or not at all."""

import errno
import os

import pytest
import torch
from full_disk import files_of_at_most
from safetensors.torch import save_file

from latpix.errors import OutputError
from latpix.files.atomic import writing


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_finished_file_takes_its_place_with_the_usual_permissions(tmp_path):
    with writing(tmp_path / "a.txt") as part:
        part.write_text("whole")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert names(tmp_path) == ["a.txt"]
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_interruption_leaves_nothing_new_and_the_old_file_as_it_was(tmp_path, interruption):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(interruption), writing(tmp_path / "a.txt", overwrite=True) as part:  # noqa: PT012
        part.write_text("half")
        raise interruption
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_an_existing_file_is_refused_before_any_work_unless_overwriting_is_asked_for(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(OutputError, match="exists already"), writing(tmp_path / "a.txt"):
        raise AssertionError("the work began")
    with writing(tmp_path / "a.txt", overwrite=True) as part:
        part.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_file_that_appeared_during_the_work_is_not_lost(tmp_path):
    with pytest.raises(OutputError, match="exists already"), writing(tmp_path / "a.txt") as part:  # noqa: PT012
        part.write_text("ours")
        (tmp_path / "a.txt").write_text("theirs")
    assert (tmp_path / "a.txt").read_text() == "theirs"
    assert names(tmp_path) == ["a.txt"]


def test_a_missing_folder_and_a_folder_in_the_place_of_the_file_are_refused(tmp_path):
    with pytest.raises(OutputError, match=r"folder of .* does not exist; make"), writing(tmp_path / "no" / "a.txt"):
        pass
    with pytest.raises(OutputError, match="is a folder"), writing(tmp_path, overwrite=True):
        pass


def test_a_full_disk_is_an_output_error_and_leaves_nothing(tmp_path):
    refused = pytest.raises(OutputError, match=r"disk is full.*was not written")
    with refused, files_of_at_most(1000), writing(tmp_path / "a.bin") as part:
        part.write_bytes(bytes(5000))
    assert names(tmp_path) == []


def test_a_full_disk_under_safetensors_is_an_output_error_too(tmp_path):
    refused = pytest.raises(OutputError, match="disk is full")
    with refused, files_of_at_most(1000), writing(tmp_path / "a.safetensors") as part:
        save_file({"x": torch.zeros(5000)}, part)
    assert names(tmp_path) == []


def test_a_disk_that_says_only_at_the_end_that_it_is_full_is_heard(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="disk is full"), writing(tmp_path / "a.bin") as part:
        part.write_bytes(b"x")
    assert names(tmp_path) == []


def test_other_trouble_of_the_system_is_told_in_its_own_words(tmp_path):
    with pytest.raises(OutputError, match="cannot be written: Permission denied"), writing(tmp_path / "a.bin"):
        raise PermissionError(errno.EACCES, "Permission denied")
