"""What to work on: files, folders, globs or a manifest become a list of items, in order.

A manifest is JSON Lines: ``image`` or ``latent`` (a path relative to the manifest), ``caption``, optional ``seed`` and
``output``. What is wrong with one input becomes a Failure in its place, and the others run.
"""

import glob
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from latpix.errors import LatpixError, ManifestError, UsageError
from latpix.files.inputs import check_input
from latpix.files.latent_files import LATENT_SUFFIXES, read_latent
from latpix.files.picture_files import PICTURE_SUFFIXES, picture_info

Kind = Literal["picture", "latent"]
SUFFIXES: dict[Kind, tuple[str, ...]] = {"picture": PICTURE_SUFFIXES, "latent": LATENT_SUFFIXES}
_MANIFEST_KEYS: dict[Kind, str] = {"picture": "image", "latent": "latent"}
_TYPES: dict[str, tuple[type, ...]] = {
    "image": (str,),
    "latent": (str,),
    "caption": (str,),
    "seed": (int,),
    "output": (str,),
    "reference": (str,),
}


@dataclass(frozen=True, kw_only=True)
class Item:
    """One input and what is asked of it alone."""

    name: str  # as it was given, for messages
    path: Path
    caption: str | None = None
    seed: int | None = None
    output: str | None = None  # the name that a manifest gives its output


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An input that could not be worked on, and why."""

    input: str
    error: LatpixError


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What an input's header says."""

    shape: tuple[int, ...]  # [1, 3, H, W] of a picture, [b, c, h, w] of a latent
    space: str | None = None  # of a latent
    native: tuple[int, int] | None = None  # height and width of the picture it stands for
    caption: str | None = None  # the latent's own, as the two below
    seed: int | None = None
    latent_sigma: float = 0.0

    @property
    def pictures(self) -> int:
        """How many pictures it holds."""
        return self.shape[0]


def find_inputs(given: Sequence[str | Path], kind: Kind) -> list[Item]:
    """The files that paths, folders and globs name; a folder's files are sorted, its subfolders left alone.

    A file that does not exist is an item all the same: it fails when its turn comes, and the others run.

    Raises:
        UsageError: a missing or empty folder, a glob that matches nothing, nothing given.
    """
    if not given:
        raise UsageError(f"no {kind} was given; name files, folders or globs.")
    return [Item(name=str(path), path=path) for one in given for path in _expand(str(one), kind)]


def read_manifest(path: str | Path, kind: Kind) -> list[Item | Failure]:
    """The jobs of a manifest, one a line; a bad line is a Failure named by its number.

    Raises:
        ManifestError: there is no such file, it is no text, or it is empty.
    """
    key, folder = _MANIFEST_KEYS[kind], Path(path).parent
    return [
        entry
        if isinstance(entry, Failure)
        else Item(name=entry[key], path=folder / entry[key], **{k: v for k, v in entry.items() if k != key})
        for entry in read_entries(path, key, ("caption", "seed", "output"))
    ]


def read_entries(path: str | Path, key: str, optional: Sequence[str]) -> list[dict[str, Any] | Failure]:
    """The lines of a JSON Lines file, checked; a bad line is a Failure named by its number.

    Args:
        path: of the file.
        key: the field that every line has.
        optional: those that it may have.

    Raises:
        ManifestError: there is no such file, it is no text, or it is empty.
    """
    path = check_input(path, ManifestError, "a manifest")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ManifestError(f'"{path}" is not text in UTF-8, as JSON Lines are: {error}.') from error
    found: list[dict[str, Any] | Failure] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append(_entry(line, key, optional))
        except ManifestError as error:
            name = f"{path}:{number}"
            found.append(Failure(input=name, error=ManifestError(f"line {number} of {path}: {error}")))
    if not found:
        raise ManifestError(f'"{path}" has no lines; expected one JSON object a line.')
    return found


def measure(item: Item, kind: Kind, *, space: str | None = None) -> Measure:
    """Size of an input. A picture's header is read, a latent's whole file, which is small.

    Raises:
        LatpixError: it cannot be read.
    """
    if kind == "picture":
        info = picture_info(item.path)
        return Measure(shape=(1, 3, info.height, info.width), native=(info.height, info.width))
    latent = read_latent(item.path, space=space)
    height, width = latent.native_height, latent.native_width
    return Measure(
        shape=tuple(latent.tensor.shape),
        space=latent.space,
        native=(height, width) if height and width else None,
        caption=latent.caption,
        seed=latent.seed,
        latent_sigma=latent.latent_sigma,
    )


def _expand(text: str, kind: Kind) -> Iterator[Path]:
    path = Path(text)
    if path.is_dir():
        found = sorted(one for one in path.iterdir() if _fits(one, kind))
        if not found:
            raise UsageError(f'the folder "{text}" holds no {kind} ({", ".join(SUFFIXES[kind])}).')
        yield from found
    elif path.exists() or not (glob.has_magic(text) or _names_a_folder(text)):
        yield path
    elif glob.has_magic(text):
        found = sorted(one for one in _matches(text) if _fits(one, kind))
        if not found:
            raise UsageError(f'"{text}" matches no {kind} ({", ".join(SUFFIXES[kind])}).')
        yield from found
    else:
        raise UsageError(f'the folder "{text}" does not exist; check the path.')


def _matches(pattern: str) -> Iterator[Path]:
    # Path.glob takes no absolute pattern, and people's patterns may be.
    yield from map(Path, glob.iglob(pattern, recursive=True))  # noqa: PTH207


def _fits(path: Path, kind: Kind) -> bool:
    return path.suffix.lower() in SUFFIXES[kind] and not path.name.startswith(".") and path.is_file()


def _names_a_folder(text: str) -> bool:
    return text.endswith("/") or not Path(text).suffix


def _entry(line: str, key: str, optional: Sequence[str]) -> dict[str, Any]:
    """The fields of one line, checked."""
    known = [key, *optional]
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ManifestError(f"it is not JSON: {error}.") from error
    if not isinstance(entry, dict) or key not in entry:
        raise ManifestError(f'expected an object with "{key}", found {line.strip()[:80]}')
    strange = [name for name in entry if name not in known]
    if strange:
        raise ManifestError(f"unknown {', '.join(map(repr, strange))}; a line may have {', '.join(known)}.")
    fields = {name: value for name, value in entry.items() if value is not None}
    for name, value in fields.items():
        if not isinstance(value, _TYPES[name]) or isinstance(value, bool) or value == "":
            raise ManifestError(f"{name} is {json.dumps(value)}; expected {_TYPES[name][0].__name__}.")
    if key not in fields:
        raise ManifestError(f"{key} is null; expected {'a text' if key == 'caption' else 'a path'}.")
    return fields
