"""Several processes make one picture: each predicts some of its tiles, or, of an uncut one, a band of its rows.

A band's queries see the keys and values of the whole picture, gathered in every attention; where attention has windows,
a band works on those that it has a part of. All else in the network is local to a patch, or small and the same for all
(caption, latent projection, base decoder). The sampler runs in each process, on the same bits. Training shares pictures
by the same bands: it computes the whole loss in each process, and gradients go through what was gathered.
Source: sequence parallelism by gathered keys and values, as in Jacobs et al. 2023, section 2.
Letters: b batch, n patches.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from latpix.errors import LatpixError, OutputError, TeamError, UsageError
from latpix.network.attention import Scope, Windows
from latpix.network.latent_projection import LatentFeatures
from latpix.network.model import Condition, Denoiser
from latpix.network.rope import Rotation

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Team:
    """This process among those that make each picture together."""

    rank: int
    size: int
    group: dist.ProcessGroup | None = None  # None is that of all processes
    here: int = 1  # how many of them are on this machine

    def share(self, items: Sequence[T]) -> list[T]:
        """Those of the items that this process has; every process asks with the same ones."""
        return list(items[self.rank :: self.size])

    def sum(self, x: Tensor) -> Tensor:
        """Added up over all processes, in place; each has the same bits."""
        with _answered():
            dist.all_reduce(x, group=self.group)
        return x

    def gather(self, value: T) -> list[T]:
        """What each process has, in their order; small things that can be pickled."""
        found: list[Any] = [None] * self.size
        with _answered():
            dist.all_gather_object(found, value, group=self.group)
        return found

    def join(self, x: Tensor) -> Tensor:
        """All processes' tensors, which are of one size, along dimension 0; it passes gradients on."""
        joined: Tensor = Join.apply(x, self.group, self.size)  # type: ignore[no-untyped-call]
        return joined

    def fill(self, parts: Sequence[Tensor]) -> None:
        """Each process's part, where this one's own stands already.

        In place: gloo's gather takes the memory of all parts a second time.
        """
        with _answered():
            sent = [
                dist.broadcast(part, group_src=rank, group=self.group, async_op=True) for rank, part in enumerate(parts)
            ]
            for part in sent:
                assert part is not None
                part.wait()


