"""Context parallelism: processes share a picture's patches, each a band of whole rows.

A band's queries see the keys and values of the whole picture, gathered in every attention; all else in the network is
local to a patch, or is the same for all (caption, latent projection). Bands of the output are gathered at the end, and
each process computes the whole loss.

    forward   every band on every process, in order
    backward  the sum of all processes' gradients with respect to one's own band

With the second line each process holds the gradient of the *sum* of all losses through its band; they are equal, so
the average over processes is the gradient of one. (A gather that keeps only one's own slice of the gradient loses what
the other bands' queries owe to this band's keys.) Letters: b batch, n patches, d width.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from latpix.errors import UsageError
from latpix.network.attention import Scope
from latpix.network.latent_projection import LatentFeatures
from latpix.network.model import Condition
from latpix.network.rope import Rotation


class Gather(torch.autograd.Function):
    """All processes' tensors, joined along dimension 0."""

    @staticmethod
    def forward(context: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        context.group = group
        out = x.new_empty((dist.get_world_size(group) * len(x), *x.shape[1:]))
        dist.all_gather_into_tensor(out, x.contiguous(), group)
        return out

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        wide = gradient.float().contiguous()  # gloo reads memory as it lies, and bfloat16 sums would lose digits
        out = wide.new_empty((len(wide) // dist.get_world_size(context.group), *wide.shape[1:]))
        dist.reduce_scatter_tensor(out, wide, group=context.group)
        return out.to(gradient.dtype), None


class Bands:
    """The bands of one group of processes; this one's is chosen by its rank."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.rank, self.count = dist.get_rank(group), dist.get_world_size(group)

    def slice(self, x: Tensor, dim: int) -> Tensor:
        """This process's part of a dimension."""
        return x.chunk(self.count, dim)[self.rank]

    def join(self, x: Tensor, dim: int) -> Tensor:
        """The parts of all processes, along a dimension."""
        joined: Tensor = Gather.apply(x.movedim(dim, 0), self.group)  # type: ignore[no-untyped-call]
        return joined.movedim(0, dim)

    def pixels(self, x_t: Tensor) -> Tensor:
        """The band of a picture [b, 3, H, W]."""
        return self.slice(x_t, 2)

    def condition(self, whole: Condition) -> Condition:
        """What the network knows of this band, from what it knows of the picture.

        Raises:
            UsageError: the rows of patches do not divide, or attention is windowed.
        """
        if whole.rows % self.count:
            raise UsageError(
                f"{whole.rows} rows of patches cannot be shared by {self.count} processes: change context."
            )
        features = whole.features
        if features is not None:
            features = LatentFeatures(
                per_gate=tuple(self.slice(feature, 1) for feature in features.per_gate),
                pixel=None if features.pixel is None else self.slice(features.pixel, 1),
                rgb_source=features.rgb_source,
            )
        return replace(
            whole,
            rows=whole.rows // self.count,
            features=features,
            patch_scopes=(self._scope(whole.patch_scopes[0]), self._scope(whole.patch_scopes[1])),
            pixel_scopes=(self._scope(whole.pixel_scopes[0]), self._scope(whole.pixel_scopes[1])),
            row_positions=self.slice(whole.row_positions, 0),
            base=None if whole.base is None else self.slice(whole.base, 2),
        )

    def _scope(self, scope: Scope) -> Scope:
        if scope.windows is not None:
            raise UsageError("a network with attention windows needs no context parallelism: set context=1.")
        rotation = Rotation(self.slice(scope.rotation.cos, 0), self.slice(scope.rotation.sin, 0))
        return Scope(rotation, everyone=lambda x: self.join(x, 1))
