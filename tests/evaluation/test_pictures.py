import pytest
import torch
from made_pictures import dead_leaves

from latpix import read_picture, save_picture
from latpix.errors import UsageError
from latpix.evaluation.pictures import crops, kodak, plain_upscale, rounded, shrink
from latpix.evaluation.sheet import GAP, LABEL_HEIGHT, Row, busiest, contact_sheet


def test_a_sample_is_an_original_and_a_quarter_of_it():
    original = dead_leaves(64, 96)
    assert shrink(original).shape == (1, 3, 16, 24)
    assert plain_upscale(shrink(original)).shape == original.shape


def test_plain_upscale_keeps_flat_levels_to_the_bit_and_smooth_pictures_nearly():
    flat = rounded(torch.full((1, 3, 16, 24), 0.2))
    torch.testing.assert_close(plain_upscale(flat), flat[:, :, :1, :1].expand(1, 3, 64, 96), atol=1e-6, rtol=0)
    ramp = torch.linspace(-0.9, 0.9, 96).expand(1, 3, 64, 96)
    assert (plain_upscale(shrink(ramp)) - ramp)[..., 16:-16].abs().max() < 1.5 / 127.5


def test_rounding_gives_what_a_file_gives_back(tmp_path):
    pixels = 1.2 * torch.randn(1, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    save_picture(pixels, tmp_path / "a.png")
    torch.testing.assert_close(rounded(pixels), read_picture(tmp_path / "a.png"), atol=1e-6, rtol=0)


def test_kodak_pictures_come_by_their_number_and_are_counted(tmp_path):
    for number in (1, 2, 10):
        save_picture(dead_leaves(32, 32, seed=number, count=3), tmp_path / f"{number}.png")
    assert [sample.name for sample in kodak(tmp_path, 3)] == ["kodak 1", "kodak 2", "kodak 10"]
    with pytest.raises(UsageError, match="holds 3 Kodak pictures, expected 24"):
        next(kodak(tmp_path))


def test_a_missing_photograph_is_named_with_its_package(tmp_path):
    with pytest.raises(UsageError, match=r"seeding_by_Clements_Engelhardt\.jpg .* lomiri-wallpapers"):
        next(crops(tmp_path))


def test_the_sheet_shows_where_the_original_has_detail(tmp_path):
    original = torch.zeros(1, 3, 96, 160)
    original[..., 32:64, 64:96] = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert busiest(original, 32) == (32, 64)
    rows = [Row(name, {"one": original, "two": sign * original}, 32, 64) for name, sign in (("a", -1), ("b", 1))]
    contact_sheet(rows, tmp_path / "s.png", side=32)
    sheet = read_picture(tmp_path / "s.png")
    assert sheet.shape[-2:] == (2 * (32 + LABEL_HEIGHT + GAP), 2 * (32 + GAP))
    shown = sheet[..., LABEL_HEIGHT : LABEL_HEIGHT + 32, :32]
    torch.testing.assert_close(shown, rounded(original[..., 32:64, 64:96]), atol=1e-6, rtol=0)
