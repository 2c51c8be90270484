"""What the recipes of flux2-tiny learn from: crops of pairs (training/pairs.py), drawn by sample number.

Photographs are cut into squares, and each square is a picture of its own from then on, encoded whole.
Letters: b batch, h cells of a square's side, s of a crop's, p output pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor, nn

from latpix.backbones.codec import Codec
from latpix.backbones.taef2 import Taef2
from latpix.data.made_up import made_up
from latpix.errors import UsageError
from latpix.network.base_decoder import BaseDecoder
from latpix.training.given import Caption, Features, Latent, Network, PerSample, Pixels
from latpix.training.painter import Precision
from latpix.training.pairs import WHOLE, Pair, PairBatch, crop, cut, make_pair, stack
from latpix.training.photographs import LARGE, halve, read, sources, training_photographs

SQUARE = 8  # cells along the side of a picture, at most
MADE_UP, MADE_UP_SEED = 6, 0  # pictures, where there are no photographs
LEAVES, FLATS = 16, 24  # made-up pictures and pictures of one colour, beside photographs
FLAT_SHARE = 0.05  # of crops are of one colour: by their detail next to none would be, and grain would not be unlearned
FULL_SIZE_SOURCES = ("cid22", "clic2025")  # the packages' pictures are soft at full size: half size only
LITE_SHARE = 0.3  # of crops are read from flux2-lite's latents, the others from TAEF2's, which stand for FLUX.2's own


@dataclass(frozen=True)
class TinyBatch:
    """Crops, and where they are from."""

    pairs: PairBatch
    names: list[str]


class TinyPairs:
    """Pairs in memory; sample ``number`` of a step is a function of (seed, step, number) alone.

    ``source`` says what they were made from, ``hint_variance`` how far all hints lie from their mean (0 without any).

    Args:
        assets: folder with photos/ and taef2/ (and packages/ with the unpacked Debian packages); None: made-up
            pictures, whose latents are all flux2-lite's.
        codec: flux2-lite.
        size: side of a crop in output pixels.
        seed: of the run.
        square: cells along the side of the pictures; a crop may be a whole one.
        hint: level of TAEF2's decoder whose features are kept (``make_pair``).
        lite_share: of crops that are read from flux2-lite's latents.
    """

    def __init__(
        self,
        assets: Path | None,
        codec: Codec,
        *,
        size: int,
        seed: int,
        square: int = SQUARE,
        hint: int | None = None,
        lite_share: float = LITE_SHARE,
    ) -> None:
        self.side, self.seed, self.square = cells(size), seed, square
        self.hint, self.lite_share = hint, lite_share
        self.pairs: list[Pair] = []
        self.names: list[str] = []
        if assets is None:
            self.source = "latents of flux2-lite; made-up pictures"
            self._make_up(MADE_UP, None, codec)
        else:
            self._read(assets, codec)
        self.hint_variance = variance([pair.hint for pair in self.pairs if pair.hint is not None])
        self.chances = chances(self.pairs, FLATS if assets else 0)

    def draw(self, step: int, samples: Sequence[int]) -> TinyBatch:
        """Crops of these samples of a step, each of TAEF2's latent or of flux2-lite's."""
        drawn = [self._crop(np.random.default_rng((self.seed, step, sample))) for sample in samples]
        return TinyBatch(stack([pair for pair, _ in drawn]), [name for _, name in drawn])

    def _crop(self, generator: np.random.Generator) -> tuple[PairBatch, str]:
        index = int(generator.choice(len(self.pairs), p=self.chances))
        pair = self.pairs[index]
        place = int(generator.choice(len(pair.chances), p=pair.chances / pair.chances.sum()))
        kind = int(generator.random() < self.lite_share)
        top, left = divmod(place, pair.columns)
        name = f"{self.names[index]} at {left * WHOLE},{top * WHOLE} ({('taef2', 'lite')[kind]})"
        return cut(pair, place, kind, self.side), name

    def _make_up(self, count: int, taef2: Taef2 | None, codec: Codec) -> None:
        side = self.square * WHOLE
        for number in range(count):
            picture = made_up(MADE_UP_SEED, number, height=side, width=side)
            self._add(picture, f"made up {number}", taef2, codec)

    def _read(self, assets: Path, codec: Codec) -> None:
        photographs, taef2 = training_photographs(assets), Taef2.load(assets / "taef2")
        latents = "flux2-lite and TAEF2 (MIT)" if self.lite_share else "TAEF2 (MIT)"
        made_up_too = f"{LEAVES + FLATS} made-up pictures"
        self.source = f"latents of {latents}; photographs: {sources(photographs)}; {made_up_too}"
        for photograph in photographs:
            levels = read(photograph)
            height, width = levels.shape[1:]
            for halved in sizes(height, width, photograph.source):
                version = halve(levels) if halved else levels
                for top, left, picture in squares(version, self.square):
                    name = f"{photograph.path.name}{' halved' * halved} from {left},{top}"
                    self._add(picture, name, taef2, codec)
                    self._add(picture.flip(-1), f"{name} mirrored", taef2, codec)
        self._make_up(LEAVES, taef2, codec)
        generator = torch.Generator().manual_seed(MADE_UP_SEED)
        for number in range(FLATS):
            colour = torch.randint(256, (3 if number % 2 else 1,), generator=generator, dtype=torch.uint8)
            side = self.square * WHOLE
            self._add(colour[:, None, None].expand(3, side, side).clone(), f"flat {number}", taef2, codec)

    def _add(self, picture: UInt8[Tensor, "3 H H"], name: str, taef2: Taef2 | None, codec: Codec) -> None:
        self.pairs.append(make_pair(picture.contiguous(), taef2, codec, side=self.side, hint=self.hint))
        self.names.append(name)


def chances(pairs: Sequence[Pair], flats: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Of each pair to be drawn: by the detail in it, but of the ``flats`` last ones, of one colour, by their share."""
    weights = np.array([pair.chances.sum() for pair in pairs])
    detailed = len(pairs) - flats
    weights[:detailed] /= weights[:detailed].sum()
    weights[detailed:] = FLAT_SHARE / max(flats, 1)
    weights[:detailed] *= 1 - weights[detailed:].sum()
    return weights


