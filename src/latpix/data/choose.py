"""Which pictures become samples, in which bucket and which shard.

Dropped are damaged pictures, unreadable captions, pictures too small for a bucket, copies of the same bytes, and
pictures that look the same as another: the largest is kept, one with a caption before one without. Nothing here
depends on anything but the pictures and the settings.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from latpix.data.buckets import MULTIPLE, Placement, Size, place_among, place_fixed, place_whole
from latpix.data.likeness import Seen
from latpix.data.scan import Scanned
from latpix.data.sources import Source, captions_of
from latpix.errors import CaptionError, OptionError

Reason = Literal["damaged", "caption", "tiny", "duplicate", "lookalike"]


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How pictures become samples."""

    size: int | None = None  # of buckets; None keeps every picture whole, in a shape of its own
    largest: int | None = None  # buckets of several sizes, from ``size`` to this one
    least: int = 256  # pixels of the shorter side; smaller pictures are dropped
    shard_bytes: int = 500_000_000
    seed: int = 0  # of the order

    def __post_init__(self) -> None:
        if self.largest is not None and (self.size is None or self.largest < self.size):
            raise OptionError(f"sizes {self.size}-{self.largest} make no sense; give two, the smaller one first.")
        if self.shard_bytes < 1 or self.least < 1:
            raise OptionError("the size of shards and of the smallest picture must be above 0.")

    def place(self, size: Size, multiple: int) -> Placement | None:
        """The bucket of a picture, if it is large enough for one."""
        if min(size) < self.least:
            return None
        if self.size is None:
            return place_whole(size, multiple)
        return place_fixed(size, self.size) if self.largest is None else place_among(size, self.size, self.largest)


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A picture that is no sample, and why."""

    source: str
    reason: Reason
    message: str


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A picture that is one."""

    scanned: Scanned
    captions: tuple[str, ...]
    placement: Placement

    @property
    def key(self) -> str:
        """Its name in the shard: the start of its file's digest."""
        return self.scanned.sha256[:24]

    @property
    def identity(self) -> str:
        """A digest of all that its files depend on."""
        facts = [self.scanned.sha256, self.scanned.name, self.captions, asdict(self.placement)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def choose(
    sources: Sequence[Source], scanned: Sequence[Scanned], packing: Packing, multiple: int = MULTIPLE
) -> tuple[list[Sample], list[Dropped]]:
    """The samples among pictures, in their order, and what was dropped, in the order of its discovery."""
    samples: list[Sample] = []
    dropped: list[Dropped] = []
    for source, one in zip(sources, scanned, strict=True):
        if one.error:
            dropped.append(Dropped(source=one.name, reason="damaged", message=one.error))
            continue
        placement = packing.place(Size(one.width, one.height), multiple)
        if placement is None:
            message = f"{one.width}x{one.height} is too small"
            dropped.append(Dropped(source=one.name, reason="tiny", message=message))
            continue
        try:
            samples.append(Sample(scanned=one, captions=captions_of(source), placement=placement))
        except CaptionError as error:
            dropped.append(Dropped(source=one.name, reason="caption", message=str(error)))
    return _without_copies(samples, dropped), dropped


def arrange(samples: Sequence[Sample], packing: Packing) -> dict[str, list[Sample]]:
    """The samples of each shard by its name: shuffled, as many as fit into its bytes of pictures, one at least."""
    shuffled = sorted(samples, key=lambda sample: _shuffling(sample, packing.seed))
    shards: list[list[Sample]] = []
    room = 0
    for sample in shuffled:
        size = sample.scanned.state[0]
        if not shards or size > room:
            shards.append([])
            room = packing.shard_bytes
        shards[-1].append(sample)
        room -= size
    return {f"{number:06d}.tar": members for number, members in enumerate(shards)}


def _without_copies(samples: list[Sample], dropped: list[Dropped]) -> list[Sample]:
    """The best of each group of copies: with a caption, and large."""
    order = sorted(
        range(len(samples)),
        key=lambda place: (
            not samples[place].captions,
            -samples[place].scanned.width * samples[place].scanned.height,
            place,
        ),
    )
    digests: dict[str, str] = {}
    seen, kept = Seen(), []
    for place in order:
        one = samples[place].scanned
        assert one.look is not None
        if one.sha256 in digests:
            message = f"the same file as {digests[one.sha256]}"
            dropped.append(Dropped(source=one.name, reason="duplicate", message=message))
        elif (like := seen.find(one.look)) is not None:
            dropped.append(Dropped(source=one.name, reason="lookalike", message=f"looks like {like}"))
        else:
            digests[one.sha256] = one.name
            seen.add(one.look, one.name)
            kept.append(place)
    return [samples[place] for place in sorted(kept)]


def _shuffling(sample: Sample, seed: int) -> str:
    return hashlib.sha256(f"{seed} {sample.scanned.sha256}".encode()).hexdigest()
