"""What a run of a backbone will download and hold, before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from latpix.backbones.local import MODEL, folder_bytes, is_here
from latpix.backbones.registry import Backbone
from latpix.batching.painting import Painting
from latpix.captions.model_files import MODEL as CAPTIONS
from latpix.captions.model_files import WEIGHT_BYTES
from latpix.captions.provide import are_known
from latpix.checkpoints.load import stored
from latpix.checkpoints.registry import CHECKPOINTS, Checkpoint
from latpix.devices import pick_device, pick_dtype


@dataclass(frozen=True, kw_only=True)
class Part:
    """One model that a run loads; they follow each other, so that the largest decides the memory."""

    what: str
    name: str  # hub id, registry name or path
    bytes: float  # of weights, about
    here: bool  # nothing needs to be downloaded for it


def parts_of(
    backbone: Backbone,
    name: str | None,
    checkpoint: Checkpoint | None,
    painting: Painting,
    captions: Sequence[str | None],
    *,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> list[Part]:
    """In the order in which they are loaded; the text encoder only if a caption is not embedded yet.

    Args:
        backbone: that generates.
        name: of the checkpoint, or its file; None where latents are only saved.
        checkpoint: its row.
        painting: how it decodes.
        captions: of all items.
        model: other weights of the backbone: a hub id or a folder.
        device, dtype: where and in what all of it computes.
    """
    width = 2 if pick_dtype(dtype, pick_device(device)) != torch.float32 else 4
    parts = []
    if checkpoint is not None and checkpoint.network.caption_width and painting.caption_file is None:
        texts = [""] if painting.no_caption else [text for text in captions if text is not None]
        encoder = str(painting.caption_model or CAPTIONS)
        if not are_known(texts, model=painting.caption_model):
            size = folder_bytes(encoder) if Path(encoder).is_dir() else WEIGHT_BYTES
            parts.append(Part(what="caption encoder", name=encoder, bytes=size, here=is_here(encoder, MODEL)))
    if backbone.generator is not None:
        source = model or backbone.generator.model
        size = folder_bytes(source) if Path(source).is_dir() else backbone.generator.billions * 1e9 * width
        parts.append(Part(what="backbone", name=source, bytes=size, here=is_here(source)))
    if checkpoint is not None and name is not None:
        here = name not in CHECKPOINTS or stored(checkpoint).is_file()
        parts.append(Part(what="checkpoint", name=name, bytes=width * checkpoint.parameters, here=here))
    return parts
