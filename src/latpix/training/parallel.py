"""Training on several processes: weights, gradients and optimizer states sharded by FSDP2.

Run under torchrun; without it, or with one process, nothing here changes anything. Gradients are averages over all
processes, so a loss that is a mean over samples has the gradient it would have on one process with all the samples.
Processes of a team also share each picture (team.py): they draw the same samples and noise, and each computes
the whole loss, so the average over processes is right there too.
Weights are gathered in float32 a block at a time; autocast makes them bfloat16 where they are used.
Source: Zhao et al. 2023, "PyTorch FSDP".
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from latpix.devices import pick_device
from latpix.distributed import ranks_of_torchrun
from latpix.errors import UsageError
from latpix.team import Team
from latpix.training.painter import Painter

UNITS = ("PatchBlock", "PixelBlock", "LatentProjection", "RGBHead", "CaptionEmbedding")  # gathered and freed as one


def local(tensor: Tensor) -> Tensor:
    """The share of a tensor that this process holds; of an unsharded one, all of it."""
    if isinstance(tensor, DTensor):
        return tensor.to_local()
    return tensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor gathered from all processes, which all must call this."""
    if isinstance(tensor, DTensor):
        return tensor.full_tensor()
    return tensor


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    device: torch.device
    rank: int = 0
    ranks: int = 1
    mesh: DeviceMesh | None = None
    group: dist.ProcessGroup | None = None  # of all, for the thread that saves: it must not meet the loop's messages
    context: int = 1  # processes that share each picture
    context_group: dist.ProcessGroup | None = None  # those that share this one's

    @property
    def team(self) -> int:
        """Which samples are this process's: those of its team, whose processes share each picture."""
        return self.rank // self.context

    @property
    def teams(self) -> int:
        """How many samples are worked on at once."""
        return self.ranks // self.context

    @property
    def first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def shard(self, network: nn.Module) -> None:
        """Split a network's weights among the processes, in place; alone, only move it to the device."""
        network.to(self.device)
        if self.mesh is None:
            return
        for module in network.modules():
            if isinstance(module, Painter) and self.context_group is not None:
                module.team = Team(rank=self.rank % self.context, size=self.context, group=self.context_group)
        # A single number cannot be split: each process keeps it, and ``average`` brings the gradients together.
        numbers = {weight for weight in network.parameters() if weight.ndim == 0}
        for module in reversed(list(network.modules())):  # a unit within another one first: it is gathered by itself
            if type(module).__name__ in UNITS:
                fully_shard(module, mesh=self.mesh, ignored_params=numbers)
        fully_shard(network, mesh=self.mesh, ignored_params=numbers)

    def average(self, gradients: Iterable[Tensor]) -> None:
        """Average, in place, gradients of weights that every process holds whole; sharded ones are averaged already."""
        own = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
        if self.mesh is not None and own:
            means = self.sum(torch.cat([gradient.flatten() for gradient in own])) / self.ranks  # one message for all
            for gradient, mean in zip(own, means.split([gradient.numel() for gradient in own]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def norm(self, gradients: Iterable[Tensor]) -> float:
        """The L2 norm of averaged gradients over all processes; float32 sums may overflow to infinity."""
        held: dict[bool, list[Tensor]] = {True: [], False: []}
        for gradient in gradients:
            sharded = isinstance(gradient, DTensor)
            held[sharded].append(local(gradient).float().square().sum())
        sums = [torch.stack(held[key]).sum() if held[key] else torch.zeros((), device=self.device) for key in held]
        return float((self.sum(sums[0]) + sums[1]).sqrt())

    def sum(self, tensor: Tensor) -> Tensor:
        """A tensor summed over all processes."""
        if self.mesh is not None:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, names: list[str]) -> list[str]:
        """The lists of all processes, joined."""
        if self.mesh is None:
            return names
        found: list[list[str]] = [[] for _ in range(self.ranks)]
        dist.all_gather_object(found, names, group=self.group)
        return list(dict.fromkeys(name for each in found for name in each))

    def meet(self) -> None:
        """Wait until all processes are here."""
        if self.mesh is not None:
            dist.barrier()

    def close(self) -> None:
        """Leave the group of processes."""
        if self.mesh is not None:
            dist.destroy_process_group()


def join(device: str = "auto", *, context: int = 1) -> World:
    """Meet the processes that torchrun started.

    Args:
        device: "auto" takes an accelerator where there is one, one for each process of a machine.
        context: how many neighbouring processes share each picture.

    Raises:
        UsageError: the processes do not divide into such teams.
    """
    ranks = ranks_of_torchrun()
    if ranks.size % context:
        raise UsageError(
            f"{ranks.size} processes do not divide into teams of {context}: change context, or their number."
        )
    picked = pick_device(ranks.device(device))
    if ranks.size == 1:
        return World(picked)
    if picked.type == "cuda":
        torch.cuda.set_device(picked)
    dist.init_process_group("cpu:gloo,cuda:nccl" if picked.type == "cuda" else "gloo")
    mesh = init_device_mesh(picked.type, (ranks.size,))
    savers = dist.new_group(backend="gloo")
    teams = [dist.new_group(range(first, first + context)) for first in range(0, ranks.size, context)]
    own = teams[ranks.rank // context] if context > 1 else None
    assert own is None or isinstance(own, dist.ProcessGroup)
    return World(picked, ranks.rank, ranks.size, mesh, savers, context, own)
