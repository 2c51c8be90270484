"""Before the first stage of flux2-tiny: its base decoder, the picture that a latent alone implies.

    latpix train flux2_tiny_base --assets DIR [--set key=value ...]

    |x0 - x|  +  w_n fidelity(x0, native)  +  w_h hints  +  w_f features(x0, x)  +  w_t texture(x0, x)

One pass from the latent to pixels, no noise and no time: cheap steps, so most of what a small budget can learn is
learned here. It begins as flux2-lite's decoder, enlarged, or goes on from ``start``. |d| is the smooth absolute
difference; ``fidelity`` (training/fidelity.py) keeps the reduced picture on what the latent stands for; ``hints`` asks
a linear reading of each coarser level for the features of TAEF2's decoder there (Romero et al. 2015, FitNets), which
tell more of a latent than three colours do. Features and texture are EfficientNet-Lite1's (the evaluation's network is
another); they are looked at on the first ``looked_at`` crops of a batch, as they cost more than the decoder, and in a
second run: on an unsettled decoder they raise a pattern of single pixels. Where they begin is drawn, so that no pattern
can settle between the network's strides and the decoder's cells. Some latents are noised.

Hardware: two CPU cores with AVX-512 bf16, 0.3 to 0.6 s a step; or one GPU. What to expect after an hour
is in docs/benchmarks/flux2-tiny.md. RUN/flux2-tiny-base.safetensors is a whole network that adds no detail
yet: it decodes, and `latpix train flux2_tiny_teacher` starts from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latpix import resources
from latpix.backbones.codec import Codec
from latpix.backbones.lite_file import load_lite
from latpix.backbones.taef2 import WIDTH
from latpix.checkpoints.registry import find
from latpix.efficientnet import EfficientNetLite
from latpix.network.base_decoder import BaseDecoder
from latpix.network.model import Denoiser
from latpix.training.begin_as_lite import begin_as_lite
from latpix.training.config import RunConfig
from latpix.training.fidelity import fidelity_loss
from latpix.training.given import Step
from latpix.training.job import FromData, Outline, Part, SampleDraws
from latpix.training.latent_noising import LatentNoising, noise_latents
from latpix.training.losses import charbonnier, feature_difference, texture_difference
from latpix.training.pairs import CELL
from latpix.training.tiny_export import export, load_base, take_base
from latpix.training.tiny_pairs import TinyBatch, TinyPairs, count_crops, noised_overviews
from latpix.training.tiny_samples import side_by_side

COMMAND, AVERAGED = "train", "base"
STRIDE = 16  # pixels, within which features are looked at from a drawn corner
ROW = replace(find("flux2-tiny"), name="flux2-tiny-base")


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """All that decides a run; saved beside its weights."""

    learning_rate: float = 5e-4
    optimizer: Literal["muon", "adamw"] = "muon"  # of the blocks; several processes need adamw
    warmup_updates: int = 200
    clip: float = 1.0
    noised: float = 0.2
    max_latent_sigma: float = 0.8
    fidelity_weight: float = 4.0
    hint_weight: float = 0.3
    feature_weight: float = 0.1
    texture_weight: float = 0.1
    looked_at: int = 0  # crops of a batch whose features are compared
    start: str = ""  # checkpoint whose base decoder it goes on from; flux2-lite's decoder without


def config() -> Config:
    """The run that makes the base decoder."""
    return Config(steps=5600, cooldown=0.95, batch=4, size=384)


def build(settings: Config, assets: Path | None, device: torch.device) -> "BaseJob":
    """The recipe's job; without ``assets`` on made-up pictures."""
    codec = Codec.load("flux2-lite", device=device, dtype=settings.precision)
    data = TinyPairs(assets, codec, size=settings.size, seed=settings.seed, hints=settings.hint_weight > 0)
    torch.manual_seed(settings.seed)
    network = Denoiser(ROW.network)
    if settings.start:
        network.base_decoder = load_base(settings.start, ROW.network, setting="start").requires_grad_(True)
    else:
        assert network.base_decoder is not None
        begin_as_lite(network.base_decoder, load_lite(resources.weight("flux2-lite"))[0].decoder)
    return BaseJob(settings, data, network, EfficientNetLite.load("lite1").to(device))


def outline(settings: Config, assets: Path | None) -> Outline:
    """What the recipe trains, and on how much."""
    with torch.device("meta"):
        base = HintedBase(BaseDecoder(ROW.network), ROW.network.base_widths)
    crops = count_crops(assets, settings.size)
    return Outline(trained={"base": base}, frozen={}, alive=("base",), samples_per_epoch=crops)


