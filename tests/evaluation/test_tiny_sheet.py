import pytest
import torch
from made_pictures import dead_leaves

pytest.importorskip("skimage")

from latpix import Decoder, read_picture, save_picture
from latpix.backbones.taef2 import Taef2
from latpix.evaluation import tiny_sheet
from latpix.evaluation.sheet import GAP, LABEL_HEIGHT, SIDE
from latpix.evaluation.tiny_sheet import CROPS, NIGHT, STEPS, draw, main, night, write_natives


class Painter(Decoder):
    """Its pictures are grey, lighter with every step."""

    def __init__(self):
        pass

    def decode(self, latent, *, steps):
        return torch.full((1, 3, *(64 * side for side in latent.shape[-2:])), 0.2 * steps)


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """Two pictures of the list, and a codec of random weights."""
    monkeypatch.setattr(tiny_sheet, "CROPS", (("text", "kodak 2", 0, 32), ("night", NIGHT, 10, 20)))
    (tmp_path / "photos/kodak").mkdir(parents=True)
    for number in range(1, 25):
        save_picture(dead_leaves(256, 320, seed=number), tmp_path / f"photos/kodak/{number}.png")
    torch.manual_seed(0)
    taef2 = Taef2()
    (tmp_path / "taef2").mkdir()
    for part in ("encoder", "decoder"):
        torch.save(getattr(taef2, part).state_dict(), tmp_path / f"taef2/taef2_{part}.pth")
    return tmp_path


def test_a_sheet_has_a_row_for_each_crop_and_a_column_for_each_way(assets):
    write_natives(assets, assets / "natives")
    names = [path.name for path in sorted((assets / "natives").iterdir())]
    assert names == ["kodak 2.png", "rocket.png"]
    assert read_picture(assets / "natives/kodak 2.png").shape == (1, 3, 64, 80)
    (assets / "peer").mkdir()
    for name in names:
        native = read_picture(assets / "natives" / name)
        save_picture(native.repeat_interleave(4, 2).repeat_interleave(4, 3)[0], assets / "peer" / name)
    draw(assets, Painter(), ("nearest", assets / "peer"), assets / "sheet.png")
    sheet = read_picture(assets / "sheet.png")[0]
    height, width = SIDE + LABEL_HEIGHT + GAP, SIDE + GAP
    assert sheet.shape == (3, 2 * height, (3 + len(STEPS)) * width)
    original = read_picture(assets / "photos/kodak/2.png")[0, :, :256, 32:288]
    torch.testing.assert_close(sheet[:, LABEL_HEIGHT : LABEL_HEIGHT + SIDE, :SIDE], original, rtol=0, atol=1e-6)
    last = sheet[:, LABEL_HEIGHT : LABEL_HEIGHT + SIDE, 5 * width : 5 * width + SIDE]
    assert last.mean() == pytest.approx(0.8, abs=0.01)  # four steps


def test_the_list_has_twelve_crops_inside_their_pictures():
    sizes = {4: (768, 512), 10: (768, 512), 18: (768, 512), 19: (768, 512)}
    assert len(CROPS) == 12
    assert {subject for subject, *_ in CROPS} == {"face", "text", "foliage", "building", "night"}
    for _, name, top, left in CROPS:
        size = night().shape[-2:] if name == NIGHT else sizes.get(int(name.split()[1]), (512, 768))
        assert (top + SIDE <= size[0], left + SIDE <= size[1]) == (True, True), name


@pytest.mark.parametrize("peer", ["nearest", "=folder", "nearest="])
def test_a_peer_without_name_or_folder_is_refused(peer, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tiny_sheet", "--assets", ".", "--peer", peer, "-o", "sheet.png"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert f"--peer {peer}: expected NAME=DIR" in capsys.readouterr().err
