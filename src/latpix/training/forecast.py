"""What a run needs of each GPU, without running it: weights, optimizer, what the backward pass keeps, operations.

Per weight that learns 4 bytes, as many for its gradient, 8 for Adam's two moments; 4 for one that does not, and 4 more
per weight of the averaged network; all shared among the processes. Activations and operations are counted, not
estimated: passes on tensors without data note whatever autograd keeps, and each multiplication. That takes a denoiser:
of other networks only weights are foretold. Letters: b batch.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from latpix.errors import UsageError
from latpix.network.config import NetworkConfig
from latpix.network.model import Denoiser
from latpix.team import Team
from latpix.training.config import RunConfig
from latpix.training.job import Call, Outline
from latpix.training.learning import Learn
from latpix.training.painter import Painter
from latpix.training.parallel import UNITS
from latpix.training.recompute import recompute_blocks

WEIGHT, GRADIENT, MOMENTS = 4, 4, 8  # bytes


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Sizes of a run; bytes and operations are those of one GPU."""

    parameters: Mapping[str, int]  # by network, low-rank differences that learn among them
    learning: int  # of them, those that are trained
    ranks: int
    weight_bytes: int  # float32, all networks and the average
    optimizer_bytes: int  # gradients and moments
    gathered_bytes: int  # the largest block, whole; nothing on one GPU
    activation_bytes: int | None  # None: not foretold
    samples_per_step: int
    samples_per_epoch: int | None
    operations_per_step: int | None  # of its denoisers; a multiplication and an addition are two. None: not foretold

    @property
    def total_bytes(self) -> int:
        """All of it; without activations where they are not foretold."""
        return self.weight_bytes + self.optimizer_bytes + self.gathered_bytes + (self.activation_bytes or 0)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "total_bytes": self.total_bytes}


def forecast(outline: Outline, averaged: str, settings: RunConfig, *, ranks: int = 1) -> Forecast:
    """What a recipe's run needs on each of ``ranks`` GPUs.

    Raises:
        UsageError: so many do not divide into groups that share each picture.
    """
    context = settings.context
    if ranks % context:
        raise UsageError(
            f"{ranks} GPUs do not divide into groups of {context} that share each picture (context={context}): "
            f"--gpus {context * (ranks // context + 1)}, or another multiple of {context}."
        )
    networks = {**outline.trained, **outline.frozen}
    denoisers = {name: network.config for name, network in networks.items() if isinstance(network, Denoiser)}
    backward = {name: Call(network=name) for name in denoisers}
    backward |= {call.network: call for call in outline.calls if call.backward}
    for name, network in outline.trained.items():
        if isinstance(network, Denoiser):
            networks[name] = learner(network, backward[name].learn)
    sizes = {name: size(network) for name, network in networks.items()}
    learning = sum(learning_size(networks[name]) for name in outline.trained)
    largest = max(
        (size(unit) for network in networks.values() for unit in network.modules() if _is_unit(unit)), default=0
    )
    activations = None
    if all(name in denoisers for name in outline.alive):
        activations = sum(activation_bytes(denoisers[name], settings, backward[name]) for name in outline.alive)
    operations = sum(
        call.times * call_operations(denoisers[call.network], settings, replace(call, network="", times=1.0))
        for call in outline.calls
    )
    return Forecast(
        parameters=sizes,
        learning=learning,
        ranks=ranks,
        weight_bytes=WEIGHT * (sum(sizes.values()) + sizes[averaged]) // ranks,
        optimizer_bytes=(GRADIENT + MOMENTS) * learning // ranks,
        gathered_bytes=0 if ranks == 1 else 2 * WEIGHT * largest,
        activation_bytes=activations,
        samples_per_step=settings.batch * settings.accumulate * ranks // context,
        samples_per_epoch=outline.samples_per_epoch,
        operations_per_step=int(settings.accumulate * operations) if outline.calls else None,
    )


def size(network: nn.Module) -> int:
    """How many weights there are."""
    return sum(weight.numel() for weight in network.parameters())


