"""Recompute training goldens, through the functions that recipes call.

Each family is a ``.safetensors``; its cases, rates and step counts come from the names of its tensors. Documentary are
the guessing image normaliser (``norm.*``), representation alignment (``repa.*``), ``lr.decay``, truncation to uint8 and
the blur kernels of augmentations that no recipe uses.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from latpix.doctor import goldens_data, goldens_distillation, goldens_objectives, goldens_steps
from latpix.doctor.family import Case, Golden, skip
from latpix.doctor.rows import GoldenRow

DOCUMENTARY = ("legacy_blur_kernels",)  # no code of ours has to reproduce these


def run(folder: Path, device: torch.device | str = "cpu") -> Iterator[GoldenRow]:
    """A row per case found in ``folder``; families that are absent or unknown are skipped with a line on stderr."""
    paths = [path for path in sorted(folder.glob("*.safetensors")) if path.stem not in DOCUMENTARY]
    if not paths:
        print(f"no training goldens in {folder}", file=sys.stderr)
    for path in paths:
        if path.stem not in RUNNERS:
            skip(path, "no golden of a known family")
            continue
        golden = Golden(folder, path.stem, {}, load_file(path, device=str(device)))
        for case, error in RUNNERS[path.stem](golden):
            yield GoldenRow.of(f"training/{path.stem}.{case}", "training", error)


RUNNERS: dict[str, Callable[[Golden], Iterator[Case]]] = {
    "flow_matching": goldens_objectives.run_flow_matching,
    "latent_noising": goldens_objectives.run_latent_noising,
    "lq_and_aux_losses": goldens_objectives.run_native_and_rgb,
    "ema_lr": goldens_objectives.run_average_and_warm_up,
    "teacher_step": goldens_steps.run_teacher_step,
    "dmd_losses": goldens_distillation.run_losses,
    "discriminator": goldens_distillation.run_discriminator,
    "distill_steps": goldens_steps.run_distill_steps,
    "data_and_metrics": goldens_data.run,
}
