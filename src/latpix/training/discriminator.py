"""The discriminator: one small head per feature map of the teacher.

    (conv 4x4 by 2 -> group norm -> leaky relu 0.2) times layers - 1,  conv 1x1 to one channel,  mean over places

Channels halve at the first stage; at later ones they halve, but to 64 at the least. With ``patch_logits`` each place
keeps its own logit. Source: PatchGAN, Isola et al. 2017, section 3.2; on a teacher's features: DMD2, Yin et al. 2024.
Letters: b batch, d channels of a feature map, h and w its places, k logits.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

FEWEST = 64  # channels of the later stages
GROUPS = 32  # at most


class Discriminator(nn.Module):
    """Heads on feature maps; the name of the list is that of upstream's files."""

    def __init__(self, channels: Sequence[int], *, layers: int = 2, patch_logits: bool = False) -> None:
        """One head per feature map.

        Args:
            channels: of each feature map, in ascending order of the teacher's blocks.
            layers: convolutions of a head, the last one included.
            patch_logits: a logit per place instead of one per feature map.
        """
        super().__init__()
        self.patch_logits = patch_logits
        self.cls_pred_heads = nn.ModuleList(make_head(width, layers) for width in channels)

    def forward(self, features: Sequence[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b k"]:
        """Logits, of the first head first; larger means truer."""
        logits = []
        for head, feature in zip(self.cls_pred_heads, features, strict=True):
            places = head(feature).flatten(1)  # [b, h w]
            logits.append(places if self.patch_logits else places.mean(1, keepdim=True))
        return torch.cat(logits, dim=1)


def make_head(channels: int, layers: int) -> nn.Sequential:
    """A head for feature maps of ``channels``, with torch's usual initialisation."""
    stages: list[nn.Module] = []
    for stage in range(layers - 1):
        wanted = channels // 2 if stage == 0 else max(channels // 2, FEWEST)
        stages += [
            nn.Conv2d(channels, wanted, 4, stride=2, padding=1),
            nn.GroupNorm(groups_of(wanted), wanted),
            nn.LeakyReLU(0.2),
        ]
        channels = wanted
    return nn.Sequential(*stages, nn.Conv2d(channels, 1, 1))


def groups_of(channels: int) -> int:
    """Groups of a norm: a quarter of few channels, else the largest divisor that is not above 32."""
    if channels <= GROUPS:
        return max(1, channels // 4)
    return next(groups for groups in range(GROUPS, 0, -1) if channels % groups == 0)