def learner(network: Denoiser, learn: Learn) -> Denoiser:
    """A copy of a network as it learns: its weights marked, with those that learning adds."""
    network = copy.deepcopy(network)
    learn(network)
    return network


def learning_size(network: nn.Module) -> int:
    """How many of a network's weights are marked as learning."""
    return sum(weight.numel() for weight in network.parameters() if weight.requires_grad)


def _is_unit(module: nn.Module) -> bool:
    return type(module).__name__ in UNITS


def activation_bytes(config: NetworkConfig, settings: RunConfig, call: Call) -> int:
    """What a call for one batch keeps for the backward pass; no weights.

    With ``recompute`` that is what stays between forward and backward, and the largest block, which comes back whole.
    """
    kept = _kept_bytes(config, settings, call)
    if not settings.recompute:
        return kept
    settings, throughout = replace(settings, recompute=False), replace(call, after=())
    shallower = replace(config, depth=config.depth - config.gate_interval)
    without_pixels = replace(config, pixel_depth=config.pixel_depth - 1)
    whole = _kept_bytes(config, settings, throughout)
    patch_block = (whole - _kept_bytes(shallower, settings, throughout)) // config.gate_interval
    pixel_block = whole - _kept_bytes(without_pixels, settings, throughout)
    return kept + (patch_block if call.after else max(patch_block, pixel_block))


@cache  # one network is often asked as another one is
def call_operations(config: NetworkConfig, settings: RunConfig, call: Call) -> int:
    """Operations of a call for one batch, and of its backward pass where it has one."""
    counter = FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU)
    with _asking(config, settings, call) as (_, ask), counter:
        outputs = ask()
        if call.backward:
            torch.autograd.backward(outputs, [torch.empty_like(output) for output in outputs])
    return counter.get_total_flops()


def _kept_bytes(config: NetworkConfig, settings: RunConfig, call: Call) -> int:
    """What autograd notes for the backward pass."""
    kept: dict[int, int] = {}
    held: list[Tensor] = []  # else another tensor could take one's place, and its number

    with _asking(config, settings, call) as (painter, ask):
        weights = {weight.untyped_storage()._cdata for weight in painter.parameters()}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                kept[storage._cdata] = storage.nbytes()
                held.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            ask()
    return sum(kept.values())


@contextmanager
def _asking(
    config: NetworkConfig, settings: RunConfig, call: Call
) -> Iterator[tuple[Painter, Callable[[], list[Tensor]]]]:
    """A network without data, and the call of it for one batch of squares; inside, all tensors are without data."""
    batch, side = settings.batch, settings.size
    cells = side // (config.latent_downsample * config.scale)
    seen = side if config.base_widths else side // config.scale  # of the picture that is read beside the latent
    with torch.device("meta"):
        painter = Painter(Denoiser(config), "velocity", settings.precision)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cpu"):
        painter.to_empty(device="cpu")
        call.learn(painter.network)
        painter.team = Absent(rank=0, size=settings.context) if settings.context > 1 else None
        if settings.recompute:
            recompute_blocks(painter)
        frozen = not any(weight.requires_grad for weight in painter.parameters())
        x_t = torch.empty(batch, 3, side, side, requires_grad=frozen)  # else nothing would have a gradient
        caption = torch.empty(batch, config.caption_length, config.caption_width) if config.caption_width else None
        image = torch.empty(batch, 3, seen, seen) if config.image_channels else None
        latent = torch.empty(batch, config.latent_channels, cells, cells)

        def ask() -> list[Tensor]:
            rgb = config.rgb_head is not None and not call.after
            given = (x_t, torch.empty(batch), latent, torch.empty(batch), caption)
            output = painter(*given, image=image, after=call.after, rgb=rgb)
            return output if isinstance(output, list) else [output]

        yield painter, ask


class Absent(Team):
    """Processes that are not there; what they have is like this one's."""

    def join(self, x: Tensor) -> Tensor:
        return torch.cat([x] * self.size)


# On a CPU the fused attention has names of its own, which the counter does not know.
ATTENTION_ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, q, k, v, *_, **__: sdpa_backward_flop_count(gradient, q, k, v)
    ),
}
