"""Before the first stage of flux2-tiny: its base decoder, the picture that a latent alone implies.

    latpix train flux2_tiny_base --assets DIR --set goal=1/8 -o RUN1
    latpix train flux2_tiny_base --assets DIR --set goal=1/4 --set start=RUN1/flux2-tiny-base.safetensors -o RUN2
    ... goal=1/2, goal=native, goal=pixels

One pass from the latent to pixels, no noise and no time: cheap steps, so most of what a small budget can learn is
learned here, from the coarse to the fine. What a run learns is its ``goal``:

    1/8, 1/4, 1/2    the features of TAEF2's decoder there, by a linear reading of the level: |reading - f|^2 / var(f)
    native           TAEF2's picture:  |x - native|, averaged over single pixels, cells, and four cells
    pixels           |x0 - x|  +  w_n fidelity(x0, native)  +  w_f features(x0, x)  +  w_t texture(x0, x)
                     +  w_p pattern(x0, x)

Features tell more of a latent than three colours do, and of a coarse level a step costs a fraction (Romero et al. 2015,
FitNets; growing, Karras et al. 2018). Each goal teaches one level, the last the two finest, and leaves the coarser ones
alone: taught again along with a fresh one, they lose more than they gain. |d| is the smooth absolute difference;
``fidelity`` (training/fidelity.py) keeps the reduced picture on what the latent stands for, ``pattern`` sees what is
the same in all cells. The features of the last goal are EfficientNet-Lite1's (the evaluation's network is another);
they are looked at on the first ``looked_at`` pictures of a batch, as they cost more than the decoder. Where they begin
is drawn, so that no pattern can settle between the network's strides and the decoder's cells. Some latents are noised.

Hardware: two CPU cores with AVX-512 bf16, or one GPU; steps and seconds are in docs/benchmarks/flux2-tiny.md.
RUN/flux2-tiny-base.safetensors is a whole network that adds no detail yet: after the last goal it decodes, and
`latpix train flux2_tiny_teacher` starts from it.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latpix.backbones.codec import Codec
from latpix.backbones.taef2 import WIDTH
from latpix.checkpoints.registry import find
from latpix.efficientnet import EfficientNetLite
from latpix.errors import UsageError
from latpix.network.base_decoder import BaseDecoder
from latpix.network.model import Denoiser
from latpix.training.config import RunConfig
from latpix.training.fidelity import fidelity_loss
from latpix.training.given import Step
from latpix.training.job import FromData, Outline, Part, SampleDraws
from latpix.training.latent_noising import LatentNoising, noise_latents
from latpix.training.losses import charbonnier, feature_difference, pattern_difference, texture_difference
from latpix.training.pairs import CELL, WHOLE
from latpix.training.tiny_export import export, load_base, take_base
from latpix.training.tiny_pairs import LITE_SHARE, TinyBatch, TinyPairs, cells, count_crops
from latpix.training.tiny_samples import side_by_side

COMMAND, AVERAGED = "train", "base"
STRIDE = 16  # pixels: of the patterns that enlarging may leave, and within which features are seen from a drawn corner
ROW = replace(find("flux2-tiny"), name="flux2-tiny-base")
Goal = Literal["1/8", "1/4", "1/2", "native", "pixels"]
LEVELS = {"1/8": 1, "1/4": 2, "1/2": 3}  # of the base decoder that learn features
GOALS: dict[Goal, dict[str, Any]] = {  # what differs between their runs
    "1/8": {"steps": 1800, "batch": 16},
    "1/4": {"steps": 1500, "batch": 8},
    "1/2": {"steps": 1800, "batch": 6},
    "native": {"steps": 2400, "batch": 2},
    "pixels": {"steps": 3600, "batch": 2, "learning_rate": 3e-4, "looked_at": 1},
}


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """All that decides a run; saved beside its weights."""

    goal: Goal = "pixels"
    learning_rate: float = 1e-3
    optimizer: Literal["muon", "adamw"] = "muon"  # of the blocks; several processes need adamw
    warmup_updates: int = 50
    clip: float = 1.0
    noised: float = 0.2
    max_latent_sigma: float = 0.8
    fidelity_weight: float = 16.0
    feature_weight: float = 0.2
    texture_weight: float = 0.2
    pattern_weight: float = 1.0
    looked_at: int = 0  # pictures whose features are compared, of each batch computed at once: of all, accumulate times
    start: str = ""  # checkpoint whose base decoder it goes on from; a fresh one without

    def filled(self, given: Collection[str]) -> Self:
        """What is not given is the goal's own."""
        return replace(self, **{key: value for key, value in asdict(config(self.goal)).items() if key not in given})


