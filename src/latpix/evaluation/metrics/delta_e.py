"""Colour difference of low frequencies:  mean over places of CIEDE2000(Lab(shrunk picture), Lab(small picture)).

The picture is brought to the small one's size first, by area where it shrinks and bicubically where it grows, so that
detail does not count. 1 is about what an eye just sees. A decoder should keep the colours of what its latent was made
from.

Source: CIEDE2000, Sharma, Wu, Dalal 2005, eq. 2 to 22, with unit weights; Lab of sRGB under D65, 2 degrees.
Letters: b batch, H W and y x pixels.
"""

from math import pi, radians

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.95047, 1.0, 1.08883)
TO_LINEAR = 0.04045  # below it sRGB is linear
NEAR_BLACK = 0.008856  # below it Lab is linear


def delta_e_low(pixels: Float[Tensor, "b 3 H W"], small: Float[Tensor, "b 3 y x"]) -> Float[Tensor, " b"]:
    """Of each picture in [-1, 1]; 0 for equal colours."""
    height, width = small.shape[-2:]
    shrunk = resized(pixels, height, width).clamp(-1, 1)
    return ciede2000(lab((shrunk + 1) / 2), lab((small + 1) / 2)).mean((1, 2))  # [b]


def resized(pixels: Float[Tensor, "b 3 H W"], height: int, width: int) -> Float[Tensor, "b 3 y x"]:
    """By area, each pixel counting by its share; bicubic if a side grows."""
    if pixels.shape[-2:] == (height, width):
        return pixels
    if height > pixels.shape[2] or width > pixels.shape[3]:
        return F.interpolate(pixels, size=(height, width), mode="bicubic", align_corners=False)
    rows, columns = (_shares(new, old).to(pixels) for new, old in ((height, pixels.shape[2]), (width, pixels.shape[3])))
    return rows @ pixels @ columns.mT  # [b, 3, y, x]


def lab(rgb: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
    """L* in 0..100, a* and b*, of sRGB in [0, 1]."""
    linear = torch.where(rgb > TO_LINEAR, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    matrix = rgb.new_tensor(XYZ) / rgb.new_tensor(WHITE)[:, None]
    xyz = torch.einsum("ij,bjhw->bihw", matrix, linear)
    f = torch.where(xyz > NEAR_BLACK, xyz.clamp(min=NEAR_BLACK) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def ciede2000(one: Float[Tensor, "b 3 H W"], other: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b H W"]:
    """The difference of two Lab pictures at each place; symmetric."""
    (l1, a1, b1), (l2, a2, b2) = one.unbind(1), other.unbind(1)
    # Greys are pulled apart along a*, which makes hue differences near grey count less.
    stretch = 1.5 - 0.5 * _seventh((torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2)
    a1, a2 = a1 * stretch, a2 * stretch
    c1, c2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = (torch.atan2(b, a) % (2 * pi) for a, b in ((a1, b1), (a2, b2)))
    grey = c1 * c2 == 0  # no hue
    turn = h2 - h1
    turn = torch.where(turn > pi, turn - 2 * pi, turn)
    turn = torch.where(turn < -pi, turn + 2 * pi, turn)
    turn = turn.masked_fill(grey, 0)
    hue = torch.where(grey, h1 + h2, h1 + turn / 2)

    chroma = (c1 + c2) / 2
    t = (
        1
        - 0.17 * torch.cos(hue - radians(30))
        + 0.24 * torch.cos(2 * hue)
        + 0.32 * torch.cos(3 * hue + radians(6))
        - 0.20 * torch.cos(4 * hue - radians(63))
    )
    light = ((l1 + l2) / 2 - 50).square()
    delta_l = (l2 - l1) / (1 + 0.015 * light / (20 + light).sqrt())
    delta_c = (c2 - c1) / (1 + 0.045 * chroma)
    delta_h = 2 * (c1 * c2).sqrt() * torch.sin(turn / 2) / (1 + 0.015 * chroma * t)
    degrees = torch.rad2deg(hue % (2 * pi))
    blue = radians(60) * torch.exp(-((degrees - 275) / 25).square())
    rotation = -2 * _seventh(chroma) * torch.sin(blue)
    square = delta_l.square() + delta_c.square() + delta_h.square() + rotation * delta_c * delta_h
    return square.clamp(min=0).sqrt()


def _seventh(chroma: Float[Tensor, "b H W"]) -> Float[Tensor, "b H W"]:
    """sqrt(C^7 / (C^7 + 25^7))."""
    return (chroma**7 / (chroma**7 + 25.0**7)).sqrt()


def _shares(new: int, old: int) -> Float[Tensor, "new old"]:
    """What part of each old pixel lies in each new one; rows sum to 1."""
    edges = torch.arange(new + 1, dtype=torch.float64) * old / new
    pixel = torch.arange(old, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)
    return overlap.clamp(min=0) * new / old