class Join(torch.autograd.Function):
    """All processes' tensors, joined along dimension 0.

        forward   every part on every process, in order
        backward  the sum of all processes' gradients with respect to one's own part

    With the second line each process holds the gradient of the *sum* of all losses through its part. Where they are
    equal, the average over processes is the gradient of one. (A gather that keeps only one's own slice of the gradient
    loses what the other bands' queries owe to this band's keys.)
    """

    @staticmethod
    def forward(context: Any, x: Tensor, group: dist.ProcessGroup | None, size: int) -> Tensor:
        context.group, context.size = group, size
        x = x.contiguous()
        out = x.new_empty((size * len(x), *x.shape[1:]))
        with _answered():
            dist.all_gather_into_tensor(out, x, group)
        return out

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        wide = gradient.float().contiguous()  # gloo reads memory as it lies, and bfloat16 sums would lose digits
        out = wide.new_empty((len(wide) // context.size, *wide.shape[1:]))
        dist.reduce_scatter_tensor(out, wide, group=context.group)
        return out.to(gradient.dtype), None, None


def alone(team: Team, error: Exception) -> TeamError:
    """What ends the run where one of several processes fails at what only it does, while the others wait for it."""
    what = f"process {team.rank} of {team.size} (from 0) "
    if isinstance(error, OutputError):
        return TeamError(f"{what}cannot go on, and so none can: {error}")
    return TeamError(
        f"{what}ran out of memory, and the others cannot finish the picture without it: give a memory limit that every "
        "process can keep to (--memory-limit), or start fewer."
    )


@contextmanager
def all_or_none(team: Team | None) -> Iterator[None]:
    """What may fail in one process, before all do something together: then every process raises an error of ours.

    No process may wait for another inside.
    """
    if team is None:
        yield
        return
    own: LatpixError | None = None
    try:
        yield
    except LatpixError as error:
        own = error
    errors = [error for error in (own, *team.gather(own)) if error is not None]
    if errors:
        raise errors[0]


@contextmanager
def _answered() -> Iterator[None]:
    """While processes exchange something: one that has gone is an error, not a traceback of the network's."""
    try:
        yield
    except RuntimeError as error:
        raise TeamError(
            "another process that shares this picture has ended, or does not answer; it says itself why."
        ) from error


@contextmanager
def meet(device: torch.device) -> Iterator[Team]:
    """Meet the processes that torchrun started, and leave them in the end.

    Raises:
        UsageError: torchrun did not say where to meet.
    """
    if "MASTER_ADDR" not in os.environ:
        raise UsageError(
            "several processes can share a picture only where torchrun starts them: MASTER_ADDR is not set."
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        size = dist.get_world_size()
        yield Team(rank=dist.get_rank(), size=size, here=int(os.environ.get("LOCAL_WORLD_SIZE", size)))
    finally:
        dist.destroy_process_group()


class Band:
    """The rows of patches that this process has of a picture; some processes have one more than others."""

    def __init__(self, team: Team, rows: int) -> None:
        """Of a picture of ``rows``.

        Raises:
            UsageError: there are more processes than rows.
        """
        if rows < team.size:
            raise UsageError(f"{rows} rows of patches cannot be shared by {team.size} processes; start fewer.")
        self.team, self.rows = team, rows
        bounds = [rows * rank // team.size for rank in range(team.size + 1)]
        self.counts = [stop - start for start, stop in pairwise(bounds)]
        self.start, self.count = bounds[team.rank], self.counts[team.rank]

    def cut(self, x: Tensor, dim: int) -> Tensor:
        """This process's part of a dimension that has so many entries for each row."""
        per_row = x.shape[dim] // self.rows
        return x.narrow(dim, self.start * per_row, self.count * per_row)

    def join(self, x: Tensor, dim: int, before: int = 0) -> Tensor:
        """The parts of all processes along a dimension, after its first entries, so many, which all have."""
        x = x.movedim(dim, 0)
        head, part, most = x[:before], x[before:], max(self.counts)
        per_row, even = len(part) // self.count, min(self.counts) == most
        sizes = [count * per_row for count in self.counts]
        if not torch.is_grad_enabled():
            out = x.new_empty((before + sum(sizes), *x.shape[1:]))
            out[:before] = head
            parts = out[before:].split(sizes)
            parts[self.team.rank].copy_(part)
            self.team.fill(parts)
            return out.movedim(0, dim)
        if self.count < most:  # messages are of one size
            part = torch.cat([part, part.new_zeros((most - self.count) * per_row, *part.shape[1:])])
        joined = self.team.join(part)
        if even and not before:
            return joined.movedim(0, dim)
        padded = zip(joined.split(most * per_row), sizes, strict=True)
        return torch.cat([head, *(one[:size] for one, size in padded)]).movedim(0, dim)

    def condition(self, whole: Condition) -> Condition:
        """What the network knows of this band, from what it knows of the picture."""
        features = whole.features
        if features is not None:
            features = LatentFeatures(
                per_gate=tuple(self.cut(feature, 1) for feature in features.per_gate),
                pixel=None if features.pixel is None else self.cut(features.pixel, 1),
                tokens=None if features.tokens is None else self.cut(features.tokens, 1),
                rgb_source=features.rgb_source,
            )
        return replace(
            whole,
            rows=self.count,
            features=features,
            patch_scopes=(self._scope(whole.patch_scopes[0]), self._scope(whole.patch_scopes[1])),
            pixel_scopes=(self._scope(whole.pixel_scopes[0]), self._scope(whole.pixel_scopes[1])),
            row_positions=self.cut(whole.row_positions, 0),
            base=None if whole.base is None else self.cut(whole.base, 2),
            latent_sigma=self._sigma(whole.latent_sigma),
        )

    def predict(self, network: Denoiser, condition: Condition) -> Callable[[Tensor, Tensor], Tensor]:
        """``network(x_t, timestep, condition)`` of the whole picture; the condition is this band's."""
        return lambda x_t, timestep: self.join(network(self.cut(x_t, 2), timestep, condition), 2)

    def _sigma(self, sigma: Tensor | None) -> Tensor | None:
        """One for the picture, or this band's part of each patch's."""
        return sigma if sigma is None or sigma.shape[1] == 1 else self.cut(sigma, 1)

    def _scope(self, scope: Scope) -> Scope:
        if scope.windows is not None:
            return replace(scope, windows=self._windows(scope.windows), everyone=self._everyone)
        rotation = Rotation(self.cut(scope.rotation.cos, 0), self.cut(scope.rotation.sin, 0))
        return replace(scope, rotation=rotation, everyone=self._everyone)

    def _windows(self, windows: Windows) -> Windows:
        """Those that hold a patch of the band."""
        area, place = windows.index.shape[1], self.cut(windows.place, 0)
        first = self.start * len(windows.place) // self.rows
        touched, window = (place // area).unique(return_inverse=True)
        place = window * area + place % area
        return Windows(windows.index[touched], windows.inside[touched], place, windows.padded, first)

    def _everyone(self, x: Tensor, before: int) -> Tensor:
        return self.join(x, 1, before)
