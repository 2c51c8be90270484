"""Embeddings on disk: a caption that was embedded once never needs the text encoder again.

    LATPIX_HOME/captions/<2 digits>/<sha256 of encoder, prefix version and caption>.safetensors

An entry is a caption file with one caption. What is damaged, or was made by other weights, counts as not there. The
numeric type that the encoder ran in is no part of the key: entries rest in bfloat16 whatever it was.
"""

import json
from hashlib import sha256
from pathlib import Path

from jaxtyping import BFloat16
from torch import Tensor

from latpix import resources
from latpix.captions.model_files import identity, is_hub_id
from latpix.captions.prompt_prefix import VERSION
from latpix.errors import CaptionError, OutputError
from latpix.files.caption_files import CaptionFile, read_captions, save_captions


def entry(model: str | Path, text: str) -> Path:
    """The file of a caption's embedding, there or not."""
    is_folder = Path(model).is_dir() or not is_hub_id(model)
    name = str(Path(model).resolve() if is_folder else model)
    key = sha256(json.dumps([name, VERSION, "uncapped", text]).encode()).hexdigest()
    return resources.home() / "captions" / key[:2] / f"{key}.safetensors"


def lookup(model: str | Path, text: str) -> BFloat16[Tensor, "l e"] | None:
    """The embedding of a caption, if it is here and whole."""
    path = entry(model, text)
    if not path.is_file():
        return None
    try:
        found = read_captions(path)
    except CaptionError:
        return None
    if found.texts != (text,) or found.prefix != VERSION or not _same(found.encoder, model):
        return None
    return found.embedding[0]


def store(model: str | Path, text: str, embedding: BFloat16[Tensor, "l e"]) -> None:
    """Keep an embedding; a cache that cannot be written is no reason to fail."""
    path = entry(model, text)
    captions = CaptionFile(embedding=embedding[None], texts=(text,), encoder=identity(model), prefix=VERSION)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_captions(captions, path, overwrite=True)
    except (OSError, OutputError):
        return


def _same(encoder: str, model: str | Path) -> bool:
    """Whether an entry's encoder is this one: a folder that is gone is believed to have been the same."""
    now = identity(model)
    return encoder == now or (not Path(model).is_dir() and encoder.startswith(f"{Path(model).name}#"))
