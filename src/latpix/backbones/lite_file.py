"""The file that holds flux2-lite's weights: safetensors, both halves, float16, with a checkpoint file's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from latpix.backbones.lite import Lite, channels_last
from latpix.errors import CheckpointError
from latpix.files.atomic import writing
from latpix.files.digest import digest

FORMAT = "latpix-checkpoint-1"
NAME = "flux2-lite"


def save_lite(model: Lite, path: Path, *, source: str, license: str) -> str:
    """Write the model in float16, replacing what is there; gives back the tensors' sha256."""
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    sha256 = digest(tensors)
    metadata = {
        "format": FORMAT,
        "config": json.dumps({"codec": NAME}),
        "space": "flux2",
        "scale": "1",
        "sha256": sha256,
        "license": license,
        "source": source,
    }
    with writing(path, overwrite=True) as part:
        save_file(tensors, part, metadata=metadata)
    return sha256


def load_lite(path: Path) -> tuple[Lite, str]:
    """Read a codec file, strictly; the model in float32, frozen, and the sha256 of its tensors.

    Raises:
        CheckpointError: there is no such file, it is no codec file, or it holds other tensors than its digest says.
    """
    if not path.is_file():
        raise CheckpointError(f'no codec file "{path}"; the shipped one is called "{NAME}"')
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f'"{path}" is no safetensors file: {error}') from error
    model = Lite()
    _check_shapes(path, tensors, model.state_dict())
    sha256 = digest(tensors)
    if metadata.get("sha256", sha256) != sha256:
        raise CheckpointError(
            f'"{path}" is damaged: its tensors have sha256 {sha256}, not {metadata["sha256"]} as it says'
        )
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    channels_last(model)
    return model.requires_grad_(False), sha256


def _check_shapes(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    missing, strange = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or strange:
        raise CheckpointError(f'"{path}" is no {NAME} codec: missing {missing or "none"}, strange {strange or "none"}')
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(f'"{path}": {name} is {list(tensor.shape)}, expected {list(expected[name].shape)}')
