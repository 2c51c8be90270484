"""Recompute a golden set: each folder of it that has a runner here, on any device, in plain float32."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from latpix.arithmetic import exact_float32
from latpix.devices import pick_device
from latpix.doctor import goldens_backbones, goldens_network, goldens_training
from latpix.doctor.rows import GoldenRow
from latpix.errors import UsageError

RUNNERS: dict[str, Callable[[Path, torch.device | str], Iterator[GoldenRow]]] = {
    "network": goldens_network.run,
    "backbones": goldens_backbones.run,
    "training": goldens_training.run,
}


def recompute(folder: str | Path, device: str = "auto") -> Iterator[GoldenRow]:
    """A row per case; what is absent or has no runner is skipped with a line on stderr.

    Raises:
        UsageError: there is no such folder, or no folder in it that is known.
        OptionError: no such device.
    """
    folder, where = Path(folder), pick_device(device)
    if not folder.is_dir():
        raise UsageError(f'the golden folder "{folder}" does not exist; check the path.')
    found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not RUNNERS.keys() & set(found):
        raise UsageError(f'"{folder}" holds no golden set; expected a folder {" or ".join(RUNNERS)} in it.')
    for name in found:
        if name not in RUNNERS:
            print(f"skipped {folder / name}: nothing recomputes it", file=sys.stderr)
    for name, run in RUNNERS.items():
        if name not in found:
            print(f"skipped {name}: not in {folder}", file=sys.stderr)
            continue
        with exact_float32():
            yield from run(folder / name, where)
