"""The optimizers of each part, its gradients' rules, and its state as tensors by parameter name.

AdamW whose decay reaches every weight, biases and norms too; Muon, without decay, where a part asks for it. Before a
step: entries of a gradient that are no finite numbers become 0; the gradient's norm is clipped; if it is no finite
number even so, the step is left out.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from latpix.errors import UsageError
from latpix.training.job import Part
from latpix.training.muon import Muon
from latpix.training.parallel import World, local


def trained(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are not frozen, by name."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def make_optimizers(part: Part) -> list[torch.optim.Optimizer]:
    """AdamW over a part's weights, and Muon over those that the part names; one learning rate serves both.

    Raises:
        UsageError: Muon's weights are sharded; it needs whole matrices.
    """
    named = trained(part.network)
    matrices = [weight for name, weight in named.items() if weight.ndim > 1 and name.startswith(part.muon)]
    if any(isinstance(weight, DTensor) for weight in matrices):
        raise UsageError("Muon needs whole matrices, but several processes share them: --set optimizer=adamw.")
    others = [weight for name, weight in named.items() if weight.ndim < 2 or not name.startswith(part.muon)]
    # Sharded weights and others apart: one fused step cannot take both.
    groups = [[w for w in others if isinstance(w, DTensor) is sharded] for sharded in (True, False)]
    adam = torch.optim.AdamW(
        [{"params": group} for group in groups if group],
        lr=part.learning_rate,
        betas=part.betas,
        eps=1e-8,
        weight_decay=part.weight_decay,
        fused=True,
    )
    return [adam, Muon(matrices, lr=part.learning_rate)] if matrices else [adam]


@torch.no_grad()
def prepare_gradients(weights: Iterable[nn.Parameter], clip: float | None, world: World) -> tuple[float, bool]:
    """Average, clean and clip gradients in place.

    Returns:
        Their L2 norm before clipping, over all processes, and whether it is finite: only then may a step follow.
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    world.average(gradients)
    for gradient in gradients:
        local(gradient).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    norm = world.norm(gradients)
    finite = math.isfinite(norm)
    if finite and clip is not None and norm > clip:
        for gradient in gradients:
            local(gradient).mul_(clip / (norm + 1e-6))
    return norm, finite


def state_of(optimizers: Iterable[torch.optim.Optimizer], weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimizers' tensors, as ``<parameter>.<what>``; none for a weight that had no step yet."""
    return {
        f"{name}.{what}": tensor
        for optimizer in optimizers
        for name, weight in weights.items()
        for what, tensor in optimizer.state.get(weight, {}).items()
    }


def expect_state(
    optimizers: Iterable[torch.optim.Optimizer],
    weights: Mapping[str, nn.Parameter],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Give the optimizers the empty tensors that a save, told by its shapes, will be loaded into."""
    owners = {
        weight: optimizer for optimizer in optimizers for group in optimizer.param_groups for weight in group["params"]
    }
    for key, shape in shapes.items():
        name, _, what = key.rpartition(".")
        if name in weights:
            weight = weights[name]
            like = shape == tuple(weight.shape)
            empty = torch.zeros_like(weight) if like else torch.zeros(shape, device=weight.device)
            owners[weight].state[weight][what] = empty.detach()
