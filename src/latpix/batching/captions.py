"""The captions of a run: embedded together before anything is painted, or read from a caption file, or left out.

    each item's own text --> the text it is painted with --> its embedding [1, l, e]

| asked for             | an item is painted with                                                                  |
| --------------------- | ---------------------------------------------------------------------------------------- |
| nothing, or a caption | its own: the manifest's, else the run's, else the latent's; by the cache or the encoder  |
| a caption file        | its own, if the file has it; else the file's only one                                    |
| no caption            | the empty caption                                                                        |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latpix.batching.story import file_sha256
from latpix.captions.model_files import MODEL
from latpix.captions.prompt_prefix import NEGATIVE_PROMPT
from latpix.captions.provide import check_version, embed
from latpix.checkpoints.registry import Checkpoint
from latpix.errors import CaptionError
from latpix.files.caption_files import read_captions, sha256_of
from latpix.per_picture import no_caption


@dataclass(frozen=True, kw_only=True, eq=False)
class Captions:
    """Texts and their embeddings, and where those came from."""

    embeddings: Mapping[str, Tensor]  # [1, l, e] each
    for_all: str | None = None  # of items whose own text is not among them
    origin: Mapping[str, Any] = field(default_factory=dict)  # as it is written into pictures
    negative: Tensor | None = None  # [1, l, e], for checkpoints with guidance

    def text(self, own: str | None) -> str | None:
        """What an item is painted with."""
        return own if own is not None and own in self.embeddings else self.for_all

    def embedding(self, own: str | None) -> Tensor | None:
        """The states of that text; None for an item that has none."""
        text = self.text(own)
        return None if text is None else self.embeddings[text]

    def story(self, own: str | None) -> dict[str, Any] | None:
        """How an item's embedding was made."""
        embedding = self.embedding(own)
        if embedding is None:
            return None
        negative = None if self.negative is None else sha256_of(self.negative)
        return {**self.origin, "sha256": sha256_of(embedding), "negative_sha256": negative}


def embed_captions(
    own: Sequence[str | None],
    row: Checkpoint,
    *,
    file: str | Path | None = None,
    none: bool = False,
    model: str | Path | None = None,
    device: str | torch.device = "auto",
) -> Captions:
    """All captions of a run, as a checkpoint reads them; the text encoder is loaded at most once, and freed.

    Args:
        own: of each item, its own caption.
        row: of the checkpoint; it reads captions.
        file: a caption file, instead of the encoder.
        none: paint everything with the empty caption.
        model: hub id or folder of the text encoder.
        device: where that runs.

    Raises:
        CaptionError: there is no caption at all, or the file lacks some.
        DownloadError, MissingExtraError, MemoryLimitError: the encoder is needed, and is not here.
    """
    if file is not None:
        return _from_file(own, row, Path(file), model, device)
    texts = [""] if none else list(dict.fromkeys(text for text in own if text is not None))
    if not texts:
        raise no_caption(row)
    asked = list(dict.fromkeys([*texts, NEGATIVE_PROMPT] if row.guided else texts))
    found = dict(zip(asked, embed(asked, model=model, device=device).split(1), strict=True))
    return Captions(
        embeddings={text: found[text] for text in texts},
        for_all="" if none else None,
        origin={"from": "encoder", "encoder": str(model or MODEL)},
        negative=found[NEGATIVE_PROMPT] if row.guided else None,
    )


def _from_file(
    own: Sequence[str | None], row: Checkpoint, path: Path, model: str | Path | None, device: str | torch.device
) -> Captions:
    captions = read_captions(path)
    check_version(captions, path)
    found = dict(zip(captions.texts, captions.embedding.split(1), strict=True))
    for_guidance = found.get(NEGATIVE_PROMPT)
    texts = [text for text in found if text != NEGATIVE_PROMPT] or [NEGATIVE_PROMPT]
    for_all = texts[0] if len(texts) == 1 else None
    missing = dict.fromkeys(text for text in own if text not in found)
    if missing and for_all is None:
        wanted = ", ".join("one for items without a caption" if text is None else f'"{text}"' for text in missing)
        raise CaptionError(
            f'"{path}" holds {len(texts)} captions, but not {wanted}. Embed what is missing with `latpix caption`, or '
            "bring a file with one caption, which is for all items."
        )
    if row.guided and for_guidance is None:
        for_guidance = embed([NEGATIVE_PROMPT], model=model, device=device)
    return Captions(
        embeddings=found,
        for_all=for_all,
        origin={"from": "file", "path": str(path), "file_sha256": file_sha256(path)},
        negative=for_guidance if row.guided else None,
    )
