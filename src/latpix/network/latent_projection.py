"""Latent projection: the latent, brought to the patch grid, becomes the features that enter the blocks.

    align -> conv stack [b,g,rows,columns] -> tokens [b,n,g] -> one linear head per injection point [b,n,d]

A second stack may read a picture at native size beside the latent; where both are there they are merged. None of it
depends on time: it runs once per decode. Source: PiD, arXiv 2605.23902.
Letters: b batch, c latent channels, g latent width, n patches, d width, f fold of a cell or picture patch.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from latpix.network.config import NetworkConfig, Padding
from latpix.network.patches import tokens_of
from latpix.network.precision import Conv2d, GroupNorm, LayerNorm, Linear


def align_latent(
    latent: Float[Tensor, "b c h w"], rows: int, columns: int, *, config: NetworkConfig
) -> Float[Tensor, "b c2 rows columns"]:
    """Bring a latent to the patch grid: cells larger than a patch are repeated, smaller ones folded into channels."""
    if config.latent_unpatchify > 1:
        latent = F.pixel_shuffle(latent, config.latent_unpatchify)
    patches, cells = patches_per_cell(config)
    if patches > cells:
        # Plain "nearest" even where sizes do not divide: float32 source indices, as in the trained networks.
        return F.interpolate(latent, size=(rows, columns), mode="nearest")
    fold = cells // patches
    return fold_to_grid(latent, rows, columns, fold)


def fold_to_grid(
    picture: Float[Tensor, "b c h w"], rows: int, columns: int, fold: int
) -> Float[Tensor, "b c2 rows columns"]:
    """Space-to-depth by ``fold`` onto the grid; a picture of another size is resized bilinearly first."""
    size = (rows * fold, columns * fold)
    if picture.shape[-2:] != size:
        picture = F.interpolate(picture, size=size, mode="bilinear", align_corners=False)
    return F.pixel_unshuffle(picture, fold) if fold > 1 else picture


def patches_per_cell(config: NetworkConfig) -> tuple[int, int]:
    """The ratio of patches to latent cells along a side, as (patches, cells)."""
    cell = config.scale * (config.latent_downsample // config.latent_unpatchify)  # output pixels
    assert cell % config.patch_size == 0 or config.patch_size % cell == 0, "patches and latent cells do not divide"
    return (cell // config.patch_size, 1) if cell >= config.patch_size else (1, config.patch_size // cell)


class ResidualBlock(nn.Module):
    """x + conv2(silu(norm2(conv1(silu(norm1(x)))))), group norms of four groups."""

    def __init__(self, width: int, padding: Padding) -> None:
        super().__init__()
        self.norm1 = GroupNorm(4, width)
        self.conv1 = conv3x3(width, width, padding)
        self.norm2 = GroupNorm(4, width)
        self.conv2 = conv3x3(width, width, padding)

    def forward(self, x: Float[Tensor, "b g h w"]) -> Float[Tensor, "b g h w"]:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class ConvStack(nn.Module):
    """conv, silu, conv, residual blocks; no activation at the end."""

    def __init__(self, channels: int, width: int, depth: int, padding: Padding) -> None:
        super().__init__()
        self.conv_in = conv3x3(channels, width, padding)
        self.conv_mid = conv3x3(width, width, padding)
        self.blocks = nn.ModuleList(ResidualBlock(width, padding) for _ in range(depth))

    def forward(
        self, x: Float[Tensor, "b c h w"], tap: int = -1
    ) -> tuple[Float[Tensor, "b g h w"], Float[Tensor, "b g h w"]]:
        """What the last block puts out, and what block ``tap`` (from 1; 0 the opening convolutions, -1 the last)."""
        x = tapped = self.conv_mid(F.silu(self.conv_in(x)))
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if tap == -1 or number <= tap:
                tapped = x
        return x, tapped


class RGBHead(nn.Module):
    """Tokens -> a picture at native size, which training compares with the true one; not clamped."""

    def __init__(self, width: int, fold: int) -> None:
        super().__init__()
        self.fold = fold
        self.norm = LayerNorm(width)
        self.up = Linear(width, width)
        self.down = Linear(width, 3 * fold * fold)
        for layer in (self.up, self.down):
            truncated_normal(layer)

    def forward(self, features: Float[Tensor, "b g rows columns"]) -> Float[Tensor, "b 3 h w"]:
        tokens = self.down(F.silu(self.up(self.norm(tokens_of(features)))))  # [b, n, 3 f f]
        return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, features.shape[-2:]), self.fold)


@dataclass(frozen=True)
class LatentFeatures:
    """What the blocks read of the latent: features, or the tokens that each gate's are made of when it runs."""

    per_gate: tuple[Float[Tensor, "b n d"], ...]
    pixel: Float[Tensor, "b n d"] | None = None  # for the gate before the pixel blocks
    tokens: Float[Tensor, "b n g"] | None = None  # then there are no features
    rgb_source: Float[Tensor, "b g rows columns"] | None = None  # what the RGB head reads


