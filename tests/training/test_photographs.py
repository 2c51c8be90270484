"""The training list: what is on it, what never is, and what the loop gets from it."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from latpix.errors import UsageError
from latpix.training import photographs as module
from latpix.training.photographs import detail, halve, read, to_levels, to_pixels, training_photographs

NEVER_TRAINED_ON = ("seeding", "friends", "greentock", "analogpattern", "umang")


@pytest.fixture
def assets(tmp_path):
    """A tree like the assets': two training folders, Kodak beside them, and both packages with all their pictures."""
    picture = Image.new("RGB", (40, 33), (10, 200, 30))
    for name in ("photos/cid22/b.webp", "photos/cid22/a.webp", "photos/clic2025/c.webp", "photos/kodak/1.webp"):
        _save(picture, tmp_path / name)
    _save(picture, tmp_path / "photos/astronaut.jpg")
    for name in (*module.LOMIRI, "seeding_by_Clements_Engelhardt", "friends_by_Aitzol_Berasategi", "umang_by_X"):
        _save(picture, tmp_path / "packages" / module.LOMIRI_FOLDER / f"{name}.jpg")
    for name in (*module.PLASMA, "Autumn", "Elarun"):
        _save(picture, tmp_path / "packages" / module.PLASMA_FOLDER / name / "contents/images/2560x1600.jpg")
    return tmp_path


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def test_the_list_holds_both_folders_and_ten_and_eleven_files_of_the_packages(assets):
    found = training_photographs(assets)
    sources = [photograph.source for photograph in found]
    assert sources.count("cid22") == 2
    assert sources.count("clic2025") == 1
    assert sources.count("lomiri-wallpapers-16.04") == 10
    assert sources.count("plasma-workspace-wallpapers") == 11
    assert len(found) == 24
    assert all(photograph.license for photograph in found)


def test_validation_pictures_are_never_on_the_list(assets):
    paths = [str(photograph.path) for photograph in training_photographs(assets)]
    for name in (*NEVER_TRAINED_ON, "kodak", "astronaut", "Autumn", "Elarun"):
        assert not any(name in path for path in paths), name


def test_the_order_is_the_same_every_time_and_the_packages_are_optional(assets):
    found = training_photographs(assets)
    assert [photograph.path.name for photograph in found[:3]] == ["a.webp", "b.webp", "c.webp"]
    (assets / "packages").rename(assets / "elsewhere")
    assert training_photographs(assets) == found[:3]


def test_a_missing_folder_or_file_is_named_with_what_to_do(assets):
    (assets / "packages" / module.LOMIRI_FOLDER / "free_by_Peter_Nerlich.jpg").unlink()
    with pytest.raises(UsageError, match=r"free_by_Peter_Nerlich.*dpkg -x"):
        training_photographs(assets)
    with pytest.raises(UsageError, match="photos/cid22"):
        training_photographs(assets / "photos")


def test_a_picture_is_read_as_rgb_levels_cut_to_multiples_of_16(tmp_path):
    Image.linear_gradient("L").resize((70, 50)).save(tmp_path / "grey.png")
    levels = read(module.Photograph(path=tmp_path / "grey.png", source="x", license="y"))
    assert levels.dtype == torch.uint8
    assert levels.shape == (3, 48, 64)
    assert torch.equal(levels[0], levels[2])


def test_levels_become_pixels_and_come_back_exactly():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, 16, 16)
    assert to_pixels(levels).aminmax() == (-1, 1)
    assert torch.equal(to_levels(to_pixels(levels)), levels)


def test_half_size_is_the_mean_of_each_2x2():
    levels = torch.zeros(3, 64, 96, dtype=torch.uint8)
    levels[:, ::2] = 200
    assert torch.equal(halve(levels), torch.full((3, 32, 48), 100, dtype=torch.uint8))


def test_detail_is_zero_on_a_flat_tile_small_on_a_ramp_and_large_on_a_checkerboard():
    rows, columns = torch.arange(64)[:, None].expand(64, 64), torch.arange(64).expand(64, 64)
    found = [
        detail(tile.to(torch.uint8).expand(3, 64, 64), 64).item()
        for tile in (torch.full((64, 64), 7), columns, (rows + columns) % 2 * 100)
    ]
    assert found[0] == 0
    assert found[1] < 1
    assert found[2] == pytest.approx(50)