class BaseJob(FromData):
    """See training/job.py."""

    name = "flux2-tiny-base"
    averaged = AVERAGED
    data: TinyPairs

    def __init__(self, settings: Config, data: TinyPairs, network: Denoiser, eyes: EfficientNetLite) -> None:
        self.settings, self.data = settings, data
        part = Part(
            network=HintedBase(take_base(network), ROW.network.base_widths),
            learning_rate=settings.learning_rate,
            warmup_updates=settings.warmup_updates,
            muon=("base.levels",) if settings.optimizer == "muon" else (),
            clip=settings.clip,
        )
        self.denoiser = network.state_dict()
        self.parts: Mapping[str, Part] = {"base": part}
        # In bfloat16 it costs half, and features are compared after a normalisation that forgives it.
        self.eyes = eyes.to(torch.bfloat16 if settings.precision == "bfloat16" else torch.float32)
        self.frozen: Mapping[str, nn.Module] = {}  # eyes are whole on each process: sharding refuses their layout
        self.noising = LatentNoising(chance=settings.noised, most=settings.max_latent_sigma)

    def turn(self, step: int) -> tuple[str, ...]:
        return ("base",)

    def losses(self, batch: TinyBatch, step: int, draws: SampleDraws) -> Step:
        pairs, settings = batch.pairs, self.settings
        pixels, native = pairs.pixels.to(draws.device), pairs.native.to(draws.device)
        latent, sigma = noise_latents(pairs.latent.to(draws.device), draws, self.noising)
        seen = noised_overviews(pairs.seen.to(draws.device), sigma)
        painted, readings = self._paint(self.parts["base"].network, latent, sigma, seen)
        losses = {
            "pixels": charbonnier(painted, pixels),
            "fidelity": fidelity_loss(painted, native, sigma, downsample=CELL),
        }
        total = losses["pixels"] + settings.fidelity_weight * losses["fidelity"]
        if pairs.hints:
            losses["hints"] = hint_loss(readings, [hint.to(draws.device) for hint in pairs.hints], pairs.hinted)
            total = total + settings.hint_weight * losses["hints"]
        if settings.looked_at:
            top, left = (int(draws.choice(axis, (), STRIDE)) for axis in ("look_top", "look_left"))
            with torch.no_grad():
                wanted = self._look(pixels[: settings.looked_at, :, top:, left:])
            found = self._look(painted[: settings.looked_at, :, top:, left:])
            losses["features"] = feature_difference(found, wanted)
            losses["texture"] = texture_difference(found, wanted)
            total = total + settings.feature_weight * losses["features"] + settings.texture_weight * losses["texture"]
        return Step(total, losses, {})

    def _paint(
        self, base: nn.Module, latent: Tensor, sigma: Tensor, seen: Tensor
    ) -> tuple[Tensor, list[Float[Tensor, "b 64 _ _"]]]:
        low = self.settings.precision == "bfloat16"
        with torch.autocast(latent.device.type, dtype=torch.bfloat16, enabled=low):
            painted, readings = base(latent, sigma, seen)
        return painted.float(), [reading.float() for reading in readings]

    def _look(self, pixels: Tensor) -> list[Tensor]:
        return [feature.float() for feature in self.eyes(pixels.to(self.eyes.stem.weight.dtype))]

    @torch.no_grad()
    def sample(self, average: nn.Module) -> Tensor:
        return side_by_side(
            self.data,
            next(average.parameters()).device,
            lambda pairs, latent, sigma: self._paint(
                average, latent, sigma, noised_overviews(pairs.seen.to(sigma.device), sigma)
            )[0],
        )

    def export(self, average: Mapping[str, Tensor], folder: Path, steps: int) -> Path:
        made_by = f"latpix.training.recipes.flux2_tiny_base, {steps} steps"
        weights = {name.removeprefix("base."): tensor for name, tensor in average.items() if name.startswith("base.")}
        return export(self.denoiser, weights, ROW, folder, made_by, self.data)


class HintedBase(nn.Module):
    """A base decoder, and linear readings of its levels but the finest, which training alone uses."""

    def __init__(self, base: BaseDecoder, widths: Sequence[int]) -> None:
        super().__init__()
        self.base = base
        self.readings = nn.ModuleList(nn.Conv2d(width, WIDTH, 1) for width in widths[:-1])

    def forward(self, latent: Tensor, sigma: Tensor, seen: Tensor) -> tuple[Tensor, list[Tensor]]:
        painted, levels = self.base.levels_of(latent, sigma, seen)
        return painted, [read(level) for read, level in zip(self.readings, levels, strict=False)]


def hint_loss(
    readings: Sequence[Float[Tensor, "b 64 _ _"]],
    hints: Sequence[Float[Tensor, "b 64 _ _"]],
    hinted: Float[Tensor, " b"],
) -> Float[Tensor, ""]:
    """Mean squared error over the hints' variance, of the samples that have hints, averaged over levels."""
    has = hinted.bool()
    total = readings[0].new_zeros(())
    for reading, hint in zip(readings, hints, strict=True):
        if bool(has.any()):
            total = total + (reading[has] - hint[has]).square().mean() / hint[has].var()
    return total / len(hints)
