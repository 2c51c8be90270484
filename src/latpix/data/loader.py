"""Batches from shards, in an order that can be known beforehand and taken up anywhere.

    step -> samples (order.py) -> picture, bucket or crop, mirror, caption, latent -> Batch

All that is random about sample k of a step comes from (seed, step, k), k counted over all ranks: workers, ranks and
interruptions change nothing. The position is one number, the step that comes next. Levels travel as uint8 and become
pixels in [-1, 1] at the end; their range is written in every sample and checked when it is read.
Letters: b batch, H W pixels, c h w latent.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from latpix.data.ahead import decode_latents
from latpix.data.crops import pick_place
from latpix.data.order import Order
from latpix.data.pictures import Levels, decode, fit, halved, to_pixels
from latpix.data.shards import Entry, read_index
from latpix.errors import DataError, OptionError

LARGE = 1024  # pixels of the shorter side: from here on a picture may be halved


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How samples become batches."""

    batch: int  # samples of a step, over all ranks
    seed: int = 0
    crop: int | None = None  # side of square crops, in pixels; None: the whole bucket
    by_detail: bool = False  # crops with detail come more often than flat ones
    mirror: bool = False  # half of the samples
    halve: bool = False  # half of those that are large: photographs are soft at full size
    latents: bool = False  # those that were made ahead are given too


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a step works on."""

    pixels: Float[Tensor, "b 3 H W"]  # in [-1, 1]
    captions: tuple[str, ...]  # empty where there is none
    names: tuple[str, ...]  # shard and key of each, for messages
    sources: tuple[str, ...]  # the file that each was packed from
    bucket: str
    latent: Float[Tensor, "b c h w"] | None = None  # normalised and clean

    def to(self, device: torch.device | str) -> "Batch":
        """The same on a device."""
        latent = None if self.latent is None else self.latent.to(device)
        return replace(self, pixels=self.pixels.to(device), latent=latent)


class Loader:
    """An endless stream of batches.

    ``for batch in loader`` goes on from ``loader.step``; ``batch_of(step)`` gives any. ``state_dict`` holds the whole
    position.

    Args:
        folder: of shards.
        loading: how samples become batches.
        rank, ranks: this process among those that share each batch.
        workers: processes that read ahead; 0 reads here. They change no sample.

    Raises:
        DataError: no shards, no sample that is large enough, no latents where they are asked for.
        OptionError: settings that exclude each other.
    """

    def __init__(
        self, folder: str | Path, loading: Loading, *, rank: int = 0, ranks: int = 1, workers: int = 0
    ) -> None:
        if loading.batch % ranks or not 0 <= rank < ranks:
            raise OptionError(f"a batch of {loading.batch} cannot be shared by {ranks} ranks, or rank {rank} is none.")
        share = loading.batch // ranks
        self.loading, self.workers = loading, workers
        self.numbers = range(rank * share, (rank + 1) * share)  # of this rank's samples within a step
        self.entries = _usable(read_index(folder), loading, folder)
        whole = loading.crop is None
        buckets = [entry.facts.placement.bucket if whole else "" for entry in self.entries]
        self.order = Order(buckets, batch=loading.batch, seed=loading.seed)
        self.step = 0
        self._samples = _Samples(Path(folder), self.entries, self.order, loading)

    @property
    def steps_per_epoch(self) -> int:
        """How many steps see every sample once."""
        return self.order.steps_per_epoch

    def batch_of(self, step: int, numbers: Sequence[int] | None = None) -> Batch:
        """The batch of any step; of other samples of it than this rank's, if their numbers are given."""
        return _as_pixels(self._samples.draw(step, self.numbers if numbers is None else numbers))

    def __iter__(self) -> Iterator[Batch]:
        stream = DataLoader(
            _Ahead(self._samples, self.numbers),
            sampler=_From(self.step),
            batch_size=None,
            num_workers=self.workers,
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # else it would draw a number from everybody's
        )
        for drawn in stream:
            self.step += 1  # before it is handed out: who saves now has seen it
            yield _as_pixels(drawn)

    def state_dict(self) -> dict[str, Any]:
        """The position, and of which stream; as JSON can hold it."""
        return {"step": self.step, "stream": self._stream()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position.

        Raises:
            DataError: it belongs to other shards or other settings, so that other samples would come.
        """
        if state["stream"] != self._stream():
            raise DataError(
                "the position was saved with other shards or other settings of the loader "
                f"({state['stream']} is not {self._stream()}); resume with those it was saved with."
            )
        self.step = int(state["step"])

    def _stream(self) -> str:
        """A digest of all that decides which samples come."""
        settings = repr((self.loading, [(entry.shard, entry.key, entry.facts) for entry in self.entries]))
        return hashlib.sha256(settings.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Drawn:
    """A batch on its way from a worker."""

    levels: UInt8[Tensor, "b 3 H W"]
    latent: Float16[Tensor, "b c h w"] | None
    captions: tuple[str, ...]
    entries: tuple[Entry, ...]
    bucket: str


class _Samples:
    """Samples by step and number; has no state."""

    def __init__(self, folder: Path, entries: list[Entry], order: Order, loading: Loading) -> None:
        self.folder, self.entries, self.order, self.loading = folder, entries, order, loading

    def draw(self, step: int, numbers: Sequence[int]) -> _Drawn:
        chosen = self.order.samples(step)
        entries = tuple(self.entries[chosen[number]] for number in numbers)
        drawn = [self._one(entry, step, number) for entry, number in zip(entries, numbers, strict=True)]
        levels = torch.stack([one[0] for one in drawn])
        latents = [one[1] for one in drawn if one[1] is not None]
        crop = self.loading.crop
        return _Drawn(
            levels=levels,
            latent=torch.stack(latents) if latents else None,
            captions=tuple(one[2] for one in drawn),
            entries=entries,
            bucket=entries[0].facts.placement.bucket if crop is None else f"{crop}x{crop}",
        )

    def _one(self, entry: Entry, step: int, number: int) -> tuple[Levels, Tensor | None, str]:
        loading, facts, placed = self.loading, entry.facts, entry.facts.placement
        generator = np.random.default_rng((loading.seed, step, number))
        # Each draw is made whether it is needed or not, so that one setting does not change what another draws.
        mirror, halve, words = generator.random(), generator.random(), generator.random()
        levels = decode(entry.read(self.folder, entry.picture), entry.name)
        if levels.shape[1:] != (facts.height, facts.width):
            raise DataError(f"{entry.name} is {levels.shape[2]}x{levels.shape[1]}, not {facts.width}x{facts.height}.")
        levels = fit(levels, placed.resized, placed.crop)
        crop = loading.crop
        if loading.halve and crop and halve < 0.5 and min(levels.shape[1:]) >= max(LARGE, 2 * crop):
            levels = halved(levels)
        mirrored = loading.mirror and mirror < 0.5
        levels = levels.flip(-1) if mirrored else levels
        latent, cell = None, 1
        if loading.latents:
            assert entry.latent is not None
            assert facts.latent is not None
            latents = decode_latents(entry.read(self.folder, entry.latent), facts.latent, entry.name)
            latent, cell = latents["mirrored" if mirrored else "latent"], facts.latent.cell
        if crop is not None:
            top, left = pick_place(levels, crop, generator, grid=cell, by_detail=loading.by_detail)
            levels = levels[:, top : top + crop, left : left + crop]
            if latent is not None:
                rows, columns = (slice(start // cell, (start + crop) // cell) for start in (top, left))
                latent = latent[:, rows, columns]
        caption = facts.captions[int(words * len(facts.captions))] if facts.captions else ""
        return levels.contiguous(), latent, caption


class _Ahead(Dataset[_Drawn]):
    """This rank's batch of each step, for workers that read ahead."""

    def __init__(self, samples: _Samples, numbers: Sequence[int]) -> None:
        self.samples, self.numbers = samples, numbers

    def __getitem__(self, step: int) -> _Drawn:
        return self.samples.draw(step, self.numbers)


class _From(Sampler[int]):
    """Steps from one on, without end."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __iter__(self) -> Iterator[int]:
        return count(self.step)


def _as_it_is(drawn: Any) -> Any:
    return drawn


def _as_pixels(drawn: _Drawn) -> Batch:
    return Batch(
        pixels=to_pixels(drawn.levels),
        latent=None if drawn.latent is None else drawn.latent.float(),
        captions=drawn.captions,
        names=tuple(entry.name for entry in drawn.entries),
        sources=tuple(entry.facts.source for entry in drawn.entries),
        bucket=drawn.bucket,
    )


def _usable(entries: list[Entry], loading: Loading, folder: str | Path) -> list[Entry]:
    """The samples that can give what is asked for."""
    if loading.latents:
        _check_latents(entries, loading)
    if loading.by_detail and loading.crop is None:
        raise OptionError("crops by detail need a crop's side.")
    if loading.halve and loading.crop is None:
        raise OptionError("halving needs a crop's side: a whole bucket has one shape.")
    if loading.crop is None:
        return entries
    usable = [entry for entry in entries if min(entry.facts.placement.crop) >= loading.crop]
    if not usable:
        largest = max(min(entry.facts.placement.crop) for entry in entries)
        raise DataError(
            f'none of {len(entries)} samples in "{folder}" has room for crops of {loading.crop} pixels; '
            f"the largest possible is {largest}."
        )
    return usable


def _check_latents(entries: list[Entry], loading: Loading) -> None:
    facts = {entry.facts.latent for entry in entries}
    if len(facts) > 1:
        raise DataError(f"the samples hold latents of {len(facts)} kinds, or some hold none; pack them alike.")
    (latent,) = facts
    if latent is None:
        raise DataError("the samples hold no latents; pack them with `latpix data pack --encode SPACE`.")
    if loading.mirror and not latent.mirrored:
        raise OptionError("mirroring needs latents of mirrored pictures; pack with --mirrored, or do not mirror.")
    if loading.halve:
        raise OptionError("pictures that are halved have other latents than those made ahead; take one of the two.")
    if loading.crop is not None and loading.crop % latent.cell:
        raise OptionError(f"crops of {loading.crop} pixels cut through latent cells, which cover {latent.cell} each.")
