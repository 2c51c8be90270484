"""What the recipes of the official networks learn from: pictures of shards, their latents and captions.

    shards of `latpix data pack` --loader--> pixels [b,3,H,W] --reduced, codec--> latent [b,c,h,w]
                                             caption --text encoder or cache--> states [b,l,e]

Latents that were packed are taken as they are. A batch is one bucket, the same on all processes; the next one is read
while the present one is computed. Letters: b batch, H W pixels, y x native pixels, c h w latent, l e caption states.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latpix import resources
from latpix.backbones.encode import load_codec
from latpix.backbones.lite_file import NAME, load_lite
from latpix.backbones.registry import encoder_of
from latpix.captions.model_files import MODEL
from latpix.checkpoints.registry import Checkpoint
from latpix.data.loader import Batch, Loader, Loading
from latpix.data.pictures import reduced
from latpix.data.shards import index_shard, read_index, shard_files
from latpix.distributed import ranks_of_torchrun
from latpix.errors import UsageError
from latpix.training.caption_states import CaptionStates
from latpix.training.config import RunConfig
from latpix.training.job import FromData

EXAMPLE = 2**31  # a step that no run reaches: what it would see is the sample
Wanted = tuple[int, tuple[int, ...]]  # a step, and the numbers of samples in it


@dataclass(frozen=True, kw_only=True)
class ShardConfig(RunConfig):
    """Settings of a run that learns from shards. ``size``: no picture has more pixels than a square of that side."""

    shards: str = ""  # folder that `latpix data pack` made
    caption_model: str = MODEL  # text encoder: hub id or folder


@dataclass(frozen=True)
class ShardBatch:
    """Samples on the device."""

    pixels: Float[Tensor, "b 3 H W"]  # in [-1, 1]
    native: Float[Tensor, "b 3 y x"]  # the same as the latent stands for them
    latent: Float[Tensor, "b c h w"]  # clean, normalized; without channels where the network reads none
    caption: Float[Tensor, "b l e"]
    names: tuple[str, ...]
    sources: tuple[str, ...]


class ShardPairs:
    """Samples by step and number.

    Args:
        settings: where the shards are, and how many samples all processes take in a step.
        row: whose space and scale the latents have.
        device: where they are wanted.
        vae: what encodes those that were not packed, as ``load_codec`` takes it.

    Raises:
        UsageError: no shards are named, their latents are another network's or flux2-lite's where ``vae`` is not, or
            their pictures are too large or cannot be shared by so many processes.
        DataError: there are no shards, or not whole ones.
    """

    def __init__(self, settings: ShardConfig, row: Checkpoint, device: torch.device, *, vae: str = "") -> None:
        folder = _folder(settings)
        self.row, self.device = row, device
        packed = bool(row.space) and _packed_latents(folder, row, vae)
        self.share = settings.batch * (ranks_of_torchrun().size // settings.context)  # computed at once, by all
        self.total = self.share * settings.accumulate
        self.loader = Loader(folder, Loading(batch=self.total, seed=settings.seed, latents=packed))
        self._check_sizes(settings)
        encodes = row.space and not packed
        self.codec = (
            load_codec(row.space, vae=vae or None, device=device, dtype=settings.precision) if encodes else None
        )
        self.states = CaptionStates(settings.caption_model, device)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="latpix-read")
        self._ahead: dict[Wanted, Future[Batch]] = {}

    def draw(self, step: int, samples: Sequence[int]) -> ShardBatch:
        """These samples of a step; whoever saves now has seen it."""
        wanted = (step, tuple(samples))
        reading = self._ahead.get(wanted) or self._read(wanted)
        batch = reading.result()
        following = self._after(*wanted)
        self._ahead = {following: self._read(following)}
        self.loader.step = step + 1
        return self._made(batch)

    def example(self) -> ShardBatch:
        """The picture of the run's samples, always the same."""
        return self._made(self.loader.batch_of(EXAMPLE, [0]))

    def position(self) -> dict[str, Any]:
        """The loader's."""
        return self.loader.state_dict()

    def seek(self, position: dict[str, Any]) -> None:
        """Go on from a position.

        Raises:
            DataError: it belongs to other shards or another number of samples in a step.
        """
        self.loader.load_state_dict(position)

    def _read(self, wanted: Wanted) -> "Future[Batch]":
        return self._reader.submit(self.loader.batch_of, *wanted)

    def _after(self, step: int, samples: tuple[int, ...]) -> Wanted:
        """What this process takes next: its share of the next part of a step, or of the next step."""
        first = samples[0] + self.share
        if first >= self.total:
            step, first = step + 1, samples[0] % self.share
        return step, tuple(range(first, first + len(samples)))

    def _made(self, batch: Batch) -> ShardBatch:
        batch = batch.to(self.device)
        native = reduced(batch.pixels, self.row.scale)
        if batch.latent is not None:
            latent = batch.latent
        elif self.codec is not None:  # one at a time: a sample's bits do not depend on its neighbours
            latent = torch.cat([self.codec.encode(one) for one in native.split(1)])
        else:
            latent = native.new_empty(len(native), 0, 1, 1)
        return ShardBatch(batch.pixels, native, latent, self.states(batch.captions), batch.names, batch.sources)

    def _check_sizes(self, settings: ShardConfig) -> None:
        crops = {entry.facts.placement.crop for entry in self.loader.entries}
        size, context, patch = settings.size, settings.context, self.row.network.patch_size
        largest = max(crops, key=lambda crop: crop.width * crop.height)
        if largest.width * largest.height > size * size:
            raise UsageError(
                f"the shards hold pictures of {largest}, which is more than the {size}x{size} pixels that size={size} "
                f"allows. Raise it (`--dry-run` says what memory that takes), or pack smaller buckets."
            )
        for crop in sorted(crops):
            if crop.height // patch % context:
                raise UsageError(
                    f"the shards hold pictures of {crop}, whose {crop.height // patch} rows of patches cannot be "
                    f"shared evenly by context={context} processes. Lower context, or pack other buckets."
                )


