"""Student of four steps for FLUX.2 latents, from the teacher by distribution matching.

    torchrun --nproc-per-node 8 -m latpix distill distill_flux2 --set shards=SHARDS \\
        --set teacher=runs/teacher/flux2-2kto4k-v1.5-teacher.safetensors

Student, fake score and teacher (guided at 3, by the negative prompt) start from the teacher's weights. One step of the
student, then five of its critics (training/dmd.py); the discriminator looks at the teacher's patch tokens after its
middle block. Settings are the release's: 500 updates of the student, from noised pictures alone.

Ours, off unless set: ``rollout=0.5`` also starts from the student's own states, ``patch_logits=true`` judges place by
place (with ``discriminator_rate=1e-4``: the release's rate hardly moves it), ``fidelity_weight=0.5`` keeps colour and
structure, ``shift=2`` asks the critics at times that the teacher saw more of.

Hardware: memory and operations of 8 and 64 GPUs are in docs/benchmarks/training-at-scale.md. It was never run at full
size. RUN/flux2-2kto4k-v1.5.safetensors holds the student's average in bfloat16: `latpix upscale --checkpoint FILE`.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from latpix.backbones.registry import encoder_of
from latpix.captions.prompt_prefix import NEGATIVE_PROMPT
from latpix.checkpoints.registry import find
from latpix.network.model import Denoiser
from latpix.network.model import build as build_network
from latpix.training.alternation import is_students_turn
from latpix.training.discriminator import Discriminator
from latpix.training.dmd import DistillSettings, calls, critic_step, student_step
from latpix.training.full_size import begin, export, picture_of
from latpix.training.given import Step
from latpix.training.job import Outline, Part, SampleDraws
from latpix.training.latent_noising import LatentNoising
from latpix.training.learning import everything, nothing
from latpix.training.painter import Painter
from latpix.training.shard_pairs import FromShards, ShardBatch, ShardConfig, ShardPairs, count_samples
from latpix.training.teacher_step import TeacherSettings, condition_batch

COMMAND, AVERAGED = "distill", "student"
ROW = find("flux2-2kto4k-v1.5")


@dataclass(frozen=True, kw_only=True)
class Config(ShardConfig):
    """All that decides a run; saved beside its weights."""

    teacher: str = "flux2-2kto4k-v1.5-teacher"  # checkpoint, a name or a file
    vae: str = encoder_of(ROW.space).model  # encodes what was not packed with latents: hub id, folder or file
    learning_rate: float = 1e-5
    warmup_updates: int = 100
    fake_score_rate: float = 1e-5
    fake_score_decay: float = 1e-3
    discriminator_rate: float = 1e-5
    clip: float = 0.1
    drop_caption: float = 0.1
    noised: float = 0.75  # share of latents
    max_latent_sigma: float = 0.8
    guidance_scale: float = 3.0  # of the teacher
    gan_weight: float = 0.05
    r1_weight: float = 200.0
    patch_logits: bool = False
    rollout: float = 0.0
    shift: float = 1.0  # of the critics' times
    fidelity_weight: float = 0.0


def config() -> Config:
    """The released run."""
    return Config(steps=3000, batch=1, context=4, size=3584, save_every=100, sample_every=100)


def build(settings: Config, assets: Path | None, device: torch.device) -> "DistillJob":
    """The recipe's job.

    Raises:
        UsageError: no shards are named, or ``teacher`` is another network's.
    """
    data = ShardPairs(settings, ROW, device, vae=settings.vae)
    torch.manual_seed(settings.seed)
    with torch.device("meta"):
        teacher = Denoiser(ROW.network)
    begin(teacher.to_empty(device="cpu"), settings.teacher)
    return DistillJob(settings, data, teacher)


def outline(settings: Config, assets: Path | None) -> Outline:
    """What the recipe trains, and on how much."""
    with torch.device("meta"):
        judge = Discriminator([ROW.network.width], patch_logits=settings.patch_logits)
    networks = {name: build_network(ROW.network, device="meta") for name in ("student", "fake_score", "teacher")}
    return Outline(
        trained={"student": networks["student"], "fake_score": networks["fake_score"], "discriminator": judge},
        frozen={"teacher": networks["teacher"]},
        alive=("student", "teacher"),
        samples_per_epoch=count_samples(settings),
        calls=calls(step_settings(settings), *tapped()),
    )


def step_settings(settings: Config) -> DistillSettings:
    """What the steps are told."""
    return DistillSettings(
        rollout=settings.rollout,
        guidance_scale=settings.guidance_scale,
        shift=settings.shift,
        gan_weight=settings.gan_weight,
        r1_weight=settings.r1_weight,
        fidelity_weight=settings.fidelity_weight,
    )


def tapped() -> tuple[int]:
    """The patch block, from 0, whose tokens the discriminator sees: the one after the middle."""
    return (ROW.network.depth // 2,)


class DistillJob(FromShards):
    """See training/job.py. ``teacher`` has the weights that student and fake score start from, too."""

    name, averaged = ROW.name, AVERAGED

    def __init__(self, settings: Config, data: ShardPairs, teacher: Denoiser) -> None:
        self.data, clip = data, settings.clip

        def learner() -> Painter:
            network = copy.deepcopy(teacher)
            everything(network)
            return Painter(network, "velocity", settings.precision)

        self.student, self.fake_score = learner(), learner()
        nothing(teacher)
        self.teacher = Painter(teacher, "velocity", settings.precision)
        self.judge = Discriminator([ROW.network.width], patch_logits=settings.patch_logits)
        self.parts: Mapping[str, Part] = {
            "student": Part(
                network=self.student,
                learning_rate=settings.learning_rate,
                warmup_updates=settings.warmup_updates,
                clip=clip,
            ),
            "fake_score": Part(
                network=self.fake_score,
                learning_rate=settings.fake_score_rate,
                weight_decay=settings.fake_score_decay,
                clip=clip,
            ),
            "discriminator": Part(network=self.judge, learning_rate=settings.discriminator_rate, clip=None),
        }
        self.frozen: Mapping[str, nn.Module] = {"teacher": self.teacher}
        self.conditioning = TeacherSettings(
            noising=LatentNoising(chance=settings.noised, most=settings.max_latent_sigma),
            drop_caption=settings.drop_caption,
            drop_latent=0.0,
        )
        self.step_settings = step_settings(settings)
        # Two captions that say nothing: one that training shows, one that guidance pushes away from.
        self.empty, self.null = data.states([""]), data.states([NEGATIVE_PROMPT])

    def turn(self, step: int) -> tuple[str, ...]:
        return ("student",) if is_students_turn(step) else ("fake_score", "discriminator")

    def losses(self, batch: ShardBatch, step: int, draws: SampleDraws) -> Step:
        given, _ = condition_batch(
            batch.latent, batch.caption, self.empty, draws, self.conditioning, sources=batch.sources
        )
        features = partial(self.teacher, after=tapped())
        if not is_students_turn(step):
            return critic_step(
                self.student,
                self.fake_score,
                batch.pixels,
                given,
                draws,
                self.step_settings,
                features=features,
                discriminator=self.judge,
            )
        return student_step(
            self.student,
            self.teacher,
            self.fake_score,
            batch.pixels,
            given,
            draws,
            self.step_settings,
            iteration=step,
            null_caption=self.null,
            features=features,
            discriminator=self.judge,
            native=batch.native,
            downsample=ROW.network.latent_downsample,
        )

    def sample(self, average: nn.Module) -> Tensor:
        return picture_of(average, ROW, self.data.example(), self.null)

    def export(self, average: Mapping[str, Tensor], folder: Path, steps: int) -> Path:
        return export(average, ROW, folder, f"latpix.training.recipes.distill_flux2, {steps} steps", torch.bfloat16)
