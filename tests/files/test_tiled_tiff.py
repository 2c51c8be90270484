import shutil
from types import SimpleNamespace

import pytest
import torch
from full_disk import files_of_at_most
from made_pictures import dead_leaves

from latpix import read_picture, save_picture
from latpix.canvas import Canvas
from latpix.errors import OutputError, PictureError
from latpix.files import tiled_tiff
from latpix.files.picture_files import picture_info, read_metadata
from latpix.files.tiled_tiff import check_room, room_beside, save_tiff


def parts_of(pixels):
    return lambda rows, columns: pixels[..., rows, columns]


@pytest.mark.parametrize("big", [False, True])
def test_a_picture_written_in_tiles_reads_as_one_written_whole(tmp_path, monkeypatch, big):
    monkeypatch.setattr(tiled_tiff, "BIG", 0 if big else 2**32)
    monkeypatch.setattr(tiled_tiff, "SIDE", 32)
    pixels = 1.2 * dead_leaves(70, 50)
    save_picture(pixels, tmp_path / "whole.png")
    told = {"seed": 3, "caption": "höhe"}
    save_tiff(parts_of(pixels), 70, 50, tmp_path / "tiles.tif", metadata=told, icc_profile=b"profile")
    assert torch.equal(read_picture(tmp_path / "tiles.tif"), read_picture(tmp_path / "whole.png"))
    assert read_metadata(tmp_path / "tiles.tif") == told
    assert picture_info(tmp_path / "tiles.tif").format == "TIFF"
    assert (tmp_path / "tiles.tif").read_bytes()[2] == (43 if big else 42)


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path):
    pixels = torch.zeros(1, 3, 20, 20)
    with pytest.raises(OutputError, match="only TIFF"):
        save_tiff(parts_of(pixels), 20, 20, tmp_path / "a.png")
    pixels[..., 3, 3] = torch.nan
    with pytest.raises(PictureError, match="NaN"):
        save_tiff(parts_of(pixels), 20, 20, tmp_path / "a.tiff")
    assert not list(tmp_path.iterdir())


def test_the_room_beside_an_output_goes_when_it_is_done_and_is_refused_where_the_disk_has_none(tmp_path, monkeypatch):
    check_room(tmp_path / "a.tiff", 100)
    with room_beside(tmp_path / "a.tiff") as folder:
        (folder / "state").write_bytes(b"x")
        assert folder.parent == tmp_path
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**30))
    with pytest.raises(OutputError, match=r"2\.0 GiB beside it.*has 1\.0 GiB"):
        check_room(tmp_path / "a.tiff", 2**31)


def test_only_a_full_disk_is_called_one(tmp_path):
    output = tmp_path / "a.tiff"
    full = pytest.raises(OutputError, match=r"the disk is full.*free some space")
    with full, room_beside(output) as folder, files_of_at_most(1000):
        Canvas(100, 100, folder=folder)
    gone = "cannot be kept there: No such file or directory"
    with pytest.raises(OutputError, match=gone), room_beside(tmp_path / "missing" / "a.tiff"):
        pass
    with pytest.raises(OutputError, match=gone), room_beside(output) as folder:
        (folder / "missing" / "state").open("wb")
    with pytest.raises(FileNotFoundError, match=r"of_someone_else"), room_beside(output):
        (tmp_path / "of_someone_else").read_bytes()
    assert not list(tmp_path.iterdir())
