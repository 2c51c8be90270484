"""Caption files: safetensors with one tensor ``embedding`` and, in the metadata, the texts it stands for.

    format "latpix-caption-1" | encoder | prefix_version | texts (JSON) | sha256 of the tensor

One file holds several captions; it travels to machines that have no text encoder.

Letters: n captions, l states of each, e their width.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from latpix.errors import CaptionError, OutputError
from latpix.files.atomic import check_output, writing
from latpix.files.digest import digest
from latpix.files.inputs import check_input

FORMAT = "latpix-caption-1"
STATES = 300  # l, of each caption
_NAME = "embedding"


@dataclass(frozen=True, kw_only=True, eq=False)
class CaptionFile:
    """Captions as a decoder reads them."""

    embedding: Tensor  # [n, 300, e], bfloat16
    texts: tuple[str, ...]
    encoder: str  # the model that made it
    prefix: str  # the version of the prompt prefix that it was made with


def read_captions(path: str | Path) -> CaptionFile:
    """Read a caption file, strictly.

    Raises:
        CaptionError: missing, damaged, another kind of file, or not what its metadata says.
    """
    path = check_input(path, CaptionError, "a caption file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata, names = file.metadata() or {}, list(file.keys())
            if metadata.get("format") != FORMAT:
                found = f'it is "{metadata["format"]}"' if "format" in metadata else "it does not say what it is"
                raise CaptionError(f'"{path}" is not a caption file ("{FORMAT}"): {found}. `latpix caption` makes one.')
            if names != [_NAME]:
                raise CaptionError(f'"{path}" holds {", ".join(names) or "nothing"}; expected the tensor "{_NAME}".')
            tensor = file.get_tensor(_NAME)
    except (SafetensorError, OSError) as error:
        raise CaptionError(f'"{path}" is damaged or not a safetensors file: {error}.') from error
    lacking = [key for key in ("encoder", "prefix_version", "texts") if key not in metadata]
    if lacking:
        raise CaptionError(f'"{path}" lacks {", ".join(lacking)} in its metadata; make it again with `latpix caption`.')
    captions = CaptionFile(
        embedding=tensor,
        texts=_texts(metadata, path),
        encoder=metadata["encoder"],
        prefix=metadata["prefix_version"],
    )
    _check(captions, f'"{path}"')
    if metadata.get("sha256", "") not in ("", sha256_of(tensor)):
        raise CaptionError(f'"{path}" is damaged: its tensor does not match the sha256 it carries. Get it again.')
    return captions


def save_captions(captions: CaptionFile, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a caption file.

    Raises:
        CaptionError: the captions themselves are wrong (shape, type, values, number of texts).
        OutputError: ``path`` does not end in .safetensors, exists and may not be replaced, or cannot be written.
    """
    path = check_caption_output(path, overwrite=overwrite)
    _check(captions, "the embedding")
    tensor = captions.embedding.detach().cpu().contiguous()
    metadata = {
        "format": FORMAT,
        "encoder": captions.encoder,
        "prefix_version": captions.prefix,
        "texts": json.dumps(captions.texts),
        "sha256": sha256_of(tensor),
    }
    data = save({_NAME: tensor}, metadata)
    with writing(path, overwrite=overwrite) as part:
        part.write_bytes(data)


def check_caption_output(path: str | Path, *, overwrite: bool = False) -> Path:
    """A path that a caption file can be written to, before any work starts.

    Raises:
        OutputError: it does not end in .safetensors, exists and may not be replaced, or its folder is missing.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise OutputError(f'captions are written as .safetensors, not as "{path.name}".')
    check_output(path, overwrite=overwrite)
    return path


def sha256_of(embedding: Tensor) -> str:
    """What tells one embedding from another."""
    return digest({_NAME: embedding})


def _texts(metadata: Mapping[str, str], path: Path) -> tuple[str, ...]:
    try:
        texts = json.loads(metadata["texts"])
    except json.JSONDecodeError as error:
        raise CaptionError(f'"{path}": its texts are not JSON: {error}.') from error
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise CaptionError(f'"{path}": its texts are {metadata["texts"][:80]}; expected a JSON list of strings.')
    return tuple(texts)


def _check(captions: CaptionFile, name: str) -> None:
    """Refuse what no decoder reads."""
    tensor = captions.embedding
    if tensor.ndim != 3 or tensor.shape[1] != STATES or not tensor.numel():
        raise CaptionError(f"{name} has shape {list(tensor.shape)}; expected [captions, {STATES}, width].")
    if tensor.dtype != torch.bfloat16:
        raise CaptionError(f"{name} holds {tensor.dtype} values; expected bfloat16.")
    if len(captions.texts) != len(tensor):
        raise CaptionError(f"{name} has {len(tensor)} captions, but {len(captions.texts)} texts.")
    if not torch.isfinite(tensor).all():
        raise CaptionError(
            f"{name} has values that are NaN or infinite: the text encoder overflowed; run it in bfloat16 or float32."
        )