def config(goal: Goal = "pixels") -> Config:
    """The run that takes the base decoder to a goal."""
    return Config(goal=goal, cooldown=0.95, size=512, compile=True, **GOALS[goal])


def build(settings: Config, assets: Path | None, device: torch.device) -> "BaseJob":
    """The recipe's job; without ``assets`` on made-up pictures.

    Raises:
        UsageError: features of TAEF2 are the goal, and there is no TAEF2.
    """
    hint = LEVELS[settings.goal] - 1 if settings.goal in LEVELS else None
    if hint is not None and assets is None:
        raise UsageError(f"goal={settings.goal} learns features of TAEF2, from DIR/taef2: give --assets DIR.")
    data = TinyPairs(
        assets,
        Codec.load("flux2-lite", device=device, dtype=settings.precision),
        size=settings.size,
        square=cells(settings.size),
        seed=settings.seed,
        hint=hint,
        lite_share=LITE_SHARE if settings.goal == "pixels" else 0.0,
    )
    torch.manual_seed(settings.seed)
    network = Denoiser(ROW.network)
    if settings.start:
        network.base_decoder = load_base(settings.start, ROW.network, setting="start").requires_grad_(True)
    looks = settings.goal == "pixels" and settings.looked_at > 0
    return BaseJob(settings, data, network, EfficientNetLite.load("lite1").to(device) if looks else None)


def outline(settings: Config, assets: Path | None) -> Outline:
    """What the recipe trains, and on how much."""
    with torch.device("meta"):
        base = Towards(BaseDecoder(ROW.network), settings.goal)
    crops = count_crops(assets, settings.size, cells(settings.size))
    return Outline(trained={"base": base}, frozen={}, alive=("base",), samples_per_epoch=crops)


