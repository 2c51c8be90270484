"""For each backbone, what is here, what is missing, and the command that mends it."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from latpix.backbones.local import MODEL, is_here
from latpix.backbones.registry import BACKBONES, RELEASE, Backbone
from latpix.captions.model_files import MODEL as CAPTIONS
from latpix.checkpoints.load import stored
from latpix.checkpoints.registry import Checkpoint, advised

LEAST = {"diffusers": (0, 42), "transformers": (5, 0)}  # versions that have every class


@dataclass(frozen=True, kw_only=True)
class Need:
    """One thing that a backbone's use needs."""

    what: str
    here: bool
    mend: str  # the command that brings it


def backbone_needs() -> dict[str, list[Need]]:
    """By backbone's name."""
    return {row.name: list(_needs(row)) for row in BACKBONES.values()}


def _needs(row: Backbone) -> Iterator[Need]:
    libraries = ("transformers",) if row.encoder.library == "transformers" else ("diffusers", "transformers")
    for library in libraries:
        yield Need(what=library, here=_is_installed(library), mend='pip install -U "latpix[backbones]"')
    if row.generator is not None:
        model = row.generator.model
        yield Need(what=f"pipeline {model}", here=is_here(model), mend=f"hf download {model}")
    else:
        model = row.encoder.model
        yield Need(what=f"encoder {model}", here=is_here(model, MODEL), mend=f"hf download {model}")
        for file in (row.encoder.statistics, row.encoder.file, row.encoder.decoder_config):
            if file is not None:
                here = is_here(RELEASE, file)
                yield Need(what=f"{RELEASE}: {file}", here=here, mend=f"hf download {RELEASE} {file}")
    rows = [one for one in advised(row.space) if stored(one).is_file()] or advised(row.space)[:1]
    for one in rows:
        yield _checkpoint(one)
    if any(one.network.caption_width for one in rows):
        yield Need(what=f"captions {CAPTIONS}", here=is_here(CAPTIONS, MODEL), mend=f"hf download {CAPTIONS}")


def _is_installed(library: str) -> bool:
    try:
        found = version(library)
    except PackageNotFoundError:
        return False
    return tuple(int(part) for part in found.split(".")[:2]) >= LEAST[library]


def _checkpoint(row: Checkpoint) -> Need:
    here = stored(row).is_file()
    return Need(what=f"checkpoint {row.name}", here=here, mend=f"latpix checkpoints fetch {row.name}")
