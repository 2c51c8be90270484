"""Training on several processes: weights, gradients and optimizer states sharded by FSDP2.

Run under torchrun; without it, or with one process, nothing here changes anything. Gradients are averages over all
processes, so a loss that is a mean over samples has the gradient it would have on one process with all the samples.
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

UNITS = ("PatchBlock", "PixelBlock", "LatentProjection", "CaptionEmbedding")  # gathered and freed as one


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

    @property
    def first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def shard(self, network: nn.Module) -> None:
        """Split a network's weights among the processes, in place; alone, only move it to the device."""
        network.to(self.device)
        if self.mesh is None:
            return
        # A single number cannot be split: each process keeps it, and ``average`` brings the gradients together.
        numbers = {weight for weight in network.parameters() if weight.ndim == 0}
        for module in network.modules():
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

    def meet(self) -> None:
        """Wait until all processes are here."""
        if self.mesh is not None:
            dist.barrier()

    def close(self) -> None:
        """Leave the group of processes."""
        if self.mesh is not None:
            dist.destroy_process_group()


def join(device: str = "auto") -> World:
    """Meet the processes that torchrun started.

    Args:
        device: "auto" takes an accelerator where there is one, one for each process of a machine.
    """
    ranks = ranks_of_torchrun()
    picked = pick_device(ranks.device(device))
    if ranks.size == 1:
        return World(picked)
    if picked.type == "cuda":
        torch.cuda.set_device(picked)
    dist.init_process_group("cpu:gloo,cuda:nccl" if picked.type == "cuda" else "gloo")
    mesh = init_device_mesh(picked.type, (ranks.size,))
    return World(picked, ranks.rank, ranks.size, mesh, dist.new_group(backend="gloo"))