def variance(parts: Sequence[Float16[Tensor, "..."]]) -> float:
    """Of all numbers of all parts together, one part at a time; 0 where there are none."""
    count = sum(part.numel() for part in parts)
    if not count:
        return 0.0
    total = squared = 0.0
    for part in parts:
        wide = part.double()
        total, squared = total + wide.sum().item(), squared + wide.square().sum().item()
    return squared / count - (total / count) ** 2


def cells(size: int) -> int:
    """Latent cells along a crop's side of ``size`` output pixels.

    Raises:
        UsageError: no crop has that size.
    """
    if size % WHOLE or not 0 < size <= SQUARE * WHOLE:
        raise UsageError(f"size={size}: expected a multiple of {WHOLE} up to {SQUARE * WHOLE}.")
    return size // WHOLE


def sizes(height: int, width: int, source: str) -> list[bool]:
    """Whether a photograph is used as it is (False), at half size (True), or both.

    Sharp pictures are used as they are, large ones at half size too.
    """
    large = min(height, width) >= LARGE
    used = [False] * (not large or source in FULL_SIZE_SOURCES) + [True] * large
    return [halved for halved in used if min(height, width) >> halved >= SQUARE * WHOLE]


def corners(length: int, side: int) -> list[int]:
    """Where squares begin along a picture's side of ``length`` pixels: as many as fit best, evenly, from end to end."""
    count = max(1, round(length / side))
    return [round((length - side) * (number / (count - 1) if count > 1 else 0.5)) for number in range(count)]


def squares(picture: UInt8[Tensor, "3 H W"], square: int) -> Iterator[tuple[int, int, UInt8[Tensor, "3 s s"]]]:
    """The squares of ``square`` cells that a picture is cut into, with their top and left."""
    side = square * WHOLE
    for top in corners(picture.shape[1], side):
        for left in corners(picture.shape[2], side):
            yield top, left, picture[:, top : top + side, left : left + side]


def count_crops(assets: Path | None, size: int, square: int = SQUARE) -> int:
    """How many crops of a square share no pixel, of all squares; reads no more of a picture than its size."""
    crops, side = (square // cells(size)) ** 2, square * WHOLE
    if assets is None:
        return MADE_UP * crops
    from PIL import Image

    found = LEAVES + FLATS
    for photograph in training_photographs(assets):
        with Image.open(photograph.path) as picture:
            width, height = (length // 16 * 16 for length in picture.size)
        for halved in sizes(height, width, photograph.source):
            rows, columns = (len(corners((length >> halved) // 16 * 16, side)) for length in (height, width))
            found += 2 * rows * columns  # mirrored ones too
    return found * crops


class Eyes:
    """Between objectives and painters: a whole latent becomes a crop, and the base picture painted of it.

    Objectives hand the noised latents on to each network; what was made of them for the first is kept for the others.

    Args:
        base: the network that all painters paint on.
        batch: of ``TinyPairs``.
        precision: that the base picture is painted in.
    """

    def __init__(self, base: BaseDecoder, batch: PairBatch, precision: Precision) -> None:
        self.base, self.batch, self.precision = base, batch, precision
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None

    def network(self, painter: nn.Module) -> Network:
        """A painter as objectives call it."""

        def velocity(x_t: Pixels, timestep: PerSample, latent: Latent, sigma: PerSample, _: Caption | None) -> Pixels:
            inside, picture = self.look(latent, sigma)
            output: Pixels = painter(x_t, timestep, inside, sigma, image=picture)
            return output

        return velocity

    def features(self, painter: nn.Module, after: tuple[int, ...]) -> Features:
        """A painter's features after some of its patch blocks, as objectives call it."""

        def seen(x_t: Pixels, timestep: PerSample, latent: Latent, sigma: PerSample, _: Caption | None) -> list[Tensor]:
            inside, picture = self.look(latent, sigma)
            output: list[Tensor] = painter(x_t, timestep, inside, sigma, image=picture, after=after)
            return output

        return seen

    @torch.no_grad()
    def look(
        self, latent: Float[Tensor, "b 128 h h"], latent_sigma: PerSample
    ) -> tuple[Float[Tensor, "b 128 s s"], Float[Tensor, "b 3 p p"]]:
        """The crop of the latents, and of their base pictures."""
        if self._seen is None or self._seen[0] is not latent:
            with torch.autocast(latent.device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
                picture = self.base(latent, latent_sigma).float()
            side = self.batch.pixels.shape[-1] // WHOLE
            inside = crop(latent, self.batch.corner, side, 1)
            self._seen = (latent, inside, crop(picture, self.batch.corner, side, WHOLE))
        return self._seen[1], self._seen[2]
