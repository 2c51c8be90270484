"""A new VAE under an existing pixel diffusion decoder, whose latent projection learns to read it.

    latpix data pack FOLDER... -o SHARDS --buckets 2048 [--encode SPACE --vae PATH]
    latpix train new_vae_adapter --set shards=SHARDS --set start=NAME --set space=SPACE [--set vae=PATH] [...]

The network is the existing one but for those layers of its latent projection that have another shape in the new space:
they start afresh. With train=projection only that and the gates learn; with train=lora the backbone too, by low-rank
differences (training/lora.py) that are added to its weights in the file. Either way
RUN/<start>-on-<space>.safetensors is a checkpoint like any other: the same family, sampled as the existing one,
reading the new space.

What it learns depends on what the existing decoder is:

- A teacher goes on with its own training, flow matching (training/teacher_step.py), with the RGB head's loss.
- A student imitates itself (training/imitation.py): told of a picture by the new latent, at its own times, it should
  paint what it paints when told by its old latent. Flow matching would train it towards means, which undoes its
  distillation; a new distillation needs teacher, fake score and discriminator. So a student also needs the VAE that it
  was made for, ``old_vae``. From noisy latents it will paint softer than a student that was distilled on them.

The defaults are the release's for a teacher's first phase, where the adapter learns alone.
Hardware: one GPU, `--dry-run` tells its memory and operations; it was never run so. At tiny scale 150 steps brought a
network's 4-step pictures from 11.6 to 24.8 dB of those that it painted from its old latents, with LoRA to 25.7 (both
with the whole projection afresh; with what fits kept, the projection alone came to 25.7):
docs/guide/training.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from latpix.backbones.encode import PictureCodec, load_codec
from latpix.backbones.registry import encoder_of
from latpix.captions.prompt_prefix import NEGATIVE_PROMPT
from latpix.checkpoints.load import load, peek
from latpix.checkpoints.registry import Checkpoint
from latpix.errors import UsageError
from latpix.latents.spaces import find_space
from latpix.network.model import Denoiser
from latpix.network.model import build as build_network
from latpix.sampling.schedules import student_times
from latpix.training.flow_job import FlowConfig, FlowJob, part_of
from latpix.training.full_size import export, picture_of
from latpix.training.given import Step
from latpix.training.imitation import imitation_step
from latpix.training.job import Call, Outline, Part, SampleDraws
from latpix.training.latent_noising import LatentNoising
from latpix.training.learning import adapter, nothing
from latpix.training.lora import add_lora
from latpix.training.painter import Painter
from latpix.training.shard_pairs import FromShards, ShardBatch, ShardPairs, count_samples
from latpix.training.teacher_step import TeacherSettings

COMMAND, AVERAGED = "train", "decoder"
PROJECTION = "latent_projection."  # names of weights that may have other shapes for another space


def adapter_and_lora(network: Denoiser) -> None:
    """The adapter, and low-rank differences of the backbone."""
    adapter(network)
    add_lora(network)


LEARN = {"projection": adapter, "lora": adapter_and_lora}


@dataclass(frozen=True, kw_only=True)
class Config(FlowConfig):
    """All that decides a run; saved beside its weights. Captions and latents are dropped for teachers only."""

    start: str = "flux1-2kto4k-v1.5"  # the existing decoder: a name of `latpix checkpoints list`, or a file
    space: str = "sd3"  # of the new VAE's latents
    vae: str = ""  # encodes what was not packed with latents: hub id, folder or file; without, the space's own
    old_vae: str = ""  # the same of the space that a student reads so far
    train: Literal["projection", "lora"] = "projection"
    learning_rate: float = 5e-5
    weight_decay: float = 1e-3
    drop_latent: float = 0.1
    noised: float = 0.75  # share of latents
    max_latent_sigma: float = 0.8


def config() -> Config:
    """A teacher's first phase, at its smaller size: 3:2 has the most pixels of the buckets of 2048."""
    return Config(steps=30_000, batch=1, size=2240, save_every=2500, sample_every=2500)