class BaseJob(FromData):
    """See training/job.py."""

    name = "flux2-tiny-base"
    averaged = AVERAGED
    data: TinyPairs

    def __init__(self, settings: Config, data: TinyPairs, network: Denoiser, eyes: EfficientNetLite | None) -> None:
        self.settings, self.data = settings, data
        part = Part(
            network=Towards(take_base(network), settings.goal),
            learning_rate=settings.learning_rate,
            warmup_updates=settings.warmup_updates,
            muon=("base.levels",) if settings.optimizer == "muon" else (),
            clip=settings.clip,
        )
        self.denoiser = network.state_dict()
        self.parts: Mapping[str, Part] = {"base": part}
        # In bfloat16 it costs half, and features are compared after a normalisation that forgives it.
        self.eyes = eyes and eyes.to(torch.bfloat16 if settings.precision == "bfloat16" else torch.float32)
        self.frozen: Mapping[str, nn.Module] = {}  # eyes are whole on each process: sharding refuses their layout
        self.noising = LatentNoising(chance=settings.noised, most=settings.max_latent_sigma)

    def turn(self, step: int) -> tuple[str, ...]:
        return ("base",)

    def losses(self, batch: TinyBatch, step: int, draws: SampleDraws) -> Step:
        pairs = batch.pairs
        latent, sigma = noise_latents(pairs.latent.to(draws.device), draws, self.noising)
        reached = self._ask(self.parts["base"].network, latent, sigma)
        if pairs.hint is not None:
            hint = pairs.hint.to(draws.device)
            loss = (reached - hint).square().mean() / self.data.hint_variance
            return Step(loss, {"features": loss}, {})
        native = pairs.native.to(draws.device)
        fidelity = fidelity_loss(reached, native, sigma, downsample=CELL)
        if self.settings.goal == "native":
            return Step(fidelity, {"fidelity": fidelity}, {})
        return self._pixel_losses(reached, pairs.pixels.to(draws.device), fidelity, draws)

    def _pixel_losses(self, painted: Tensor, pixels: Tensor, fidelity: Tensor, draws: SampleDraws) -> Step:
        settings = self.settings
        pattern = pattern_difference(painted, pixels, side=STRIDE)
        losses = {"pixels": charbonnier(painted, pixels), "fidelity": fidelity, "pattern": pattern}
        total = losses["pixels"] + settings.fidelity_weight * fidelity + settings.pattern_weight * pattern
        if self.eyes is not None:
            top, left = (int(draws.choice(axis, (), STRIDE)) for axis in ("look_top", "look_left"))
            with torch.no_grad():
                wanted = look(self.eyes, pixels[: settings.looked_at, :, top:, left:])
            found = look(self.eyes, painted[: settings.looked_at, :, top:, left:])
            losses["features"] = feature_difference(found, wanted)
            losses["texture"] = texture_difference(found, wanted)
            total = total + settings.feature_weight * losses["features"] + settings.texture_weight * losses["texture"]
        return Step(total, losses, {})

    def _ask(self, base: nn.Module, latent: Tensor, sigma: Tensor) -> Tensor:
        low = self.settings.precision == "bfloat16"
        with torch.autocast(latent.device.type, dtype=torch.bfloat16, enabled=low):
            reached: Tensor = base(latent, sigma)
        return reached.float()

    @torch.no_grad()
    def sample(self, average: nn.Module) -> Tensor | None:
        """Three pictures; none of features."""
        if self.settings.goal in LEVELS:
            return None

        def paint(_: object, latent: Tensor, sigma: Tensor) -> Tensor:
            reached = self._ask(average, latent, sigma)
            return nn.functional.interpolate(reached, size=latent.shape[-1] * WHOLE, mode="bicubic")

        return side_by_side(self.data, next(average.parameters()).device, paint)

    def export(self, average: Mapping[str, Tensor], folder: Path, steps: int) -> Path:
        made_by = f"latpix.training.recipes.flux2_tiny_base, {steps} steps towards {self.settings.goal}"
        weights = {name.removeprefix("base."): tensor for name, tensor in average.items() if name.startswith("base.")}
        return export(self.denoiser, weights, ROW, folder, made_by, self.data)


def look(eyes: EfficientNetLite, pixels: Float[Tensor, "b 3 H W"]) -> list[Tensor]:
    """Features in float32, whatever the network computes in."""
    return [feature.float() for feature in eyes(pixels.to(eyes.stem.weight.dtype))]


class Towards(nn.Module):
    """A base decoder as far as a goal; its features there by way of a linear reading, which training alone uses."""

    def __init__(self, base: BaseDecoder, goal: Goal) -> None:
        super().__init__()
        self.base, self.goal = base, goal
        self.count = LEVELS.get(goal, len(base.levels))
        width = ROW.network.base_widths[self.count - 1]
        self.reading = nn.Conv2d(width, WIDTH, 1) if goal in LEVELS else None
        base.requires_grad_(False)
        for learning in self._own():
            learning.requires_grad_(True)

    def _own(self) -> list[nn.Module]:
        """What the goal teaches: one level, of pixels the two finest, and what leads into them and out of them."""
        base, first = self.base, self.count - (2 if self.goal == "pixels" else 1)
        entry = [base.up[first - 1]] if first else [base.told, base.enter, base.modulation]
        heads = [base.native] * (self.goal not in LEVELS) + [base.detail] * (self.goal == "pixels")
        return [*entry, *base.up[first : self.count - 1], *base.levels[first : self.count], *heads]

    def forward(self, latent: Tensor, sigma: Tensor) -> Float[Tensor, "b _ _ _"]:
        features = self.base.features(latent, sigma, self.count)
        if self.reading is not None:
            read: Tensor = self.reading(features)
            return read
        return self.base.native_picture(features) if self.goal == "native" else self.base.picture(features)
