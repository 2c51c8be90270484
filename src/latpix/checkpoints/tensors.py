"""Tensors of a weight file: memory-mapped, by our names, with nothing executed.

A quantized layer is two of them: ``<layer>.weight``, codes of eight bits, and ``<layer>.weight_scale``, float32, one
for each row;  weight = codes * scale.
"""

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latpix.checkpoints.convert import to_ours
from latpix.errors import CheckpointError
from latpix.files.inputs import check_input

SCALE = ".weight_scale"
CODES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}  # of quantized weights
SUFFIXES = (".safetensors", ".pth", ".pt")
_ZIP, _OLD_PICKLE = b"PK", b"\x80"  # how torch's files begin, since 1.6 and before


@dataclass(frozen=True)
class WeightFile:
    """What a file holds."""

    path: Path
    state: dict[str, Tensor]  # by our names, still on disk
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the parameters that the tensors stand for: the scales of quantized layers are none."""
        scales = {layer + SCALE for layer in self.quantized}
        return {name: tuple(tensor.shape) for name, tensor in self.state.items() if name not in scales}

    @property
    def quantized(self) -> list[str]:
        """The layers whose weights are codes."""
        layers = [name.removesuffix(SCALE) for name in self.state if name.endswith(SCALE)]
        return [layer for layer in layers if self._are_codes(layer)]

    @property
    def kinds(self) -> tuple[str, ...]:
        """What kinds of codes there are, of ``CODES``."""
        found = {self.state[f"{layer}.weight"].dtype for layer in self.quantized}
        return tuple(kind for kind, dtype in CODES.items() if dtype in found)

    def _are_codes(self, layer: str) -> bool:
        codes, scale = self.state.get(f"{layer}.weight"), self.state[layer + SCALE]
        fit = codes is not None and codes.ndim == 2 and scale.shape == codes.shape[:1]
        return fit and codes is not None and codes.dtype in CODES.values() and scale.dtype == torch.float32


def read_weights(path: Path) -> WeightFile:
    """Open a weight file; the bytes of its tensors are read when they are needed.

    Raises:
        CheckpointError: missing, damaged, of another kind, or with code in it.
    """
    check_input(path, CheckpointError, "a weight file")
    if path.suffix == ".safetensors":
        state, metadata = _read_safetensors(path)
    elif path.suffix in SUFFIXES:
        state, metadata = _read_torch(path), {}
    else:
        raise CheckpointError(f'"{path}" is not a weight file; expected one of {", ".join(SUFFIXES)}.')
    ours = to_ours(state)
    if not ours:
        raise CheckpointError(
            f'"{path}" holds no network: {len(state)} tensors, all of them of networks that only training uses. '
            "Export the averaged weights first."
            if state
            else f'"{path}" holds no tensors.'
        )
    return WeightFile(path, ours, metadata)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f'"{path}" is damaged or not a safetensors file: {error}.') from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        start = file.read(16)
    if not start.startswith((_ZIP, _OLD_PICKLE)):
        raise CheckpointError(
            f'"{path}" is not a torch file: it begins with {start!r}. Perhaps a page or a pointer was saved in place '
            "of the weights; download the file itself."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a strange pickle might be; it is refused below, in words of ours
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=start.startswith(_ZIP))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f'"{path}" was refused: it holds more than tensors, perhaps code, and no code is ever loaded from a weight '
            "file. Get the original file, or a safetensors version of it."
        ) from error
    except Exception as error:  # a damaged pickle can fail anywhere in its reader
        raise CheckpointError(f'"{path}" is damaged or not a torch file: {error}.') from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(
            f'"{path}" is not a flat mapping of names to tensors, as released checkpoints are. '
            "Save the network's state alone, not a training state."
        )
    return dict(state)


def check_types(file: WeightFile) -> None:
    """Refuse tensors that are neither plain floating-point numbers nor codes of ours.

    Raises:
        CheckpointError: integers without scales (a file that somebody else quantized), or a sparse layout.
    """
    codes = {f"{layer}.weight" for layer in file.quantized}
    plain = {n: t.is_floating_point() and t.layout == torch.strided for n, t in file.state.items() if n not in codes}
    odd = [f"{name} ({file.state[name].dtype})" for name, good in plain.items() if not good]
    if odd:
        raise CheckpointError(
            f'"{file.path}" holds {len(odd)} tensors that are not plain floating-point numbers: {", ".join(odd[:3])}. '
            "Of quantized files only those of `latpix quantize` are read; get the original."
        )
