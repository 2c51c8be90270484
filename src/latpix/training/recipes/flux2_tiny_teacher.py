"""First stage of flux2-tiny: a teacher by flow matching, told how noisy its latent is.

    latpix train flux2_tiny_teacher --assets DIR [--set key=value ...]

One step: noise some latents, mix pictures with noise at shifted logit-normal times, compare velocities
(training/teacher_step.py). The network is flux2-tiny's own and puts out x0, so its errors at small times weigh
1 / max(t, 0.05)^2 (training/flow_matching.py). It paints on the picture of a base decoder that flux2_tiny_base trained
and that stays as it is; all else is trained jointly, from fresh weights. No caption, and no latent is dropped: the
picture would go on telling what is there. Muon has the blocks and convolutions: on made-up pictures (size 128, batch 4)
the loss of steps 91 to 120 was 0.668 at rate 1e-3, AdamW's 0.704.

Hardware: two CPU cores for a trial (size=128, batch=2: 0.5 s a step and thread); meant for one GPU. What to expect: a
run of minutes leaves noise for detail (docs/benchmarks/flux2-tiny.md); a long one was never made.
RUN/flux2-tiny-teacher.safetensors is what `latpix distill flux2_tiny_distill` starts from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from latpix.backbones.codec import Codec
from latpix.checkpoints.registry import TEACHER, find
from latpix.network.model import Denoiser
from latpix.network.model import build as build_network
from latpix.sampling.samplers import sample_ode
from latpix.sampling.schedules import DynamicShift, solver_times
from latpix.training.config import RunConfig
from latpix.training.given import Step
from latpix.training.job import Call, FromData, Outline, Part, SampleDraws
from latpix.training.latent_noising import LatentNoising
from latpix.training.painter import Painter, denoiser_weights
from latpix.training.pairs import WHOLE
from latpix.training.teacher_step import TeacherSettings, teacher_step
from latpix.training.tiny_export import copied, export, load_base, take_base
from latpix.training.tiny_pairs import Eyes, TinyBatch, TinyPairs, count_crops
from latpix.training.tiny_samples import grid

COMMAND, AVERAGED = "train", "teacher"
SHIFT = DynamicShift(base=6.0, reference=2048)
SAMPLE_STEPS = 8
MUON = (
    "network.patch_blocks",
    "network.latent_projection.latent_stack",
    "network.latent_projection.image_stack",
    "network.latent_projection.merge_blocks",
)
ROW = replace(
    find("flux2-tiny"),
    name="flux2-tiny-teacher",
    sampling=replace(TEACHER, prediction="x0", guidance_scale=1.0, dynamic_shift=SHIFT),
)


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """All that decides a run; saved beside its weights."""

    learning_rate: float = 1e-3
    optimizer: Literal["muon", "adamw"] = "muon"  # of blocks and convolutions; several processes need adamw
    warmup_updates: int = 200
    clip: float = 1.0  # of small networks' gradients; the releases' 0.1 would hide a divergence
    noised: float = 0.75  # share of latents
    max_latent_sigma: float = 0.8
    base: str = "flux2-tiny"  # checkpoint whose base decoder it paints on: a name, or the file of flux2_tiny_base


def config() -> Config:
    """The run that makes the teacher."""
    return Config(steps=40_000, batch=16, size=256, ema_width=0.1)


def build(settings: Config, assets: Path | None, device: torch.device) -> "TeacherJob":
    """The recipe's job; without ``assets`` on made-up pictures."""
    codec = Codec.load("flux2-lite", device=device, dtype=settings.precision)
    data = TinyPairs(assets, codec, size=settings.size, seed=settings.seed)
    torch.manual_seed(settings.seed)
    network = Denoiser(ROW.network)
    network.base_decoder = load_base(settings.base, ROW.network, setting="base")
    return TeacherJob(settings, data, network)


def outline(settings: Config, assets: Path | None) -> Outline:
    """What the recipe trains, and on how much."""
    teacher = build_network(ROW.network, device="meta")
    base = take_base(teacher)
    crops = count_crops(assets, settings.size)
    return Outline(
        trained={"teacher": teacher},
        frozen={"base": base},
        alive=("teacher",),
        samples_per_epoch=crops,
        calls=(Call(network="teacher"),),
    )


class TeacherJob(FromData):
    """See training/job.py."""

    name = "flux2-tiny-teacher"
    averaged = AVERAGED
    data: TinyPairs

    def __init__(self, settings: Config, data: TinyPairs, network: Denoiser) -> None:
        self.data, self.precision = data, settings.precision
        self.base = take_base(network).requires_grad_(False)
        self.base_weights = copied(self.base)
        part = Part(
            network=Painter(network, "x0", settings.precision),
            learning_rate=settings.learning_rate,
            warmup_updates=settings.warmup_updates,
            muon=MUON if settings.optimizer == "muon" else (),
            clip=settings.clip,
        )
        self.parts: Mapping[str, Part] = {"teacher": part}
        self.frozen: Mapping[str, nn.Module] = {"base": self.base}
        # Painters put out velocities, whatever their denoisers do.
        self.step_settings = TeacherSettings(
            shift=SHIFT,
            noising=LatentNoising(chance=settings.noised, most=settings.max_latent_sigma),
            drop_caption=0.0,
            drop_latent=0.0,
        )

    def turn(self, step: int) -> tuple[str, ...]:
        return ("teacher",)

    def losses(self, batch: TinyBatch, step: int, draws: SampleDraws) -> Step:
        pairs = batch.pairs
        network = Eyes(self.base, pairs, self.precision).network(self.parts["teacher"].network)
        pixels, latents = pairs.pixels.to(draws.device), pairs.latent.to(draws.device)
        return teacher_step(network, pixels, latents, draws, self.step_settings)

    def sample(self, average: nn.Module) -> Tensor:
        side = self.data.side * WHOLE
        times = solver_times(SAMPLE_STEPS, SHIFT.at(side, side))
        times[-1] = 0.0
        return grid(
            average, self.data, self.base, self.precision, lambda denoise, noise: sample_ode(denoise, noise, times)
        )

    def export(self, average: Mapping[str, Tensor], folder: Path, steps: int) -> Path:
        made_by = f"latpix.training.recipes.flux2_tiny_teacher, {steps} steps"
        return export(denoiser_weights(dict(average)), self.base_weights, ROW, folder, made_by, self.data)