def build(settings: Config, assets: Path | None, device: torch.device) -> "FlowJob | ImitationJob":
    """The recipe's job.

    Raises:
        UsageError: no shards are named, or the decoder cannot be given that space.
        CheckpointError, LatentError: no such decoder, VAE or space.
    """
    existing = load(settings.start)
    row = adapted(existing.row, settings)
    data = ShardPairs(settings, row, device, vae=settings.vae or encoder_of(row.space).model)
    torch.manual_seed(settings.seed)
    network = Denoiser(row.network)
    own = network.state_dict()
    kept = {k: weight for k, weight in existing.network.state_dict().items() if own[k].shape == weight.shape}
    lacking, _ = network.load_state_dict(kept, strict=False)
    assert all(name.startswith(PROJECTION) for name in lacking)
    LEARN[settings.train](network)
    noising = LatentNoising(rule=find_space(row.space).noising, chance=settings.noised, most=settings.max_latent_sigma)
    if row.sampling.kind == "student":
        space = existing.row.space
        old_vae = settings.old_vae or encoder_of(space).model
        old = load_codec(space, vae=old_vae, device=device, dtype=settings.precision)
        return ImitationJob(settings, row, network, existing.network, old, data, noising)
    step = TeacherSettings(
        shift=row.sampling.dynamic_shift or row.sampling.shift,
        noising=noising,
        drop_caption=settings.drop_caption,
        drop_latent=settings.drop_latent,
    )
    return FlowJob(settings, row, network, data, step, averaged=AVERAGED, made_by="new_vae_adapter")


def outline(settings: Config, assets: Path | None) -> Outline:
    """What the recipe trains, and on how much."""
    existing = peek(settings.start)
    row = adapted(existing, settings)
    imitates = row.sampling.kind == "student"
    student = {"student": build_network(existing.network, device="meta")} if imitates else {}
    return Outline(
        trained={AVERAGED: build_network(row.network, device="meta")},
        frozen=student,
        alive=(AVERAGED,),
        samples_per_epoch=count_samples(settings),
        calls=(
            Call(network=AVERAGED, learn=LEARN[settings.train]),
            *(Call(network=name, backward=False, learn=nothing) for name in student),
        ),
    )


def adapted(existing: Checkpoint, settings: Config) -> Checkpoint:
    """The existing decoder's row, reading the new space.

    Raises:
        UsageError: it reads no latent, or paints on a picture; one of the spaces is not a VAE's.
        LatentError: no such space.
    """
    if not existing.space:
        raise UsageError(f'"{existing.name}" reads no latent; teacher_flux2 makes a teacher of it.')
    if existing.network.image_channels:
        raise UsageError(
            f'"{existing.name}" paints on a picture that its own space\'s latent is decoded to, so it cannot read '
            "another one. Name a decoder that paints from the latent alone: --set start=NAME."
        )
    space = find_space(settings.space)
    for one in (space, find_space(existing.space)):
        if one.fixed_size is not None:
            raise UsageError(f'space "{one.name}" is no VAE\'s: it knows pictures of one size only.')
    network = replace(
        existing.network,
        latent_channels=space.channels,
        latent_downsample=space.downsample,
        latent_unpatchify=space.patchify,
    )
    return replace(
        existing,
        name=f"{existing.name}-on-{space.name}",
        space=space.name,
        network=network,
        sampling=replace(existing.sampling, max_latent_sigma=settings.max_latent_sigma),
        upstream_path=None,
    )


class ImitationJob(FromShards):
    """See training/job.py.

    Args:
        settings: of the run.
        row: what is made.
        network: its weights, marked where they learn.
        student: the existing decoder.
        codec: what makes the latents that it reads.
        data: what both are told of.
        noising: of the new latents.
    """

    averaged = AVERAGED

    def __init__(
        self,
        settings: Config,
        row: Checkpoint,
        network: Denoiser,
        student: Denoiser,
        codec: PictureCodec,
        data: ShardPairs,
        noising: LatentNoising,
    ) -> None:
        self.name, self.row, self.codec, self.data, self.noising = row.name, row, codec, data, noising
        self.painter = Painter(network, row.sampling.prediction, settings.precision)
        self.student = Painter(student, row.sampling.prediction, settings.precision)
        self.parts: Mapping[str, Part] = {AVERAGED: part_of(self.painter, settings)}
        self.frozen: Mapping[str, nn.Module] = {"student": self.student}
        self.times = student_times(row.sampling.times, None)
        self.null = data.states([NEGATIVE_PROMPT])

    def turn(self, step: int) -> tuple[str, ...]:
        return (AVERAGED,)

    def losses(self, batch: ShardBatch, step: int, draws: SampleDraws) -> Step:
        students = torch.cat([self.codec.encode(one) for one in batch.native.split(1)])
        return imitation_step(
            self.painter,
            self.student,
            batch.pixels,
            batch.latent,
            students,
            draws,
            times=self.times.to(batch.pixels.device),
            noising=self.noising,
            caption=batch.caption,
        )

    def sample(self, average: nn.Module) -> Tensor:
        return picture_of(average, self.row, self.data.example(), self.null)

    def export(self, average: Mapping[str, Tensor], folder: Path, steps: int) -> Path:
        made_by = f"latpix.training.recipes.new_vae_adapter, {steps} steps"
        return export(average, self.row, folder, made_by, torch.bfloat16)
