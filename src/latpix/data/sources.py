"""Which pictures to pack, and what is written about them.

A picture's caption is the text of a .txt file of its name, or a .json file of its name with ``prompt`` and optional
``prompt_medium`` and ``prompt_short``, of which training draws one. Folders are walked to the bottom, in the order of
names; links to folders are not followed, hidden files are left out.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from latpix.errors import CaptionError, UsageError
from latpix.files.picture_files import PICTURE_SUFFIXES

PROMPTS = ("prompt", "prompt_medium", "prompt_short")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One picture to pack."""

    name: str  # as it is called in messages and in the shard
    path: Path
    caption: str | None = None  # where a manifest gives one; else a file beside the picture does


def find_pictures(folders: Sequence[str | Path]) -> list[Source]:
    """The pictures below folders; a picture may also be named itself.

    Raises:
        UsageError: a folder is missing, or there is no picture anywhere.
    """
    found: list[Source] = []
    for folder in map(Path, folders):
        if folder.is_file():
            found.append(Source(name=folder.name, path=folder))
        elif folder.is_dir():
            found += [Source(name=str(path.relative_to(folder.parent)), path=path) for path in _walk(folder)]
        else:
            raise UsageError(f'the folder "{folder}" does not exist; check the path.')
    if not found:
        listed = ", ".join(f'"{folder}"' for folder in folders)
        raise UsageError(f"no picture in {listed}; expected files that end in {', '.join(PICTURE_SUFFIXES)}.")
    return found


def captions_of(source: Source) -> tuple[str, ...]:
    """What is written about a picture; nothing, where there is no file.

    Raises:
        CaptionError: a file cannot be read, or is no text.
    """
    if source.caption is not None:
        return (source.caption,)
    text, table = source.path.with_suffix(".txt"), source.path.with_suffix(".json")
    try:
        if text.is_file():
            caption = text.read_text(encoding="utf-8-sig").strip()
            return (caption,) if caption else ()
        if table.is_file():
            entry = json.loads(table.read_text(encoding="utf-8-sig"))
            prompts = [entry.get(name) for name in PROMPTS] if isinstance(entry, dict) else [None]
            if not isinstance(prompts[0], str) or not all(isinstance(p, str | None) for p in prompts):
                raise CaptionError(f'"{table}" has no text "prompt"; expected {", ".join(PROMPTS)} as texts.')
            return tuple(prompt for prompt in prompts if prompt)
    except (OSError, ValueError) as error:
        raise CaptionError(f'the caption of "{source.path}" cannot be read: {error}.') from error
    return ()


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if Path(name).suffix.lower() in PICTURE_SUFFIXES and not name.startswith("."):
                yield Path(root) / name
