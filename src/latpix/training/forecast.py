"""What a run needs of each GPU, without running it: weights, optimizer, and what the backward pass keeps.

Per trained weight 4 bytes, as many for its gradient, 8 for Adam's two moments; 4 more per weight of the averaged and
of each frozen network; all shared among the processes. Activations are counted, not estimated: a forward pass on
tensors without data notes whatever autograd keeps. Letters: b batch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from latpix.network.config import NetworkConfig
from latpix.network.model import Denoiser
from latpix.training.config import RunConfig
from latpix.training.job import Outline
from latpix.training.painter import Painter, Precision
from latpix.training.parallel import UNITS
from latpix.training.recompute import recompute_blocks

WEIGHT, GRADIENT, MOMENTS = 4, 4, 8  # bytes


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Sizes of a run; bytes are those of one GPU."""

    parameters: Mapping[str, int]  # by network
    ranks: int
    weight_bytes: int  # float32, all networks and the average
    optimizer_bytes: int  # gradients and moments
    gathered_bytes: int  # the largest block, whole; nothing on one GPU
    activation_bytes: int
    samples_per_step: int
    samples_per_epoch: int | None

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weight_bytes + self.optimizer_bytes + self.gathered_bytes + self.activation_bytes

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "total_bytes": self.total_bytes}


def forecast(outline: Outline, averaged: str, settings: RunConfig, *, ranks: int = 1) -> Forecast:
    """What a recipe's run needs on each of ``ranks`` GPUs."""
    networks = {**outline.trained, **outline.frozen}
    sizes = {name: size(network) for name, network in networks.items()}
    trained = sum(sizes[name] for name in outline.trained)
    kept = sum(sizes.values()) + sizes[averaged]
    largest = max(
        (size(module) for network in networks.values() for module in network.modules() if _is_unit(module)), default=0
    )
    denoisers = [networks[name] for name in outline.alive]
    activations = sum(
        activation_bytes(
            network.config, settings.batch, settings.size, settings.precision, recompute=settings.recompute
        )
        for network in denoisers
        if isinstance(network, Denoiser)
    )
    return Forecast(
        parameters=sizes,
        ranks=ranks,
        weight_bytes=WEIGHT * kept // ranks,
        optimizer_bytes=(GRADIENT + MOMENTS) * trained // ranks,
        gathered_bytes=0 if ranks == 1 else 2 * WEIGHT * largest,
        activation_bytes=activations // settings.context,
        samples_per_step=settings.batch * settings.accumulate * ranks // settings.context,
        samples_per_epoch=outline.samples_per_epoch,
    )


def size(network: nn.Module) -> int:
    """How many weights there are."""
    return sum(weight.numel() for weight in network.parameters())


def _is_unit(module: nn.Module) -> bool:
    return type(module).__name__ in UNITS


def activation_bytes(
    config: NetworkConfig, batch: int, side: int, precision: Precision, *, recompute: bool = False
) -> int:
    """What is kept of one call of a network for ``batch`` squares of ``side`` output pixels; no weights.

    With ``recompute`` that is what stays between forward and backward, and the largest block, which comes back whole.
    """
    kept = _kept_bytes(config, batch, side, precision, recompute=recompute)
    if not recompute:
        return kept
    whole = _kept_bytes(config, batch, side, precision)
    shallower = _kept_bytes(replace(config, depth=config.depth - config.gate_interval), batch, side, precision)
    without_pixels = _kept_bytes(replace(config, pixel_depth=config.pixel_depth - 1), batch, side, precision)
    return kept + max((whole - shallower) // config.gate_interval, whole - without_pixels)


def _kept_bytes(config: NetworkConfig, batch: int, side: int, precision: Precision, *, recompute: bool = False) -> int:
    """What autograd notes for the backward pass, on tensors without data."""
    kept: dict[int, int] = {}
    held: list[Tensor] = []  # else another tensor could take one's place, and its number
    weights: set[int] = set()

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
            held.append(tensor)
        return tensor

    cells = side // (config.latent_downsample * config.scale)
    with torch.device("meta"):
        painter = Painter(Denoiser(config), "velocity", precision)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cpu"):
        painter.to_empty(device="cpu")
        if recompute:
            recompute_blocks(painter)
        weights |= {weight.untyped_storage()._cdata for weight in painter.parameters()}
        caption = torch.empty(batch, config.caption_length, config.caption_width) if config.caption_width else None
        image = torch.empty(batch, 3, side // config.scale, side // config.scale) if config.image_channels else None
        latent = torch.empty(batch, config.latent_channels, cells, cells)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            painter(
                torch.empty(batch, 3, side, side), torch.empty(batch), latent, torch.empty(batch), caption, image=image
            )
    return sum(kept.values())
