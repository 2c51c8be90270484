"""Latent files: safetensors with one tensor ``latent`` and its story in the metadata; .npy, .npz and .pt are read too.

What is checked here is the file: four dimensions, floating point, finite. Whether the latent fits its space (channels,
spread, normalised or raw) is checked against the table of spaces by ``latents.check``.

Letters: b batch, c channels of the latent space, h and w latent cells.
"""

import math
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from latpix.errors import LatentError, OutputError
from latpix.files.atomic import writing
from latpix.files.inputs import check_input

FORMAT = "latpix-latent-1"
LATENT_SUFFIXES = (".safetensors", ".npy", ".npz", ".pt")
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True, eq=False)
class Latent:
    """A latent and what is known of it."""

    tensor: Tensor  # [b, c, h, w], normalized values of its space
    space: str  # a name of the table of latent spaces
    latent_sigma: float = 0.0  # in [0, 1]: how noisy it is; 0 is clean
    caption: str | None = None
    seed: int | None = None  # the seed that it is decoded with unless another is given
    source: str | None = None  # the picture or the pipeline it came from
    native_height: int | None = None  # pixels, of the picture it stands for, before any padding
    native_width: int | None = None


def read_latent(path: str | Path, *, space: str | None = None, latent_sigma: float | None = None) -> Latent:
    """Read a latent file.

    Args:
        path: ``.safetensors`` as latpix writes it; ``.npy``, ``.npz`` or ``.pt`` with one array or tensor in it.
        space: the latent space; needed where the file does not name it, and must agree where it does.
        latent_sigma: replaces the file's own, in [0, 1].

    Returns:
        The latent on the CPU, widened to float32 (which is exact).

    Raises:
        LatentError: the file cannot be read as a latent, or is one of another space.
    """
    path = check_input(path, LatentError, "a latent")
    readers = {".safetensors": _read_safetensors, ".npy": _read_numpy, ".npz": _read_numpy, ".pt": _read_pt}
    if path.suffix.lower() not in readers:
        raise LatentError(f'"{path}" is not a latent file; expected one of {", ".join(readers)}.')
    tensor, metadata = readers[path.suffix.lower()](path)
    _check_tensor(tensor, f'"{path}"')
    story = _story(metadata, f'"{path}"')
    if latent_sigma is not None:
        story["latent_sigma"] = _sigma(latent_sigma, "latent_sigma")
    return Latent(tensor=tensor.float(), space=_space(story.pop("space", None), space, path), **story)