class FromShards(FromData):
    """A job that learns from shards, which know where they stand."""

    data: ShardPairs

    def position(self) -> dict[str, Any]:
        return self.data.position()

    def seek(self, position: dict[str, Any]) -> None:
        self.data.seek(position)


def count_samples(settings: ShardConfig) -> int | None:
    """How many samples the shards hold; None where none are named."""
    return len(read_index(_folder(settings))) if settings.shards else None


def _folder(settings: ShardConfig) -> Path:
    if not settings.shards:
        raise UsageError(
            "this recipe learns from shards of pictures with captions. Make them, "
            "`latpix data pack FOLDER... -o SHARDS --buckets 2048-3840`, and name them: --set shards=SHARDS."
        )
    return Path(settings.shards)


def _packed_latents(folder: Path, row: Checkpoint, vae: str) -> bool:
    """Whether the shards hold latents; the first sample tells.

    Raises:
        UsageError: they do, but not what the network reads, or made by flux2-lite where ``vae`` names another.
    """
    facts = next(index_shard(shard_files(folder)[0])).facts.latent
    if facts is not None and (facts.space, facts.scale) != (row.space, row.scale):
        raise UsageError(
            f'"{folder}" holds latents of space "{facts.space}", scale {facts.scale}, but {row.name} reads '
            f'"{row.space}", scale {row.scale}. Pack with --encode {row.space} --scale {row.scale}, or without.'
        )
    if facts is not None and vae != NAME and facts.codec_sha256 == load_lite(resources.weight(NAME))[1]:
        raise UsageError(
            f'"{folder}" holds latents of {NAME}, which only approximates the VAE that {row.name} reads. Pack with '
            f"--vae {encoder_of(row.space).model}, or, if that is what you want to train on, --set vae={NAME}."
        )
    return facts is not None
