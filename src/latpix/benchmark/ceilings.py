"""What the device can do at most, measured in the same run: its matrix products and its memory."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from latpix.benchmark.clock import Clock
from latpix.devices import cpu_has_bfloat16

REPEATS = 5
# Dense bfloat16 with float32 accumulation, operations per second, as datasheets say.
DATASHEET = {
    "H200": 989e12,
    "H100": 989e12,
    "GB200": 2500e12,
    "B200": 2250e12,
    "A100": 312e12,
    "RTX 5090": 209.5e12,
    "RTX 4090": 165.2e12,
}


@dataclass(frozen=True)
class Ceilings:
    """Of one device, as this run found them."""

    matmul: dict[str, float]  # operations per second, by type
    bandwidth: float  # bytes per second of a copy, those read and those written
    datasheet: float | None  # operations per second; None where the table does not know the device


def measure_ceilings(device: torch.device, dtypes: set[str]) -> Ceilings:
    """The best of a few tries each; on a CPU with as many threads as torch has now."""
    clock, on_cpu = Clock(device), device.type == "cpu"
    side = 2048 if on_cpu else 8192
    matmul = {dtype: 2 * side**3 / _product(clock, side, getattr(torch, dtype)) for dtype in sorted(dtypes)}
    source = torch.ones(2**25 if on_cpu else 2**28, device=device)
    target = torch.empty_like(source)
    copied = 2 * source.numel() * source.element_size()
    name = device_name(device)
    return Ceilings(
        matmul=matmul,
        bandwidth=copied / _best(clock, lambda: target.copy_(source)),
        datasheet=next((rate for part, rate in DATASHEET.items() if part in name), None),
    )


def _product(clock: Clock, side: int, dtype: torch.dtype) -> float:
    a, b = (torch.randn(side, side, device=clock.device).to(dtype) for _ in range(2))
    return _best(clock, lambda: torch.mm(a, b))


def _best(clock: Clock, work: Callable[[], object]) -> float:
    """Seconds of the quickest try, the first one apart."""
    work()
    seconds = []
    for _ in range(REPEATS):
        start = clock.now()
        work()
        end = clock.now()
        clock.wait()
        seconds.append(clock.between(start, end))
    return min(seconds)


def device_name(device: torch.device) -> str:
    """The device's class: what figures of two machines must share to be compared."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type == "xpu":
        return str(torch.xpu.get_device_name(device))
    if device.type != "cpu":
        return device.type
    return f"{_cpu_model()}, {'bfloat16' if cpu_has_bfloat16() else 'no bfloat16'} units"


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    import platform

    return platform.processor() or platform.machine()
