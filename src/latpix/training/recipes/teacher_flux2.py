"""Teacher for FLUX.2 latents: a text-to-image network that learns to read a latent, in two phases.

    latpix data pack FOLDER... -o SHARDS --buckets 2048-3840 [--encode flux2 --vae black-forest-labs/FLUX.2-dev]
    torchrun --nproc-per-node 8 -m latpix train teacher_flux2 --set shards=SHARDS -o runs/adapter
    torchrun --nproc-per-node 8 -m latpix train teacher_flux2 --set shards=SHARDS --set trained=all \\
        --set start=runs/adapter/flux2-2kto4k-v1.5-teacher.safetensors -o runs/teacher

First the adapter alone: latent projection, gates, RGB head; the backbone is the text-to-image network's and stays so.
Then everything. One step (training/teacher_step.py): noise three quarters of the latents, drop a tenth of them and a
tenth of the captions, compare velocities at shifted logit-normal times; the RGB head's loss is the only gradient that
the projection gets at first. Settings are the release's.

Hardware: memory and operations of 8 and 64 GPUs are in docs/benchmarks/training-at-scale.md. It was never run at full
size. RUN/flux2-2kto4k-v1.5-teacher.safetensors is what `latpix distill distill_flux2` starts from.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from latpix.backbones.registry import encoder_of
from latpix.checkpoints.registry import find
from latpix.network.model import Denoiser
from latpix.network.model import build as build_network
from latpix.training.flow_job import FlowConfig, FlowJob
from latpix.training.full_size import begin
from latpix.training.job import Call, Outline
from latpix.training.latent_noising import LatentNoising
from latpix.training.learning import ADAPTER, adapter, everything
from latpix.training.shard_pairs import ShardPairs, count_samples
from latpix.training.teacher_step import TeacherSettings

COMMAND, AVERAGED = "train", "teacher"
ROW = find("flux2-2kto4k-v1.5-teacher")
LEARN = {"adapter": adapter, "all": everything}


@dataclass(frozen=True, kw_only=True)
class Config(FlowConfig):
    """All that decides a run; saved beside its weights."""

    learning_rate: float = 5e-5
    weight_decay: float = 1e-3
    trained: Literal["adapter", "all"] = "adapter"
    start: str = "pixeldit-2kto4k"  # of the second phase: the first one's weights
    vae: str = encoder_of(ROW.space).model  # encodes what was not packed with latents: hub id, folder or file
    drop_latent: float = 0.1
    noised: float = 0.75  # share of latents
    max_latent_sigma: float = 0.8
    rgb_weight: float = 0.8


def config() -> Config:
    """The released run."""
    return Config(steps=30_000, batch=1, context=2, size=3584, save_every=5000, sample_every=2500)


def build(settings: Config, assets: Path | None, device: torch.device) -> FlowJob:
    """The recipe's job.

    Raises:
        UsageError: no shards are named, or ``start`` is another network's.
    """
    data = ShardPairs(settings, ROW, device, vae=settings.vae)
    torch.manual_seed(settings.seed)
    network = Denoiser(ROW.network)
    begin(network, settings.start, fresh=ADAPTER)
    LEARN[settings.trained](network)
    step = TeacherSettings(
        noising=LatentNoising(chance=settings.noised, most=settings.max_latent_sigma),
        drop_caption=settings.drop_caption,
        drop_latent=settings.drop_latent,
        rgb_weight=settings.rgb_weight,
    )
    return FlowJob(settings, ROW, network, data, step, averaged=AVERAGED, made_by="teacher_flux2")


def outline(settings: Config, assets: Path | None) -> Outline:
    """What the recipe trains, and on how much."""
    return Outline(
        trained={AVERAGED: build_network(ROW.network, device="meta")},
        frozen={},
        alive=(AVERAGED,),
        samples_per_epoch=count_samples(settings),
        calls=(Call(network=AVERAGED, learn=LEARN[settings.trained]),),
    )
