"""Look at every picture once: is it sound, how large is it, what does it look like?

What was found is appended to a journal, a line a picture, so that a scan that was broken off goes on, and one that is
repeated reads only what is new or has changed.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from latpix.data.likeness import Look, look_at
from latpix.data.pictures import Levels, decode, kind_of
from latpix.data.sources import Source
from latpix.errors import LatpixError, PictureError
from latpix.files.picture_files import read_picture

JOURNAL = "scan.jsonl"
OnStep = Callable[[int, int, str], None]  # how many are done, of how many, of what


@dataclass(frozen=True, kw_only=True)
class Scanned:
    """What is known of a picture; of one that is no good, why."""

    name: str
    path: Path
    state: tuple[int, int]  # bytes and time of change, by which a scan recognises the file
    sha256: str = ""  # of the file
    width: int = 0  # upright
    height: int = 0
    plain: bool = False  # a plain decoder gives the right levels, so that the file can be stored as it is
    look: Look | None = None
    error: str = ""

    def to_line(self) -> str:
        """As a line of the journal."""
        look = self.look.to_json() if self.look else None
        return json.dumps({**vars(self), "path": str(self.path), "look": look}, ensure_ascii=False) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "Scanned":
        """Of a line of the journal."""
        row: dict[str, Any] = json.loads(line)
        look = Look.from_json(row["look"]) if row["look"] else None
        return cls(**{**row, "state": tuple(row["state"]), "path": Path(row["path"]), "look": look})


def scan(
    sources: Sequence[Source], journal: Path, *, workers: int = 0, on_step: OnStep | None = None
) -> Iterator[Scanned]:
    """Every picture, in the order of the sources.

    Args:
        sources: the pictures.
        journal: a file that keeps what was found.
        workers: processes that read pictures; 0 reads them here.
        on_step: called as ``on_step(done, total, "scan")``.
    """
    known = _read(journal)
    new = [source for source in sources if known.get(_key(source)) is None]
    read = iter(_reader(new, workers))
    with journal.open("a", encoding="utf-8") as file:
        for number, source in enumerate(sources, start=1):
            found = known.get(_key(source))
            if found is None:
                found = next(read)
                file.write(found.to_line())
                file.flush()
            if on_step is not None:
                on_step(number, len(sources), "scan")
            yield found


def look_into(source: Source) -> Scanned:
    """Read one picture whole."""
    state = _state(source)
    try:
        levels = upright_levels(source.path)
        data = source.path.read_bytes()
        return Scanned(
            name=source.name,
            path=source.path,
            state=state,
            sha256=hashlib.sha256(data).hexdigest(),
            width=levels.shape[2],
            height=levels.shape[1],
            plain=_is_plain(data, levels),
            look=look_at(levels),
        )
    except LatpixError as error:
        return Scanned(name=source.name, path=source.path, state=state, error=str(error))


def upright_levels(path: Path) -> Levels:
    """The levels of any picture file, as all of latpix reads it."""
    return ((read_picture(path)[0] + 1) * 127.5).round().to(torch.uint8)


class _Pictures(Dataset[Scanned]):
    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> Scanned:
        return look_into(self.sources[index])


def _reader(sources: Sequence[Source], workers: int) -> DataLoader[Scanned]:
    workers = min(workers, len(sources))
    return DataLoader(
        _Pictures(sources),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # else it would draw a number from everybody's
    )


def _as_it_is(sample: Any) -> Any:
    return sample


def _is_plain(data: bytes, levels: Levels) -> bool:
    if kind_of(data) is None:
        return False
    try:
        return torch.equal(decode(data, "it"), levels)
    except PictureError:
        return False


Key = tuple[str, Path, tuple[int, int]]


def _key(source: Source) -> Key:
    return source.name, source.path, _state(source)


def _state(source: Source) -> tuple[int, int]:
    """Size and time of change; of a file that is not there zeros."""
    try:
        status = source.path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _read(journal: Path) -> dict[Key, Scanned]:
    """What is known already; a line that was cut off is scanned again."""
    known: dict[Key, Scanned] = {}
    if not journal.exists():
        return known
    text = journal.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        journal.write_text(text, encoding="utf-8")
    for line in text.splitlines():
        found = Scanned.from_line(line)
        known[found.name, found.path, found.state] = found
    return known