def save_latent(latent: Latent, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a latent as safetensors; float32, float16 and bfloat16 are kept, anything else becomes float32.

    Raises:
        LatentError: the latent itself is not one (dimensions, values, latent_sigma).
        OutputError: ``path`` does not end in .safetensors, exists and may not be replaced, or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise OutputError(f'latents are written as .safetensors, not as "{path.name}".')
    _check_tensor(latent.tensor, "the latent")
    _sigma(latent.latent_sigma, "latent_sigma")
    tensor = latent.tensor.detach().cpu().contiguous()
    data = save({"latent": tensor if tensor.dtype in _DTYPES else tensor.float()}, _metadata(latent))
    with writing(path, overwrite=overwrite) as part:
        part.write_bytes(data)


def _read_safetensors(path: Path) -> tuple[Tensor, Mapping[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata, keys = file.metadata() or {}, list(file.keys())
            if metadata.get("format") == FORMAT and "latent" not in keys:
                raise LatentError(f'"{path}" lacks the tensor "latent"; it holds {_listed(keys)}.')
            if "latent" not in keys and len(keys) != 1:
                raise LatentError(
                    f'"{path}" is not a latent file: expected one tensor "latent", found {_listed(keys)}.'
                )
            return file.get_tensor("latent" if "latent" in keys else keys[0]), metadata
    except (SafetensorError, OSError) as error:
        raise LatentError(f'"{path}" is damaged or not a safetensors file: {error}.') from error


def _read_numpy(path: Path) -> tuple[Tensor, Mapping[str, str]]:
    """One array, alone in a .npy or in a .npz; nothing is unpickled."""
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            if not isinstance(found, np.ndarray):
                names = list(found.files)
                if len(names) != 1:
                    raise LatentError(f'"{path}" must hold exactly one array, found {_listed(names)}.')
                found = found[names[0]]
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        code = "it holds Python objects, which could run code, or is damaged"
        told = str(error).lower()
        reason = code if "pickle" in told or "object" in told else str(error)
        raise LatentError(f'"{path}" cannot be read as an array of numbers: {reason}.') from error
    native = found.dtype.newbyteorder("=")
    if native not in (np.float16, np.float32, np.float64):
        raise LatentError(f'"{path}" holds {found.dtype} values; expected float16, float32 or float64.')
    return torch.from_numpy(found.astype(native, copy=False)), {}


def _read_pt(path: Path) -> tuple[Tensor, Mapping[str, str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on odd pickles before it refuses them
            value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LatentError(
            f'"{path}" holds more than tensors (Python objects, which could run code), or is damaged; nothing of it '
            "was run. Save the tensor alone, e.g. as .safetensors."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, LookupError) as error:
        raise LatentError(f'"{path}" is damaged or not a torch file: {error}') from error
    if isinstance(value, Mapping):  # as ComfyUI and others write: {"samples": tensor}
        tensors = [entry for entry in value.values() if isinstance(entry, Tensor)]
        value = tensors[0] if len(tensors) == 1 else value
    if not isinstance(value, Tensor):
        raise LatentError(f'"{path}" holds a {type(value).__name__}; expected one tensor [b,c,h,w].')
    return value, {}


def _check_tensor(tensor: Tensor, name: str) -> None:
    """Refuse what cannot be a latent of any space."""
    shape = "x".join(str(side) for side in tensor.shape) or "a single number"
    if tensor.ndim != 4:
        raise LatentError(f"{name} has {tensor.ndim} dimensions ({shape}); a latent has four: [batch, channels, h, w].")
    if tensor.numel() == 0:
        raise LatentError(f"{name} is empty: {shape}.")
    if tensor.dtype not in (*_DTYPES, torch.float64):
        raise LatentError(f"{name} holds {tensor.dtype} values; expected float32, float16, bfloat16 or float64.")
    broken = int((~torch.isfinite(tensor)).sum())
    if broken:
        raise LatentError(
            f"{name} has {broken} of {tensor.numel()} values that are NaN or infinite; the model that made it "
            "overflowed, often because it ran in float16."
        )


def _space(named: str | None, given: str | None, path: Path) -> str:
    if named and given and named != given:
        raise LatentError(f'"{path}" is a latent of space "{named}", not "{given}".')
    if not (named or given):
        raise LatentError(
            f'"{path}" does not say which latent space it is of; name it: space="flux2", or --space flux2.'
        )
    return named or given or ""


def _metadata(latent: Latent) -> dict[str, str]:
    """All that is known, as the strings that safetensors keeps."""
    known = {name: value for name, value in vars(latent).items() if name != "tensor" and value is not None}
    return {"format": FORMAT, **{name: str(value) for name, value in known.items()}}


def _story(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """The fields of Latent, from the strings of the file; strange keys are left alone."""
    story: dict[str, Any] = {key: metadata[key] for key in ("space", "caption", "source") if key in metadata}
    for key in ("seed", "native_height", "native_width"):
        if key in metadata:
            story[key] = _number(int, metadata[key], f"{name}: {key}")
            if key != "seed" and story[key] < 1:
                raise LatentError(f"{name}: {key} is {story[key]}; expected pixels, at least 1.")
    if "latent_sigma" in metadata:
        sigma = _number(float, metadata["latent_sigma"], f"{name}: latent_sigma")
        story["latent_sigma"] = _sigma(sigma, f"{name}: latent_sigma")
    return story


def _number(kind: Callable[[str], Any], text: str, name: str) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        raise LatentError(f'{name} is "{text}"; expected a number.') from error


def _sigma(value: float, name: str) -> float:
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise LatentError(f"{name} is {value}; expected 0 (clean) to 1 (pure noise).")
    return float(value)


def _listed(names: list[str]) -> str:
    shown = ", ".join(f'"{name}"' for name in names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown or "nothing"
