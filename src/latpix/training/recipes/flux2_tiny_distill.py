"""Second stage of flux2-tiny: the teacher's many steps become four.

    latpix distill flux2_tiny_distill --assets DIR [--set key=value ...]

DMD2 (training/dmd.py): one step of the student, then five of its critics. Half of the batches start from the student's
own states, so that it learns from what it meets when it decodes. No caption, so the teacher is not guided. The
discriminator looks at the teacher's patch tokens after its middle block, place by place. A fidelity term keeps colour
and structure on the latent's.

Hardware: two CPU cores for a trial (size=128, batch=2: about 2 s a step); meant for one GPU.
RUN/flux2-tiny.safetensors holds the student's average in bfloat16: `latpix upscale --checkpoint FILE`.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from latpix.backbones.codec import Codec
from latpix.checkpoints.load import load
from latpix.checkpoints.registry import find
from latpix.errors import UsageError
from latpix.network.model import Denoiser
from latpix.network.model import build as build_network
from latpix.sampling.samplers import sample_renoise
from latpix.training.alternation import is_students_turn
from latpix.training.config import RunConfig
from latpix.training.discriminator import Discriminator
from latpix.training.dmd import TIMES, DistillSettings, calls, critic_step, student_step
from latpix.training.given import Given, Step
from latpix.training.job import FromData, Outline, Part, SampleDraws
from latpix.training.latent_noising import LatentNoising, noise_latents
from latpix.training.painter import Painter, denoiser_weights
from latpix.training.pairs import CELL
from latpix.training.recipes.flux2_tiny_teacher import ROW as TEACHER
from latpix.training.tiny_export import copied, export, take_base
from latpix.training.tiny_pairs import Eyes, TinyBatch, TinyPairs, count_crops
from latpix.training.tiny_samples import grid

COMMAND, AVERAGED = "distill", "student"
ROW = find("flux2-tiny")
TAP = 1  # the patch block, from 0, whose tokens the discriminator sees: the second of four


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """All that decides a run; saved beside its weights."""

    teacher: str = f"runs/flux2_tiny_teacher/{TEACHER.name}.safetensors"
    learning_rate: float = 5e-5
    fake_score_rate: float = 5e-5
    discriminator_rate: float = 5e-4
    warmup_updates: int = 100
    clip: float = 1.0
    noised: float = 0.75
    max_latent_sigma: float = 0.8
    rollout: float = 0.5
    shift: float = 2.0  # of the critics' times: the teacher saw few small ones
    gan_weight: float = 0.02
    r1_weight: float = 20.0
    fidelity_weight: float = 0.5


def config() -> Config:
    """The run that makes the student."""
    return Config(steps=12_000, batch=16, size=256)


def build(settings: Config, assets: Path | None, device: torch.device) -> "DistillJob":
    """The recipe's job; without ``assets`` on made-up pictures.

    Raises:
        UsageError: there is no teacher yet, or what is named as one is none.
    """
    if settings.teacher.endswith(".safetensors") and not Path(settings.teacher).is_file():
        raise UsageError(
            f'there is no teacher "{settings.teacher}". Make it first: latpix train flux2_tiny_teacher, '
            "or name another: --set teacher=FILE."
        )
    teacher = load(settings.teacher)
    row, kind = teacher.row, TEACHER.sampling.kind  # a student's denoiser, or a fresh one, would load as well
    if (row.network, row.sampling.kind) != (TEACHER.network, kind):
        raise UsageError(
            f'"{settings.teacher}" is "{row.name}", a {row.sampling.kind}, not a {kind} of flux2-tiny\'s network. '
            "Make one: latpix train flux2_tiny_teacher, and name its file: --set teacher=FILE."
        )
    codec = Codec.load("flux2-lite", device=device, dtype=settings.precision)
    data = TinyPairs(assets, codec, size=settings.size, seed=settings.seed)
    torch.manual_seed(settings.seed)
    return DistillJob(settings, data, teacher.network.state_dict())


def outline(settings: Config, assets: Path | None) -> Outline:
    """What the recipe trains, and on how much."""
    with torch.device("meta"):
        judge = Discriminator([ROW.network.width], patch_logits=True)
    networks = {name: build_network(ROW.network, device="meta") for name in ("student", "fake_score", "teacher")}
    bases = [take_base(network) for network in networks.values()]
    return Outline(
        trained={"student": networks["student"], "fake_score": networks["fake_score"], "discriminator": judge},
        frozen={"teacher": networks["teacher"], "base": bases[0]},
        alive=("student", "teacher"),
        samples_per_epoch=count_crops(assets, settings.size),
        calls=calls(step_settings(settings), TAP),
    )


def step_settings(settings: Config) -> DistillSettings:
    """What the steps are told; painters put out velocities, whatever their denoisers do."""
    return DistillSettings(
        rollout=settings.rollout,
        guidance_scale=1.0,
        shift=settings.shift,
        gan_weight=settings.gan_weight,
        r1_weight=settings.r1_weight,
        fidelity_weight=settings.fidelity_weight,
    )


class DistillJob(FromData):
    """See training/job.py. Student, fake score and teacher start from the same weights."""

    name = "flux2-tiny"
    averaged = AVERAGED
    data: TinyPairs

    def __init__(self, settings: Config, data: TinyPairs, weights: Mapping[str, Tensor]) -> None:
        self.data, self.precision = data, settings.precision
        whole = Denoiser(TEACHER.network)
        whole.load_state_dict(dict(weights))
        self.base = take_base(whole).requires_grad_(False)
        self.base_weights = copied(self.base)

        def painter() -> Painter:
            return Painter(copy.deepcopy(whole), "x0", settings.precision)

        self.teacher = painter().eval().requires_grad_(False)
        self.student, self.fake_score = painter(), painter()
        self.judge = Discriminator([TEACHER.network.width], patch_logits=True)
        clip = settings.clip
        self.parts: Mapping[str, Part] = {
            "student": Part(
                network=self.student,
                learning_rate=settings.learning_rate,
                warmup_updates=settings.warmup_updates,
                clip=clip,
            ),
            "fake_score": Part(
                network=self.fake_score, learning_rate=settings.fake_score_rate, weight_decay=1e-3, clip=clip
            ),
            "discriminator": Part(network=self.judge, learning_rate=settings.discriminator_rate, clip=None),
        }
        self.frozen: Mapping[str, nn.Module] = {"teacher": self.teacher, "base": self.base}
        self.noising = LatentNoising(chance=settings.noised, most=settings.max_latent_sigma)
        self.step_settings = step_settings(settings)

    def turn(self, step: int) -> tuple[str, ...]:
        return ("student",) if is_students_turn(step) else ("fake_score", "discriminator")

    def losses(self, batch: TinyBatch, step: int, draws: SampleDraws) -> Step:
        eyes = Eyes(self.base, batch.pairs, self.precision)
        pixels = batch.pairs.pixels.to(draws.device)
        given = Given(*noise_latents(batch.pairs.latent.to(draws.device), draws, self.noising))
        student, fake_score = eyes.network(self.student), eyes.network(self.fake_score)
        features = eyes.features(self.teacher, (TAP,))
        if not is_students_turn(step):
            return critic_step(
                student,
                fake_score,
                pixels,
                given,
                draws,
                self.step_settings,
                features=features,
                discriminator=self.judge,
            )
        return student_step(
            student,
            eyes.network(self.teacher),
            fake_score,
            pixels,
            given,
            draws,
            self.step_settings,
            iteration=step,
            features=features,
            discriminator=self.judge,
            native=batch.pairs.native.to(draws.device),
            downsample=CELL,
        )

    def sample(self, average: nn.Module) -> Tensor:
        times = torch.tensor(TIMES)
        return grid(
            average, self.data, self.base, self.precision, lambda denoise, noise: sample_renoise(denoise, noise, times)
        )

    def export(self, average: Mapping[str, Tensor], folder: Path, steps: int) -> Path:
        made_by = f"latpix.training.recipes.flux2_tiny_distill, {steps} steps"
        weights = denoiser_weights(dict(average))
        return export(weights, self.base_weights, ROW, folder, made_by, self.data, torch.bfloat16)
