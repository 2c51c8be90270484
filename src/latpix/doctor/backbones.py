"""For each backbone, what is here, what is missing, and the command that mends it."""

from dataclasses import dataclass
from importlib.util import find_spec

from latpix.backbones.local import MODEL, is_here
from latpix.backbones.registry import BACKBONES, Backbone
from latpix.captions.model_files import MODEL as CAPTIONS
from latpix.checkpoints.load import stored
from latpix.checkpoints.registry import Checkpoint, rows_that_read


@dataclass(frozen=True, kw_only=True)
class Need:
    """One thing that a backbone's use needs."""

    what: str
    here: bool
    mend: str  # the command that brings it


def backbone_needs() -> dict[str, list[Need]]:
    """By backbone's name."""
    return {row.name: list(_needs(row)) for row in BACKBONES.values()}


def _needs(row: Backbone) -> list[Need]:
    library = row.encoder.library
    needs = [Need(what=library, here=find_spec(library) is not None, mend='pip install "latpix[backbones]"')]
    if row.generator is not None:
        model = row.generator.model
        needs.append(Need(what=f"pipeline {model}", here=is_here(model), mend=f"hf download {model}"))
    else:
        model = row.encoder.model
        needs.append(Need(what=f"encoder {model}", here=is_here(model, MODEL), mend=f"hf download {model}"))
    rows = [one for one in rows_that_read(row.space) if not one.withdrawn and one.sampling.kind == "student"]
    rows = [one for one in rows if stored(one).is_file()] or rows[:1]
    needs += [_checkpoint(one) for one in rows]
    if any(one.network.caption_width for one in rows):
        encoder = Need(what=f"captions {CAPTIONS}", here=is_here(CAPTIONS, MODEL), mend=f"hf download {CAPTIONS}")
        needs.append(encoder)
    return needs


def _checkpoint(row: Checkpoint) -> Need:
    here = stored(row).is_file()
    return Need(what=f"checkpoint {row.name}", here=here, mend=f"latpix checkpoints fetch {row.name}")
