"""Made-up pictures: a seed and a number give one picture, with edges at every scale."""

import pytest
import torch

from latpix import read_picture
from latpix.data.crops import detail, pick_place
from latpix.data.made_up import dead_leaves, made_up, write_made_up
from latpix.data.made_up import text as draw_text
from latpix.data.pictures import halved, to_pixels
from latpix.errors import OptionError


def test_seed_and_number_give_one_picture():
    one = made_up(0, 3, height=48, width=80)
    assert one.shape == (3, 48, 80)
    assert one.dtype == torch.uint8
    assert torch.equal(one, made_up(0, 3, height=48, width=80))
    assert not torch.equal(one, made_up(0, 4, height=48, width=80))
    assert not torch.equal(one, made_up(1, 3, height=48, width=80))


@pytest.mark.parametrize("draw", [dead_leaves, draw_text])
def test_there_is_detail_at_every_scale(draw):
    import numpy as np

    for seed in range(3):
        levels = draw(np.random.default_rng(seed), height=256, width=256)
        for _ in range(4):
            assert detail(levels) > 2  # of 255
            levels = halved(levels)


def test_written_pictures_are_kept_and_can_be_read(tmp_path):
    paths = write_made_up(tmp_path / "made", 2, seed=5, height=32, width=48)
    assert torch.equal(read_picture(paths[1])[0], to_pixels(made_up(5, 1, height=32, width=48)))
    paths[0].write_bytes(paths[1].read_bytes())
    assert write_made_up(tmp_path / "made", 3, seed=5, height=32, width=48)[:2] == paths
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with pytest.raises(OptionError, match="too small"):
        made_up(0, 0, height=8, width=64)


def test_crops_by_detail_prefer_texture_to_sky_and_others_do_not():
    import numpy as np

    levels = torch.full((3, 64, 256), 128, dtype=torch.uint8)
    levels[:, :, 128:] = made_up(0, 0, height=64, width=128)

    def share(by_detail):
        places = [pick_place(levels, 32, np.random.default_rng(seed), by_detail=by_detail) for seed in range(200)]
        assert all(0 <= top <= 32 and 0 <= left <= 224 for top, left in places)
        return sum(left >= 112 for _, left in places) / 200

    assert 0.4 < share(False) < 0.6
    assert share(True) > 0.75


def test_crops_lie_on_the_grid_of_cells():
    import numpy as np

    levels = made_up(0, 0, height=100, width=130)
    places = {pick_place(levels, 32, np.random.default_rng(seed), grid=32) for seed in range(100)}
    assert places == {(top, left) for top in (0, 32, 64) for left in (0, 32, 64, 96)}
