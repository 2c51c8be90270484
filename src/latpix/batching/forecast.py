"""What a run of a backbone will download and hold, before it starts."""

from dataclasses import dataclass
from pathlib import Path

from latpix.backbones.local import MODEL, folder_bytes, is_here
from latpix.backbones.registry import Backbone
from latpix.captions.model_files import MODEL as CAPTIONS
from latpix.captions.model_files import WEIGHT_BYTES
from latpix.checkpoints.load import stored
from latpix.checkpoints.registry import CHECKPOINTS, Checkpoint


@dataclass(frozen=True, kw_only=True)
class Part:
    """One model that a run loads; they follow each other, so that the largest decides the memory."""

    what: str
    name: str  # hub id, registry name or path
    bytes: float  # of weights, about
    here: bool  # nothing needs to be downloaded for it


def parts_of(backbone: Backbone, checkpoint: Checkpoint | None, *, model: str | None = None) -> list[Part]:
    """In the order in which they are loaded.

    Args:
        backbone: that generates.
        checkpoint: that decodes; None where latents are only saved.
        model: other weights of the backbone: a hub id or a folder.
    """
    assert backbone.generator is not None
    name = model or backbone.generator.model
    size = folder_bytes(name) if Path(name).is_dir() else backbone.generator.bytes
    parts = [Part(what="backbone", name=name, bytes=size, here=is_here(name))]
    if checkpoint is not None and checkpoint.network.caption_width:
        here = is_here(CAPTIONS, MODEL)  # a run whose captions are cached, or that has none, does not load it
        parts.append(Part(what="caption encoder", name=CAPTIONS, bytes=WEIGHT_BYTES, here=here))
    if checkpoint is not None:
        here = checkpoint.name not in CHECKPOINTS or stored(checkpoint).is_file()
        parts.append(Part(what="checkpoint", name=checkpoint.name, bytes=2 * checkpoint.parameters, here=here))
    return parts
