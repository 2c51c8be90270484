"""What the two recipes of flux2-tiny learn from: crops of pairs (training/pairs.py), drawn by sample number.

The network paints on flux2-lite's decode of the very latent it is given, so a noised latent is decoded anew. A decode
looks around, so latents travel with ``MARGIN`` cells around the crop until they reach the network.
Letters: b batch, s cells of a crop, m with its margin, n native pixels, p output pixels.
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
from latpix.training.given import Caption, Features, Latent, Network, PerSample, Pixels
from latpix.training.pairs import CELL, LEAST_CELLS, MARGIN, SCALE, Pair, PairBatch, cut, make_pair, reduce
from latpix.training.photographs import LARGE, halve, read, sources, to_pixels, training_photographs

MADE_UP, MADE_UP_SEED = 6, 0  # pictures, where there are no photographs
FULL_SIZE_SOURCES = ("cid22", "clic2025")  # the packages' pictures are soft at full size: half size only
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
    """

    def __init__(self, assets: Path | None, codec: Codec, *, size: int, seed: int) -> None:
        if size % WHOLE or size > LEAST_CELLS * WHOLE:
            raise UsageError(f"size={size}: expected a multiple of {WHOLE} up to {LEAST_CELLS * WHOLE}.")
        self.side, self.seed = size // WHOLE, seed
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
        columns = list(zip(*(tensors for tensors, _ in drawn), strict=True))
        return TinyBatch(PairBatch(*(torch.stack(column) for column in columns)), [name for _, name in drawn])

    def _crop(self, generator: np.random.Generator) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], str]:
        index = int(generator.choice(len(self.pairs), p=self.chances))
        pair = self.pairs[index]
        place = int(generator.choice(len(pair.chances), p=pair.chances / pair.chances.sum()))
        kind = int(generator.integers(2))
        top, left = divmod(place, pair.columns)
        tensors = cut(pair, place, kind, self.side)
        return tensors, f"{self.names[index]} at {left * WHOLE},{top * WHOLE} ({('taef2', 'lite')[kind]})"

    def _make_up(self, codec: Codec) -> None:
        for number in range(MADE_UP):
            picture = made_up(MADE_UP_SEED, number, height=LEAST_CELLS * WHOLE, width=LEAST_CELLS * WHOLE)
            latent = codec.encode(reduce(to_pixels(picture)[None]))
            latents, base = torch.cat([latent, latent]), codec.decode(latent).half()
            places = (LEAST_CELLS - self.side + 1) ** 2
            columns = LEAST_CELLS - self.side + 1
            pair = Pair(picture, latents.half(), torch.cat([base, base]), np.ones(places), columns)
            self._add(pair, f"made up {number}")

    def _read(self, assets: Path, codec: Codec) -> None:
        packages = assets / "packages"
        photographs = training_photographs(assets, packages if packages.is_dir() else None)
        self.source = f"photographs: {sources(photographs)}"
        taef2 = Taef2.load(assets / "taef2")
        for photograph in photographs:
            levels = read(photograph)
            for rows, columns, halved in versions(levels.shape[1], levels.shape[2], photograph.source):
                version = halve(levels) if halved else levels
                trimmed = version[:, : rows * WHOLE, : columns * WHOLE]
                name = f"{photograph.path.name}{' halved' if halved else ''}"
                self._add(make_pair(trimmed.contiguous(), taef2, codec, side=self.side), name)
                mirrored = trimmed.flip(-1).contiguous()
                self._add(make_pair(mirrored, taef2, codec, side=self.side), f"{name} mirrored")

    def _add(self, pair: Pair, name: str) -> None:
        self.pairs.append(pair)
        self.names.append(name)


def versions(height: int, width: int, source: str) -> list[tuple[int, int, bool]]:
    """The sizes in which a photograph is used, in whole latent cells: rows, columns, and whether it is halved.

    Sharp pictures are used as they are, large ones at half size too.
    """
    large = min(height, width) >= LARGE
    used = [(height, width, False)] * (not large or source in FULL_SIZE_SOURCES) + [
        (height // 2, width // 2, True)
    ] * large
    cells = [(high // WHOLE, wide // WHOLE, halved) for high, wide, halved in used]
    return [version for version in cells if min(version[:2]) >= LEAST_CELLS]


def count_crops(assets: Path | None, size: int) -> int:
    """How many crops there are that share no pixel, mirrored ones too; reads no more of a picture than its size."""
    side = size // WHOLE
    if assets is None:
        return MADE_UP * (LEAST_CELLS // side) ** 2
    from PIL import Image

    packages, total = assets / "packages", 0
    for photograph in training_photographs(assets, packages if packages.is_dir() else None):
        with Image.open(photograph.path) as picture:
            width, height = picture.size
        found = versions(height, width, photograph.source)
        total += sum(2 * (rows // side) * (columns // side) for rows, columns, _ in found)
    return total


class Eyes:
    """Between objectives and painters: latents with margins become a crop and the base picture decoded of it.

    Objectives hand the noised latents on to each network; what was made of them for the first is kept for the others.
    """

    def __init__(self, codec: Codec, batch: PairBatch) -> None:
        self.codec, self.batch = codec, batch
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None

    def network(self, painter: nn.Module) -> Network:
        """A painter as objectives call it."""

        def velocity(x_t: Pixels, timestep: PerSample, latent: Latent, sigma: PerSample, _: Caption | None) -> Pixels:
            crop, base = self.look(latent, sigma)
            output: Pixels = painter(x_t, timestep, crop, sigma, image=base)
            return output

        return velocity

    def features(self, painter: nn.Module, after: tuple[int, ...]) -> Features:
        """A painter's features after some of its patch blocks, as objectives call it."""

        def seen(x_t: Pixels, timestep: PerSample, latent: Latent, sigma: PerSample, _: Caption | None) -> list[Tensor]:
            crop, base = self.look(latent, sigma)
            output: list[Tensor] = painter(x_t, timestep, crop, sigma, image=base, after=after)
            return output

        return seen

    def look(
        self, latent: Float[Tensor, "b 128 m m"], latent_sigma: PerSample
    ) -> tuple[Float[Tensor, "b 128 s s"], Float[Tensor, "b 3 n n"]]:
        """The crop of the latents, and its base picture."""
        if self._seen is None or self._seen[0] is not latent:
            base, edge = self.batch.base.to(latent.device), MARGIN * CELL
            noisy = latent_sigma > 0
            if bool(noisy.any()):
                seen = noised_overviews(self.batch.seen.to(latent.device)[noisy], latent_sigma[noisy])
                decoded = self.codec.decode(latent[noisy], seen=seen).to(latent.device)
                base = base.clone()
                base[noisy] = decoded[..., edge:-edge, edge:-edge]
            self._seen = (latent, latent[..., MARGIN:-MARGIN, MARGIN:-MARGIN], base)
        return self._seen[1], self._seen[2]


def noised_overviews(seen: Float[Tensor, "b 64"], latent_sigma: PerSample) -> Float[Tensor, "b 64"]:
    """The overviews of whole latents after noising: means shrink, variances are joined by the noise's."""
    mean, deviation = seen.chunk(2, dim=1)
    s = latent_sigma[:, None]
    return torch.cat([(1 - s) * mean, (((1 - s) * deviation).square() + s * s).sqrt()], dim=1)
