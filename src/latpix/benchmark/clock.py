"""Clocks of devices, and the time between stages of a run.

A CPU's clock is the process's own time, which other work on the machine hardly moves; it is meant for one thread. An
accelerator's is its events, which do not make it wait.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from latpix.benchmark.traffic import Traffic
from latpix.network.config import NetworkConfig
from latpix.network.model import Denoiser

# Parts of a decode, by the part of the network that computes them. The last patch block may do less than the others.
STAGES = ("base", "latent", "heads", "gates", "patch", "last patch", "pixel", "rest")
Stamp = Any  # a moment: seconds, or an event of the device


class Clock:
    """Tells moments and the seconds between them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> Stamp:
        if self.device.type != "cuda":
            self.wait()
            return time.process_time() if self.device.type == "cpu" else time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def between(self, start: Stamp, end: Stamp) -> float:
        """Seconds; call ``wait`` first."""
        return float(start.elapsed_time(end)) / 1000 if isinstance(start, torch.cuda.Event) else float(end - start)


Meter = Clock | Traffic  # what laps are taken with: seconds, or bytes


class Laps:
    """How much each stage of one run took: whoever finishes a stage says so."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.stamps = [meter.now()]
        self.stages: list[str] = []

    def done(self, stage: str) -> None:
        """What was computed since the last call was ``stage``."""
        self.stages.append(stage)
        self.stamps.append(self.meter.now())

    def seeing(self, config: NetworkConfig) -> Callable[[str, Tensor], None]:
        """For the plain implementation: what it shows, as ends of stages."""
        ends = {"tokens": "latent", "features": "heads", "patch_block": "patch", "pixel_block": "pixel"}
        ends |= {f"patch_block.{config.depth - 1}": "last patch"}
        ends |= {f"patch_block.{i}.in": "gates" for i in range(0, config.depth, config.gate_interval)}
        ends |= {f"patch_block.{i}.in": "rest" for i in range(config.depth) if i % config.gate_interval}
        ends |= {"condition": "gates"} if config.pixel_gate else {}
        return lambda name, _value: self.done(ends.get(name, ends.get(name.split(".")[0], "rest")))

    def by_stage(self) -> dict[str, float]:
        """Seconds, or bytes; call the meter's ``wait`` first."""
        found = dict.fromkeys(STAGES, 0.0)
        for stage, (start, end) in zip(self.stages, pairwise(self.stamps), strict=True):
            found[stage] += self.meter.between(start, end)
        return found


@contextmanager
def watching(network: Denoiser, laps: Laps) -> Iterator[None]:
    """Inside, the network's modules tell ``laps`` of their stages. What lies between two of a stage belongs to it."""

    def before(stage: str) -> Any:
        return lambda *_: None if laps.stages[-1:] == [stage] else laps.done("rest")

    def after(stage: str) -> Any:
        return lambda *_: laps.done(stage)

    handles = []
    for stage, modules in _modules(network).items():
        for module in modules:
            handles += [module.register_forward_pre_hook(before(stage)), module.register_forward_hook(after(stage))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _modules(network: Denoiser) -> dict[str, list[nn.Module]]:
    """The modules of each stage; none lies in another."""
    *patch, last = network.patch_blocks
    found: dict[str, list[nn.Module]] = {"patch": patch, "last patch": [last], "pixel": [*network.pixel_blocks]}
    if network.config.latent_channels:
        pixel_gate = network.pixel_gate
        found["gates"] = [*network.gates, *([] if pixel_gate is None else [pixel_gate])]
        for name, module in network.latent_projection.named_children():
            stage = "heads" if name.endswith("head") or name == "heads" else "latent"
            found.setdefault(stage, []).extend(module if isinstance(module, nn.ModuleList) else [module])
    if network.base_decoder is not None:
        found["base"] = []
        for module in network.base_decoder.children():
            found["base"].extend(module if isinstance(module, nn.ModuleList) else [module])
    return found
