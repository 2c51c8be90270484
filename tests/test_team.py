"""Two and three processes over gloo make the picture of one, in bands of rows or in tiles."""

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
