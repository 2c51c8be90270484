"""Pictures to patches and back.

Patches are numbered row-major (l = row * columns + column), pixels inside a patch too (i = r * p + c).
Letters: b batch, c channels, l patches, area pixels of a patch.
"""

from jaxtyping import Float
from torch import Tensor


def to_patches(picture: Float[Tensor, "b c h w"], patch: int) -> Float[Tensor, "b l c area"]:
    """Cut a picture into patches, channels apart: ``.flatten(2)`` gives the channel-major features of a patch."""
    b, c, h, w = picture.shape
    tiles = picture.reshape(b, c, h // patch, patch, w // patch, patch)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // patch) * (w // patch), c, patch * patch)


def from_patches(patches: Float[Tensor, "b l area c"], rows: int, columns: int) -> Float[Tensor, "b c h w"]:
    """Put patches of pixel tokens back together into a picture."""
    b, _, area, c = patches.shape
    patch = int(area**0.5)
    tiles = patches.reshape(b, rows, columns, patch, patch, c)
    return tiles.permute(0, 5, 1, 3, 2, 4).reshape(b, c, rows * patch, columns * patch)


def tokens_of(features: Float[Tensor, "b g h w"]) -> Float[Tensor, "b n g"]:
    """A feature map as tokens, row-major."""
    return features.flatten(2).transpose(1, 2)
