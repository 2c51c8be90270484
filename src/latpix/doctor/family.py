"""One family of backbone goldens: its files, its groups of tensors, and how far a result is off.

A family is a ``.safetensors`` with a ``.json`` of the same name for what is not a tensor.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from latpix.doctor.rows import error_in_tolerances
from latpix.latents.spaces import LATENT_SPACES, LatentSpace

SPACES = {"flux": "flux1", "qwenimage": "qwen"}  # the goldens' words, where ours differ

Tensors = dict[str, Tensor]
Case = tuple[str, float]  # its name within the family; its error in units of its tolerance


@dataclass(frozen=True)
class Golden:
    """The files of one family."""

    folder: Path
    name: str
    description: dict[str, Any]
    tensors: Tensors

    def groups(self) -> dict[str, Tensors]:
        """Tensors by the first part of their names; those without a second part are nobody's."""
        found: dict[str, Tensors] = {}
        for name, tensor in sorted(self.tensors.items()):
            group, dot, rest = name.partition(".")
            if dot:
                found.setdefault(group, {})[rest] = tensor
        return found

    def spaces(self) -> Iterator[tuple[str, LatentSpace, Tensors]]:
        """The groups that are latent spaces of ours; others get a line on stderr."""
        for group, tensors in self.groups().items():
            space = LATENT_SPACES.get(SPACES.get(group, group))
            if space is None:
                skip(self.folder / f"{self.name}: {group}", "a latent space that is not known here")
            else:
                yield group, space, tensors


def skip(what: Path, why: str) -> None:
    """Say what is not recomputed."""
    print(f"skipped {what}: {why}", file=sys.stderr)


def close(actual: Tensor, expected: Tensor, tolerance: float) -> float:
    """The error where arithmetic may round differently."""
    return error_in_tolerances(actual, expected, atol=tolerance, rtol=tolerance)


def exact(actual: Tensor, expected: Tensor) -> float:
    """The error where values only move."""
    return error_in_tolerances(actual, expected, atol=0)
