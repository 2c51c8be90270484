"""Load, check, save and convert checkpoints: strictly, straight to the type the weights rest in.

    file -> tensors on disk -> which rows fit -> network on meta -> tensors assigned

A tensor that rests as the file has it is never copied: it stays a page of the file, read when it is first used.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from latpix import resources
from latpix.checkpoints.convert import to_upstream
from latpix.checkpoints.detect import (
    Difference,
    ambiguity,
    difference,
    fits,
    fitting_rows,
    has_rgb_head,
    misfit,
    nearest_row,
    traits,
)
from latpix.checkpoints.metadata import describe, described_row
from latpix.checkpoints.registry import CHECKPOINTS, Checkpoint, find
from latpix.checkpoints.tensors import SCALE, SUFFIXES, WeightFile, check_types, read_weights
from latpix.errors import CheckpointError, OutputError
from latpix.files.atomic import writing
from latpix.files.digest import digest
from latpix.network.model import Denoiser, build
from latpix.network.precision import QuantizedLinear, resting_dtypes


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A network with its weights, and what is known of them."""

    row: Checkpoint
    network: Denoiser
    sha256: str
    path: Path
    kinds: tuple[str, ...] = ()  # of quantized weights: int8, fp8


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a weight file is."""

    path: str
    fits: tuple[str, ...]  # names of the rows; empty means that the file is no checkpoint
    spaces: tuple[str, ...]  # of latents that those rows read
    family: str | None  # v1, v1.5, pixeldit, tiny; None if it is no network of this kind
    width: int | None  # of patch tokens
    latent_width: int | None
    tensors: int
    parameters: int
    quantized: tuple[str, ...]  # kinds of weights in eight bits: int8, fp8
    sha256: str
    peak_bytes: int  # resident memory of this process at its highest, the file loaded; 0 where nobody tells
    nearest: str | None = None  # the row that the three below compare with, where none fits
    missing: tuple[str, ...] = ()  # by upstream's names
    strange: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()


def stored(row: Checkpoint) -> Path:
    """The file of a registry row: inside the package, or fetched."""
    if row.upstream_path is None:
        return resources.weight(row.name)
    return resources.home() / "checkpoints" / f"{row.name}.safetensors"


def load(
    checkpoint: str | Path,
    *,
    like: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LoadedCheckpoint:
    """Load a registry name or a weight file.

    Args:
        checkpoint: a name, or a file: upstream's ``.pth``, repackaged safetensors, or ours.
        like: the row that a bare file follows; needed where more than one fits.
        device: where the weights go.
        dtype: what Linear and Conv weights rest in; everything else is float32.

    Raises:
        CheckpointError: nothing of that name, a damaged file, one that fits no row, or several and no ``like``.
    """
    file, row, sha256 = open_checkpoint(checkpoint, like=like)
    return LoadedCheckpoint(row, _assemble(file, row, device, dtype), sha256, file.path, file.kinds)


def open_checkpoint(checkpoint: str | Path, *, like: str | None = None) -> tuple[WeightFile, Checkpoint, str]:
    """The tensors of a registry name or a weight file, checked and still on disk; the row they follow; their digest.

    Raises:
        CheckpointError: as of ``load``.
    """
    path, asked = _locate(checkpoint, like)
    file = read_weights(path)
    row = _row_of(file, asked)
    check_types(file)
    return file, row, _verified(file)


def peek(checkpoint: str | Path, *, like: str | None = None) -> Checkpoint:
    """The row of a checkpoint, from its file's header; a registry name's own where its file is not here yet.

    Raises:
        CheckpointError: nothing of that name, a file that fits no row, or several and no ``like``.
    """
    if str(checkpoint) in CHECKPOINTS and not Path(checkpoint).is_file():
        return find(str(checkpoint))
    path, asked = _locate(checkpoint, like)
    return _row_of(read_weights(path), asked)


def outline(checkpoint: str | Path, *, like: str | None = None, dtype: torch.dtype = torch.float32) -> LoadedCheckpoint:
    """A checkpoint as ``load`` gives it, but on meta: no weight is read, and a registry name's file need not be here.

    Raises:
        CheckpointError: nothing of that name, a file that fits no row, or several and no ``like``.
    """
    if str(checkpoint) in CHECKPOINTS and not stored(find(str(checkpoint))).is_file():
        row = peek(checkpoint, like=like)
        return LoadedCheckpoint(row, build(row.network, device="meta"), "", Path())
    path, asked = _locate(checkpoint, like)
    file = read_weights(path)
    row = _row_of(file, asked)
    return LoadedCheckpoint(row, _assemble(file, row, "meta", dtype), "", path, file.kinds)


def check_here(checkpoint: str | Path, *, like: str | None = None) -> None:
    """Raise where a checkpoint's weights are not on this machine; nothing is read.

    Raises:
        CheckpointError: as of ``load``; the message says how to fetch them.
    """
    _locate(checkpoint, like)


def inspect(checkpoint: str | Path) -> Report:
    """What a weight file is: the rows that fit, its size and digest, or what is wrong with it; loads it to find out.

    Raises:
        CheckpointError: the file is missing or damaged, has code in it, or is not one of weights at all.
    """
    path, asked = _locate(checkpoint, None)
    file = read_weights(path)
    asked = asked or described_row(file.metadata, path)
    rows = fitting_rows(file.shapes) if asked is None else [asked] * fits(file.shapes, asked)
    check_types(file)
    sha256 = _verified(file)
    found = traits(file.shapes)
    nearest = None if rows else asked or nearest_row(file.shapes)
    if rows:
        _assemble(file, rows[0], "cpu", file.state["patch_embedding.weight"].dtype)
    wrong = difference(file.shapes, nearest) if nearest else Difference((), () if rows else tuple(file.shapes), ())
    return Report(
        path=str(path),
        fits=tuple(row.name for row in rows),
        spaces=tuple(dict.fromkeys(row.space for row in rows)),
        family=found.family if found else None,
        width=found.width if found else None,
        latent_width=found.latent_width if found else None,
        tensors=len(file.state),
        parameters=sum(map(math.prod, file.shapes.values())),
        quantized=file.kinds,
        sha256=sha256,
        peak_bytes=peak_resident_bytes(),
        nearest=nearest.name if nearest else None,
        missing=wrong.missing,
        strange=wrong.strange,
        reshaped=wrong.reshaped,
    )


def save(
    network: nn.Module | Mapping[str, Tensor],
    row: Checkpoint,
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    source: str = "",
    overwrite: bool = True,
) -> None:
    """Write a checkpoint in our format.

    Args:
        network: the network, or its parameters by our names.
        row: what it is; goes into the metadata.
        path: ends in ``.safetensors``.
        dtype: of all tensors; None keeps theirs.
        source: where the weights come from, in words.
        overwrite: replace a file that is there already.
    """
    state = network.state_dict() if isinstance(network, nn.Module) else network
    tensors = {name: _by_itself(t if dtype is None else t.to(dtype)) for name, t in state.items()}
    metadata = describe(row, sha256=digest(tensors), source=source)
    with writing(Path(path), overwrite=overwrite) as part:
        save_file(tensors, part, metadata)


def convert(path: str | Path, output: str | Path, *, like: str | None = None, overwrite: bool = False) -> Checkpoint:
    """Write a file of upstream's as ours (``.safetensors``), or one of ours as upstream's (``.pth``); bit-exact.

    Raises:
        CheckpointError: the file fits no row, or several and no ``like``.
        OutputError: the output has another suffix, exists, or cannot be written.
    """
    output = Path(output)
    if output.suffix not in (".safetensors", ".pth"):
        raise OutputError(f'"{output}" should end in .safetensors (our format) or .pth (upstream\'s).')
    source, asked = _locate(path, like)
    file = read_weights(source)
    row = _row_of(file, asked)
    check_types(file)
    if "sha256" in file.metadata:
        _verified(file)
    if output.suffix == ".safetensors":
        save(file.state, row, output, source=f"converted from {row.upstream_path or source.name}", overwrite=overwrite)
        return row
    if file.quantized:
        raise CheckpointError(f'"{source}" is quantized, which upstream\'s files cannot be; convert the original.')
    with writing(output, overwrite=overwrite) as part:
        torch.save(to_upstream({name: _by_itself(tensor) for name, tensor in file.state.items()}), part)
    return row


def peak_resident_bytes() -> int:
    """Resident memory of this process at its highest so far; pages of mapped files count. 0 where nobody tells."""
    status = Path("/proc/self/status")
    if status.is_file():  # the other way also counts, on Linux, the process that started this one
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _locate(checkpoint: str | Path, like: str | None) -> tuple[Path, Checkpoint | None]:
    """The file, and the row that it has to be; None leaves that to the file."""
    path = Path(checkpoint)
    if str(checkpoint) not in CHECKPOINTS:
        if path.suffix not in SUFFIXES and not path.exists():
            find(str(checkpoint))  # raises, with the names near it
        return path, None if like is None else find(like)
    row = find(str(checkpoint))
    if like not in (None, row.name):
        raise CheckpointError(
            f'"{row.name}" is a registry row itself and cannot be like "{like}"; leave one of them out.'
        )
    if not stored(row).is_file():
        raise CheckpointError(
            f'checkpoint "{row.name}" is not on this machine. Fetch it first: latpix checkpoints fetch {row.name}. '
            f"It is under the {row.license}."
        )
    return stored(row), row


def _row_of(file: WeightFile, asked: Checkpoint | None) -> Checkpoint:
    """Which row a file follows: the one asked for, else the one it describes, else the only one that fits."""
    row = asked or described_row(file.metadata, file.path)
    if row is not None:
        if not fits(file.shapes, row):
            raise CheckpointError(misfit(file.path, file.shapes, row))
        return row
    rows = fitting_rows(file.shapes)
    if not rows:
        raise CheckpointError(misfit(file.path, file.shapes))
    if len(rows) > 1:
        raise CheckpointError(ambiguity(file.path, rows))
    return rows[0]


def _verified(file: WeightFile) -> str:
    """The digest of a file's tensors, which is the one it carries if it carries one."""
    sha256 = digest(file.state)
    if file.metadata.get("sha256", sha256) != sha256:
        raise CheckpointError(
            f'"{file.path}" is damaged: its tensors do not match the sha256 it carries. Get it again.'
        )
    return sha256


def _assemble(file: WeightFile, row: Checkpoint, device: torch.device | str, dtype: torch.dtype) -> Denoiser:
    """The network around a file's tensors; an RGB head is left out where row or file have none."""
    headless = row.network.rgb_head is not None and not has_rgb_head(file.shapes)
    network = build(replace(row.network, rgb_head=None) if headless else row.network, device="meta")
    state = dict(file.state)
    for layer in file.quantized:
        bias, codes, scale = state.get(f"{layer}.bias"), state.pop(f"{layer}.weight"), state.pop(layer + SCALE)
        network.set_submodule(layer, QuantizedLinear(codes, scale, bias, dtype))
        state |= {f"{layer}.codes": codes, f"{layer}.scale": scale}
    rests = resting_dtypes(network, dtype)
    network.load_state_dict({name: state[name].to(device, rest) for name, rest in rests.items()}, assign=True)
    return network.requires_grad_(False)


def _by_itself(tensor: Tensor) -> Tensor:
    """A tensor that shares no memory with others, which file formats would refuse or save whole."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
