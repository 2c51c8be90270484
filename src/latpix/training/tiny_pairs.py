"""What the recipes of flux2-tiny learn from: crops of pairs (training/pairs.py), drawn by sample number.

The network paints on a picture that its base decoder makes of the very latent it is given. A base picture looks around,
so latents travel with ``MARGIN`` cells around the crop until they reach the network.
Letters: b batch, s cells of a crop, m with its margin, p output pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from latpix.backbones.codec import Codec
from latpix.backbones.taef2 import Taef2
from latpix.data.made_up import made_up
from latpix.errors import UsageError
from latpix.network.base_decoder import BaseDecoder
from latpix.training.given import Caption, Features, Latent, Network, PerSample, Pixels
from latpix.training.painter import Precision
from latpix.training.pairs import CELL, LEAST_CELLS, MARGIN, SCALE, Pair, PairBatch, cut, make_pair, stack
from latpix.training.photographs import LARGE, halve, read, sources, training_photographs

MADE_UP, MADE_UP_SEED = 6, 0  # pictures, where there are no photographs
FULL_SIZE_SOURCES = ("cid22", "clic2025")  # the packages' pictures are soft at full size: half size only
LITE_SHARE = 0.3  # of crops are read from flux2-lite's latents, the others from TAEF2's, which stand for FLUX.2's own
WHOLE = SCALE * CELL  # output pixels per side of a latent cell


@dataclass(frozen=True)
class TinyBatch:
    """Crops, and where they are from."""

    pairs: PairBatch
    names: list[str]


class TinyPairs:
    """Pairs in memory; sample ``number`` of a step is a function of (seed, step, number) alone.

    Args:
        assets: folder with photos/ and taef2/ (and packages/ with the unpacked Debian packages); None: made-up
            pictures, whose latents are all flux2-lite's.
        codec: flux2-lite.
        size: side of a crop in output pixels.
        seed: of the run.
        hints: whether crops bring the features of TAEF2's decoder.
    """

    def __init__(self, assets: Path | None, codec: Codec, *, size: int, seed: int, hints: bool = False) -> None:
        self.side, self.seed, self.hints = cells(size), seed, hints
        self.pairs: list[Pair] = []
        self.names: list[str] = []
        if assets is None:
            self.source = "made-up pictures"
            self._make_up(codec)
        else:
            self._read(assets, codec)
        weights = np.array([pair.chances.sum() for pair in self.pairs])
        self.chances = weights / weights.sum()

    def draw(self, step: int, samples: Sequence[int]) -> TinyBatch:
        """Crops of these samples of a step, each of TAEF2's latent or of flux2-lite's."""
        drawn = [self._crop(np.random.default_rng((self.seed, step, sample))) for sample in samples]
        return TinyBatch(stack([tensors for tensors, _ in drawn]), [name for _, name in drawn])

    def _crop(self, generator: np.random.Generator) -> tuple[tuple[Tensor, ...], str]:
        index = int(generator.choice(len(self.pairs), p=self.chances))
        pair = self.pairs[index]
        place = int(generator.choice(len(pair.chances), p=pair.chances / pair.chances.sum()))
        kind = int(generator.random() < LITE_SHARE)
        top, left = divmod(place, pair.columns)
        tensors = cut(pair, place, kind, self.side)
        return tensors, f"{self.names[index]} at {left * WHOLE},{top * WHOLE} ({('taef2', 'lite')[kind]})"

    def _make_up(self, codec: Codec) -> None:
        for number in range(MADE_UP):
            picture = made_up(MADE_UP_SEED, number, height=LEAST_CELLS * WHOLE, width=LEAST_CELLS * WHOLE)
            self._add(make_pair(picture, None, codec, side=self.side), f"made up {number}")

    def _read(self, assets: Path, codec: Codec) -> None:
        photographs = training_photographs(assets)
        self.source = f"photographs: {sources(photographs)}"
        taef2 = Taef2.load(assets / "taef2")
        for photograph in photographs:
            levels = read(photograph)
            for rows, columns, halved in versions(levels.shape[1], levels.shape[2], photograph.source):
                version = halve(levels) if halved else levels
                trimmed = version[:, : rows * WHOLE, : columns * WHOLE]
                name = f"{photograph.path.name}{' halved' if halved else ''}"
                for variant, its_name in ((trimmed, name), (trimmed.flip(-1), f"{name} mirrored")):
                    pair = make_pair(variant.contiguous(), taef2, codec, side=self.side, hints=self.hints)
                    self._add(pair, its_name)

    def _add(self, pair: Pair, name: str) -> None:
        self.pairs.append(pair)
        self.names.append(name)


def cells(size: int) -> int:
    """Latent cells along a crop's side of ``size`` output pixels.

    Raises:
        UsageError: no crop has that size.
    """
    if size % WHOLE or not 0 < size <= LEAST_CELLS * WHOLE:
        raise UsageError(f"size={size}: expected a multiple of {WHOLE} up to {LEAST_CELLS * WHOLE}.")
    return size // WHOLE


def versions(height: int, width: int, source: str) -> list[tuple[int, int, bool]]:
    """The sizes in which a photograph is used, in whole latent cells: rows, columns, and whether it is halved.

    Sharp pictures are used as they are, large ones at half size too.
    """
    large = min(height, width) >= LARGE
    used = [(height, width, False)] * (not large or source in FULL_SIZE_SOURCES) + [
        (height // 2, width // 2, True)
    ] * large
    whole = [(high // WHOLE, wide // WHOLE, halved) for high, wide, halved in used]
    return [version for version in whole if min(version[:2]) >= LEAST_CELLS]


def count_crops(assets: Path | None, size: int) -> int:
    """How many crops there are that share no pixel, mirrored ones too; reads no more of a picture than its size."""
    side = cells(size)
    if assets is None:
        return MADE_UP * (LEAST_CELLS // side) ** 2
    from PIL import Image

    total = 0
    for photograph in training_photographs(assets):
        with Image.open(photograph.path) as picture:
            width, height = picture.size
        found = versions(height, width, photograph.source)
        total += sum(2 * (rows // side) * (columns // side) for rows, columns, _ in found)
    return total


class Eyes:
    """Between objectives and painters: latents with margins become a crop, and the base picture painted of it.

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
            crop, picture = self.look(latent, sigma)
            output: Pixels = painter(x_t, timestep, crop, sigma, image=picture)
            return output

        return velocity

    def features(self, painter: nn.Module, after: tuple[int, ...]) -> Features:
        """A painter's features after some of its patch blocks, as objectives call it."""

        def seen(x_t: Pixels, timestep: PerSample, latent: Latent, sigma: PerSample, _: Caption | None) -> list[Tensor]:
            crop, picture = self.look(latent, sigma)
            output: list[Tensor] = painter(x_t, timestep, crop, sigma, image=picture, after=after)
            return output

        return seen

    @torch.no_grad()
    def look(
        self, latent: Float[Tensor, "b 128 m m"], latent_sigma: PerSample
    ) -> tuple[Float[Tensor, "b 128 s s"], Float[Tensor, "b 3 p p"]]:
        """The crop of the latents, and its base picture."""
        if self._seen is None or self._seen[0] is not latent:
            seen = noised_overviews(self.batch.seen.to(latent.device), latent_sigma)
            with torch.autocast(latent.device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
                picture = self.base(latent, latent_sigma, seen).float()
            edge = MARGIN * WHOLE
            crop = latent[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
            self._seen = (latent, crop, picture[..., edge:-edge, edge:-edge])
        return self._seen[1], self._seen[2]


def noised_overviews(seen: Float[Tensor, "b 64"], latent_sigma: PerSample) -> Float[Tensor, "b 64"]:
    """The overviews of whole latents after noising: means shrink, variances are joined by the noise's."""
    mean, deviation = seen.chunk(2, dim=1)
    s = latent_sigma[:, None]
    return torch.cat([(1 - s) * mean, (((1 - s) * deviation).square() + s * s).sqrt()], dim=1)
