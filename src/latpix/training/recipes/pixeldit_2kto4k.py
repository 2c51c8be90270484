"""The text-to-image network that the decoders grow from, trained on at 2048 to 3840 pixels.

    latpix data pack FOLDER... -o SHARDS --buckets 2048-3840
    torchrun --nproc-per-node 8 -m latpix train pixeldit_2kto4k --set shards=SHARDS [--set key=value ...]

Flow matching at shifted logit-normal times (training/teacher_step.py, without a latent); a tenth of the captions is the
empty text. Settings are the release's: one picture per two GPUs, two such batches a step, and no end.

Hardware: memory and operations of 8 and 64 GPUs are in docs/benchmarks/training-at-scale.md. It was never run at full
size. RUN/pixeldit-2kto4k.safetensors is what `latpix train teacher_flux2` begins with.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from latpix.checkpoints.registry import find
from latpix.network.model import Denoiser
from latpix.network.model import build as build_network
from latpix.training.flow_job import FlowConfig, FlowJob
from latpix.training.full_size import begin
from latpix.training.job import Call, Outline
from latpix.training.latent_noising import LatentNoising
from latpix.training.learning import everything
from latpix.training.shard_pairs import ShardPairs, count_samples
from latpix.training.teacher_step import TeacherSettings

COMMAND, AVERAGED = "train", "prior"
ROW = find("pixeldit-2kto4k")


@dataclass(frozen=True, kw_only=True)
class Config(FlowConfig):
    """All that decides a run; saved beside its weights."""

    learning_rate: float = 1e-5
    start: str = ROW.name


def config() -> Config:
    """The released run."""
    return Config(steps=10_000_000, batch=1, accumulate=2, context=2, size=3584, save_every=5000, sample_every=5000)


def build(settings: Config, assets: Path | None, device: torch.device) -> FlowJob:
    """The recipe's job.

    Raises:
        UsageError: no shards are named, or ``start`` is another network's.
    """
    data = ShardPairs(settings, ROW, device)
    torch.manual_seed(settings.seed)
    network = Denoiser(ROW.network)
    begin(network, settings.start)
    everything(network)
    step = TeacherSettings(noising=LatentNoising(chance=0.0), drop_caption=settings.drop_caption, drop_latent=0.0)
    return FlowJob(settings, ROW, network, data, step, averaged=AVERAGED, made_by="pixeldit_2kto4k")


def outline(settings: Config, assets: Path | None) -> Outline:
    """What the recipe trains, and on how much."""
    return Outline(
        trained={AVERAGED: build_network(ROW.network, device="meta")},
        frozen={},
        alive=(AVERAGED,),
        samples_per_epoch=count_samples(settings),
        calls=(Call(network=AVERAGED),),
    )
