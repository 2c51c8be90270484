"""The description inside a checkpoint file of ours: its whole row, so that reading it needs no registry.

format "latpix-checkpoint-1" | config (JSON) | space | scale | sha256 of the tensors | license | source
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from latpix.checkpoints.registry import Checkpoint, SamplingDefaults
from latpix.errors import CheckpointError
from latpix.network.config import NetworkConfig
from latpix.sampling.schedules import DynamicShift

FORMAT = "latpix-checkpoint-1"
_FAMILY = "latpix-"  # formats of ours begin so
_OUTSIDE = ("space", "license")  # fields that have a place of their own


def describe(row: Checkpoint, *, sha256: str, source: str) -> dict[str, str]:
    """The metadata of a file."""
    config = {name: value for name, value in asdict(row).items() if name not in _OUTSIDE}
    return {
        "format": FORMAT,
        "config": json.dumps(config),
        "space": row.space,
        "scale": str(row.scale),
        "sha256": sha256,
        "license": row.license,
        "source": source,
    }


def described_row(metadata: Mapping[str, str], path: Path) -> Checkpoint | None:
    """The row that a file describes; None for a file that is not of our format.

    Args:
        metadata: of a safetensors file.
        path: for the message.

    Raises:
        CheckpointError: another format of ours, or a description that cannot be read.
    """
    given = metadata.get("format", "")
    if given != FORMAT and given.startswith(_FAMILY):
        raise CheckpointError(
            f'"{path}" is a file of format "{given}", but a checkpoint has "{FORMAT}". '
            "Give a checkpoint, or update latpix if the file is newer than it."
        )
    if given != FORMAT:
        return None
    try:
        config = json.loads(metadata["config"])
        row = None if "codec" in config else _row(config, metadata)
        assert row is None or row.shapes  # it can be built
    except Exception as error:  # whatever a damaged description does on its way to a network
        raise CheckpointError(
            f'"{path}" says that it is a latpix checkpoint, but its description cannot be read: '
            f"{type(error).__name__} {error}. It is damaged, or of another version of "
            "latpix; convert the original again, or take the file that came with this version."
        ) from error
    if row is None:
        raise CheckpointError(f'"{path}" holds the codec "{config["codec"]}", not a decoder; `Codec.load` reads it.')
    return row


def _row(config: dict[str, Any], metadata: Mapping[str, str]) -> Checkpoint:
    """JSON knows lists where rows have tuples, and no classes."""
    sampling = {**config["sampling"], "times": _tuple(config["sampling"]["times"])}
    shift = sampling["dynamic_shift"]
    sampling["dynamic_shift"] = None if shift is None else DynamicShift(**shift)
    network: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in config["network"].items()
    }
    rest = {
        "native_sizes": _tuple(config["native_sizes"]),
        "network": NetworkConfig(**network),
        "sampling": SamplingDefaults(**sampling),
    }
    return Checkpoint(**{**config, **rest, **{name: metadata[name] for name in _OUTSIDE}})


def _tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)
