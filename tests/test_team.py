"""Two and three processes over gloo make the picture of one, in bands of rows or in tiles."""

import json

import pytest
import team_job
import torch
from in_a_process import run_script

from latpix import read_picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("team")
    run_script(team_job, folder)
    return folder


@pytest.mark.parametrize("ranks", [2, 3])  # three bands have one row more or less than each other
@pytest.mark.parametrize("case", team_job.CASES)
def test_processes_make_the_picture_of_one(folder, case, ranks):
    one, shared = (torch.load(folder / f"{case}_{count}.pt", weights_only=True) for count in (1, ranks))
    assert one.std() > 0.1
    tolerance = 0.1 if case == "bfloat16" else 1e-5
    assert float((one - shared).abs().max()) < tolerance
    assert float((one - shared).abs().mean()) < tolerance / 10


def test_processes_stream_the_picture_of_one_into_its_file(folder):
    one, shared, plain = (
        read_picture(folder / "streamed_1.tiff"),
        read_picture(folder / "streamed_2.tiff"),
        torch.load(folder / "tiles_1.pt", weights_only=True),
    )
    assert float((one - shared).abs().max()) <= 2 / 255 + 1e-6
    assert float((one - plain).abs().max()) <= 2 / 127.5


def test_one_latent_is_decoded_by_all_processes_of_torchrun(folder):
    alone, together = (read_picture(folder / name) for name in ("alone.png", "together.png"))
    assert float((alone - together).abs().max()) <= 2 / 255 + 1e-6


def test_processes_that_hold_more_or_less_plan_alike(folder):
    names = ("limited", "limited_0", "limited_1")
    alone, *both = (torch.load(folder / f"{name}.pt", weights_only=True) for name in names)
    assert [found["tile"] for found in both] == [alone["tile"]] * 2
    assert alone["tile"] < 32
    assert [found["streams"] for found in both] == [True, True]
    for found in both:
        torch.testing.assert_close(found["pixels"], alone["pixels"], rtol=0, atol=1e-5)


def test_a_process_works_on_its_band_in_pieces(folder):
    for rank in range(2):
        assert json.loads((folder / f"in_pieces_{rank}.json").read_text()) == {"tokens": 16, "patches": 8}


def said(folder, name):
    return [(folder / f"{name}_{rank}.txt").read_text() for rank in range(2)]


def test_memory_that_runs_out_in_one_process_ends_all_with_a_word_on_it(folder):
    other, out = said(folder, "without_memory")
    assert out.startswith("TeamError: process 1 of 2 (from 0) ran out of memory")
    assert "--memory-limit" in out
    assert other.startswith("TeamError: another process that shares this picture has ended")


def test_processes_of_one_machine_need_room_for_the_files_of_each(folder):
    for words in said(folder, "without_room"):
        assert words.startswith("OutputError")
        assert "needs 0.4 GiB beside it" in words


def test_what_one_process_cannot_write_no_process_begins(folder):
    for words in said(folder, "without_folder"):
        assert words.startswith("OutputError: the folder of")


def test_processes_stream_into_a_folder_that_was_not_there(folder):
    alone, streamed = (read_picture(folder / name) for name in ("alone.png", "new/cat.tiff"))
    assert float((alone - streamed).abs().max()) <= 2 / 127.5
