import torch
import torch.nn.functional as F
from made_pictures import dead_leaves

from latpix.colours import freedom_of, lock_colours

SCALE, SIDE = 4, 64  # of a coarse cell in output pixels


def coarse(pixels):
    return F.avg_pool2d(pixels, SIDE)


def test_locked_colours_are_the_references_and_finer_detail_stays():
    native = 0.5 * dead_leaves(96, 128)
    tint = torch.tensor([0.2, -0.1, 0.05]).view(1, 3, 1, 1)
    detail = 0.1 * torch.randn(1, 3, 384, 512, generator=torch.Generator().manual_seed(0))
    ours = F.interpolate(native, scale_factor=4, mode="bicubic") * 0.9 + tint + detail
    locked = lock_colours(ours, native, scale=SCALE)
    assert (coarse(ours) - coarse(F.interpolate(native, scale_factor=4))).abs().mean() > 0.1
    assert (coarse(locked) - coarse(F.interpolate(native, scale_factor=4))).abs().max() < 0.01
    fine = [x - F.interpolate(F.avg_pool2d(x, 8), scale_factor=8) for x in (ours, locked)]
    assert (fine[0] - fine[1]).abs().max() < 0.02


def test_a_picture_of_the_references_colours_is_left_alone():
    native = 0.9 * dead_leaves(64, 48)
    ours = F.interpolate(native, scale_factor=4)
    torch.testing.assert_close(lock_colours(ours, native, scale=SCALE), ours, rtol=0, atol=1e-5)


def test_freedom_is_brightness_stretched_to_the_grid():
    picture = torch.full((1, 3, 10, 20), -1.0)
    picture[..., 10:] = 1.0
    free = freedom_of(picture, 4, 8)
    assert free.shape == (1, 4, 8)
    torch.testing.assert_close(free[..., :3], torch.zeros(1, 4, 3))
    torch.testing.assert_close(free[..., 5:], torch.ones(1, 4, 3))