class LatentProjection(nn.Module):
    """Stacks and heads; which there are is in the config."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        g, depth, padding = config.latent_width, config.latent_depth, config.padding
        patches, cells = patches_per_cell(config)
        channels = config.latent_channels * (cells // patches if cells > patches else 1) ** 2
        self.latent_stack = ConvStack(channels // config.latent_unpatchify**2, g, depth, padding)
        if config.image_channels:
            self.image_stack = ConvStack(config.image_channels * self.native_fold**2, g, depth, padding)
            self.merge_in = Conv2d(2 * g, g, 1)
            self.merge_blocks = nn.ModuleList(ResidualBlock(g, padding) for _ in range(depth))
            truncated_normal(self.merge_in)
        self.heads = nn.ModuleList(zero_linear(g, config.width) for _ in range(config.latent_outputs))
        self.pixel_head = zero_linear(g, config.width) if config.pixel_gate else None
        self.rgb_head = RGBHead(g, self.native_fold) if config.rgb_head is not None else None

    @property
    def native_fold(self) -> int:
        """Native pixels per side of a patch."""
        return self.config.patch_size // self.config.scale

    def forward(
        self,
        latent: Float[Tensor, "b c h w"] | None,
        image: Float[Tensor, "b k y x"] | None,
        rows: int,
        columns: int,
        keep: Float[Tensor, " b"] | None = None,
        *,
        features: bool = True,
    ) -> LatentFeatures:
        """Features of a latent, of a picture at native size, or of both, for a grid of ``rows`` x ``columns`` patches.

        ``keep`` multiplies every feature of a sample: training switches the condition off with it. Without ``features``
        they are left to ``feature``.
        """
        return self.features_of(*self.project(latent, image, rows, columns), keep, features=features)

    def project(
        self, latent: Float[Tensor, "b c h w"] | None, image: Float[Tensor, "b k y x"] | None, rows: int, columns: int
    ) -> tuple[Float[Tensor, "b g rows columns"], Float[Tensor, "b g rows columns"] | None]:
        """The map that the features are read from, and what the RGB head reads, if there is one.

        The convolutions see neighbours and the norms the whole picture, so a part of a picture is a part of its map;
        arguments as of ``forward``.
        """
        from_latent, tapped, tap = None, None, self.config.rgb_head
        if latent is not None:
            aligned = align_latent(latent, rows, columns, config=self.config)
            from_latent, tapped = self.latent_stack(aligned, -1 if tap is None else tap)
        merged = self._merge(from_latent, image, rows, columns)
        if tap is None:
            return merged, None
        return merged, merged if tap == -1 or tapped is None else tapped

    def features_of(
        self,
        projected: Float[Tensor, "b g rows columns"],
        rgb_source: Float[Tensor, "b g rows columns"] | None = None,
        keep: Float[Tensor, " b"] | None = None,
        *,
        features: bool = True,
    ) -> LatentFeatures:
        """What the blocks read, of a map of ``project`` or a part of one; ``keep``, ``features`` as of ``forward``."""
        tokens = tokens_of(projected)  # [b, n, g]
        if features:
            return self.made(LatentFeatures(per_gate=(), tokens=tokens, rgb_source=rgb_source), keep)
        assert keep is None, "a dropped condition is for training, which keeps features"
        return LatentFeatures(per_gate=(), tokens=tokens.contiguous())

    def made(self, left: LatentFeatures, keep: Float[Tensor, " b"] | None = None) -> LatentFeatures:
        """The features that were left to ``feature``, of all patches and gates."""
        assert left.tokens is not None, "there are features already"
        return LatentFeatures(
            per_gate=tuple(weigh(head(left.tokens), keep) for head in self.heads),
            pixel=None if self.pixel_head is None else weigh(self.pixel_head(left.tokens), keep),
            rgb_source=left.rgb_source,
        )

    def feature(self, features: LatentFeatures, gate: int | None, rows: slice) -> Float[Tensor, "b m d"]:
        """What a gate reads at some patches; ``gate`` None is the one before the pixel blocks."""
        if features.tokens is None:
            whole = features.pixel if gate is None else features.per_gate[gate]
            assert whole is not None
            return whole[:, rows]
        head = self.pixel_head if gate is None else self.heads[gate]
        assert head is not None
        return head(features.tokens[:, rows])

    def _merge(
        self, latent: Float[Tensor, "b g r s"] | None, image: Float[Tensor, "b k y x"] | None, rows: int, columns: int
    ) -> Float[Tensor, "b g r s"]:
        if image is None:
            assert latent is not None, "neither a latent nor a picture to project"
            return latent
        from_image, _ = self.image_stack(fold_to_grid(image, rows, columns, self.native_fold))
        if latent is None:
            return from_image
        both = F.silu(self.merge_in(torch.cat([from_image, latent], dim=1)))
        for block in self.merge_blocks:
            both = block(both)
        return both


def weigh(feature: Float[Tensor, "b n d"], keep: Float[Tensor, " b"] | None) -> Float[Tensor, "b n d"]:
    """A feature times its sample's ``keep``."""
    return feature if keep is None else feature * keep.to(feature.dtype).view(-1, 1, 1)


def conv3x3(channels: int, width: int, padding: Padding) -> Conv2d:
    """A convolution that keeps the grid, with the projection\'s initialisation."""
    conv = Conv2d(channels, width, 3, padding=1, padding_mode=padding)
    truncated_normal(conv)
    return conv


def truncated_normal(layer: Linear | Conv2d) -> None:
    """Weights of standard deviation 0.02, bias zero."""
    nn.init.trunc_normal_(layer.weight, std=0.02)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


def zero_linear(channels: int, width: int) -> Linear:
    """A layer that starts at zero, so that untrained it changes nothing."""
    layer = Linear(channels, width)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
