"""Peak memory of a decode over its weights, alone on its device.

An accelerator's allocator tells. On a CPU the decode runs in a process of its own, and counts what its resident memory
grows by: from the moment when the weights are there and the libraries that a decode needs are loaded, to its highest.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from latpix.benchmark.cases import Case, Given, decoder_of, inputs_of
from latpix.checkpoints.load import peak_resident_bytes
from latpix.decoder import Decoder
from latpix.errors import BenchmarkError

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Peak:
    """Bytes."""

    over_weights: int
    weights: int
    process: int | None  # on a CPU everything: interpreter, libraries, weights and the decode


def measure_peak(case: Case, device: torch.device, dtype: str) -> Peak:
    """One decode of the case.

    Raises:
        BenchmarkError: its process was ended, as happens where memory runs out.
    """
    if device.type != "cpu":
        return _on_accelerator(case, device, dtype)
    context = multiprocessing.get_context("spawn")  # a fork would begin with this process's memory
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_on_cpu, case, dtype).result()
        except BrokenProcessPool:
            raise BenchmarkError(
                f"{case.name} in {dtype}: the process that measures its memory was ended, most likely for want of "
                "memory. Leave the case out (--case names those to run), or free some memory."
            ) from None


def _on_cpu(case: Case, dtype: str) -> Peak:
    device = torch.device("cpu")
    decoder, given = decoder_of(case, device, dtype), inputs_of(case, device)
    for parameter in decoder.network.parameters():
        parameter.sum()  # a page of a mapped file is there once it has been read
    _load_libraries(decoder)
    if RESET.exists():
        RESET.write_text("5")  # the highest so far is forgotten: the first page of proc(5), clear_refs
    before = _resident()
    _decode(case, decoder, given, before)
    peak = peak_resident_bytes()
    return Peak(peak - before, _weights(decoder), peak)


def _load_libraries(decoder: Decoder) -> None:
    """Multiply once in the decoder's type: code of libraries is read from their files when it first runs."""
    a = torch.ones(1, 1, 64, 64, dtype=decoder.dtype)
    F.scaled_dot_product_attention(a @ a, a, a)
    F.conv2d(a, a[..., :2, :2])


def _on_accelerator(case: Case, device: torch.device, dtype: str) -> Peak:
    decoder, given = decoder_of(case, device, dtype), inputs_of(case, device)
    torch.accelerator.synchronize(device)
    torch.accelerator.empty_cache()
    torch.accelerator.reset_peak_memory_stats(device)
    before = torch.accelerator.memory_allocated(device)
    _decode(case, decoder, given, before)
    torch.accelerator.synchronize(device)
    return Peak(torch.accelerator.max_memory_allocated(device) - before, _weights(decoder), None)


def _decode(case: Case, decoder: Decoder, given: Given, before: int) -> None:
    limit = None if case.room is None else before + case.room
    decoder.decode(given.latent, caption=given.caption, seed=0, steps=case.steps, tile="off", memory_limit=limit)


def _weights(decoder: Decoder) -> int:
    return sum(p.numel() * p.element_size() for p in decoder.network.parameters())


def _resident() -> int:
    """Resident memory now; where nobody tells, at its highest so far."""
    if STATUS.is_file():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return peak_resident_bytes()
