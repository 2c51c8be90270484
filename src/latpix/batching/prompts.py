"""What to generate: texts, a file of them, or a manifest become a list of prompts, in order.

A prompt file has one prompt a line; blank lines are dropped. A manifest is JSON Lines: ``caption``, optional ``seed``
and ``output``. What is wrong with one line becomes a Failure in its place, and the others run.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latpix.batching.inputs import Failure, read_entries
from latpix.errors import ManifestError, UsageError
from latpix.files.inputs import check_input
from latpix.files.picture_files import PICTURE_SUFFIXES

LARGEST_SEED = 2**63 - 1
_LONGEST = 200  # bytes of a name; file systems take 255, and more is added to it
_SLUG = 40  # characters of a prompt that its files are named after


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One text and what is asked of it alone."""

    index: int  # among all prompts, failed ones included
    text: str  # as it is called in messages
    caption: str | None  # what the backbone is told; None for a class
    class_id: int | None = None
    seed: int | None = None
    stem: str  # what its files' names begin with


def find_prompts(
    texts: Sequence[str],
    prompts: Path | None = None,
    manifest: Path | None = None,
    *,
    class_ids: Sequence[int] = (),
) -> list[Prompt | Failure]:
    """The prompts of a command line: texts, or a file, or a manifest, or classes.

    Raises:
        UsageError: none of the four, or several.
        ManifestError: the file cannot be read, or is empty.
    """
    offered = {"--prompt": texts, "--prompts": prompts, "--manifest": manifest, "--class-id": class_ids}
    given = [name for name, there in offered.items() if there]
    if len(given) != 1:
        which = " and ".join(given) + " were given" if given else "no prompt was given"
        raise UsageError(f"{which}; give --prompt TEXT, or --prompts FILE, or --manifest FILE.jsonl.")
    if manifest is not None:
        return [
            entry if isinstance(entry, Failure) else _of_manifest(k, entry, manifest)
            for k, entry in enumerate(read_entries(manifest, "caption", ("seed", "output")))
        ]
    if class_ids:
        stems = [f"class{one:04d}" for one in class_ids]
        return [
            Prompt(index=k, text=f"class {one}", caption=None, class_id=one, stem=stem)
            for k, (one, stem) in enumerate(zip(class_ids, stems, strict=True))
        ]
    lines = read_prompts(prompts) if prompts is not None else list(texts)
    return [Prompt(index=k, text=text, caption=text, stem=_stem(k, text)) for k, text in enumerate(lines)]


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a text file, one a line; blank lines are dropped.

    Raises:
        ManifestError: there is no such file, it is no text in UTF-8, or it holds none.
    """
    path = check_input(path, ManifestError, "a prompt file")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ManifestError(f'"{path}" is not text in UTF-8: {error}.') from error
    found = [line for line in lines if line]
    if not found:
        raise ManifestError(f'"{path}" holds no prompt; write one a line.')
    return found


def _of_manifest(index: int, entry: dict[str, Any], manifest: Path) -> Prompt | Failure:
    """One line, whose seed can be one and whose output can be a name."""
    text, seed, output = entry["caption"], entry.get("seed"), entry.get("output")
    stem = (
        _stem(index, text) if output is None else str(Path(output).with_suffix("")) if _is_picture(output) else output
    )
    reason = None
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        reason = f"seed is {seed}; expected 0 to {LARGEST_SEED}."
    elif Path(stem).name != stem or not stem or len(stem.encode()) > _LONGEST:
        reason = f'output is "{output}"; expected a plain name of at most {_LONGEST} bytes.'
    if reason is not None:
        return Failure(input=text, error=ManifestError(f"entry {index + 1} of {manifest}: {reason}"))
    return Prompt(index=index, text=text, caption=text, seed=seed, stem=stem)


def _is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in PICTURE_SUFFIXES


def _stem(index: int, text: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower())[:_SLUG].strip("-")
    return f"{index:04d}_{slug}" if slug else f"{index:04d}"
