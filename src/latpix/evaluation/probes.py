"""What a fidelity table does not tell: is it a diffusion decoder, is it clean on flat areas, what does it cost?

    seeds   decodes of one latent with several seeds: do they differ where there is texture, and only there?
    flat    decode of a flat grey picture's latent: what grain is left?
    cost    seconds and peak memory of 512x512 -> 2048x2048, in a fresh process

Letters: h w latent cells.
"""

import multiprocessing
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from jaxtyping import Float
from torch import Tensor

from latpix.backbones.taef2 import Taef2
from latpix.decoder import Decoder
from latpix.evaluation.metrics.grain import grain
from latpix.evaluation.metrics.seed_spread import SeedSpread, seed_spread
from latpix.evaluation.pictures import plain_upscale, rounded

FLAT_CELLS = 8  # a side, of the flat picture
BORDER = 128  # output pixels, within which the codec's convolutions see the picture's border
LARGE_CELLS = 32  # 512 pixels


@dataclass(frozen=True)
class Grain:
    """Of the decode of a flat grey latent, in levels of 255: ours, and of the codec's decode + Lanczos."""

    ours: float
    codec: float


@dataclass(frozen=True)
class Cost:
    """Of one decode; the memory is the process's peak."""

    seconds: float
    peak_bytes: int
    threads: int
    dtype: str


def probe_seeds(decoder: Decoder, latents: Sequence[Float[Tensor, "1 c h w"]], *, seeds: int = 3) -> SeedSpread:
    """Mean over some latents of how much ``seeds`` seeds differ."""
    spreads = []
    for latent in latents:
        decodes = torch.cat([decoder.decode(latent, seed=seed) for seed in range(seeds)])
        spreads.append(seed_spread(decodes, decodes.mean(0, keepdim=True)))
    return SeedSpread(*(mean(part) for part in zip(*spreads, strict=True)))


def probe_flat(decoder: Decoder, taef2: Taef2, *, steps: int | None = None) -> Grain:
    """Grain on the latent of a flat grey picture."""
    flat = torch.zeros(1, 3, 16 * FLAT_CELLS, 16 * FLAT_CELLS)
    with torch.inference_mode():
        latent = taef2.encode(flat)
        plain = plain_upscale(taef2.decode(latent))
    ours = rounded(decoder.decode(latent, steps=steps))
    return Grain(grain(ours, border=BORDER).item(), grain(plain, border=BORDER).item())


def probe_cost(checkpoint: str, *, device: str, like: str | None) -> Cost:
    """What a decode of 512x512 costs, loading aside, in a process that does nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_decode_large, checkpoint, device, like, torch.get_num_threads()).result()


def _decode_large(checkpoint: str, device: str, like: str | None, threads: int) -> Cost:
    torch.set_num_threads(threads)
    decoder = Decoder.load(Path(checkpoint) if Path(checkpoint).suffix else checkpoint, device=device, like=like)
    latent = 0.85 * torch.randn(1, decoder.space.channels, LARGE_CELLS, LARGE_CELLS)
    decoder.decode(latent[..., :8, :8])  # libraries allocate and choose their kernels on first use
    start = time.perf_counter()
    decoder.decode(latent).cpu()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if decoder.device.type == "cuda":
        peak = torch.cuda.max_memory_reserved()
    return Cost(seconds=seconds, peak_bytes=peak, threads=threads, dtype=str(decoder.dtype).removeprefix("torch."))
