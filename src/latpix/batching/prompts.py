"""What to generate: texts, a file of them, or a manifest become a list of prompts, in order.

A prompt file has one prompt a line; blank lines are dropped. A manifest is JSON Lines: ``caption``, optional ``seed``
and ``output``. What is wrong with one line becomes a Failure in its place, and the others run.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from latpix.batching.inputs import Failure, read_entries
from latpix.errors import ManifestError, UsageError
from latpix.files.inputs import check_input

_SLUG = 40  # characters of a prompt that its files are named after


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One text and what is asked of it alone."""

    index: int  # among all prompts, failed ones included
    text: str
    seed: int | None = None
    stem: str  # what its files' names begin with


def find_prompts(
    texts: Sequence[str], prompts: Path | None = None, manifest: Path | None = None
) -> list[Prompt | Failure]:
    """The prompts of a command line: texts, or a file, or a manifest.

    Raises:
        UsageError: none of the three, or several.
        ManifestError: the file cannot be read, or is empty.
    """
    given = [name for name, there in (("--prompt", texts), ("--prompts", prompts), ("--manifest", manifest)) if there]
    if len(given) != 1:
        which = " and ".join(given) + " were given" if given else "no prompt was given"
        raise UsageError(f"{which}; give --prompt TEXT, or --prompts FILE, or --manifest FILE.jsonl.")
    if manifest is not None:
        return [
            entry
            if isinstance(entry, Failure)
            else _prompt(k, entry["caption"], entry.get("seed"), entry.get("output"))
            for k, entry in enumerate(read_entries(manifest, "caption", ("seed", "output")))
        ]
    lines = read_prompts(prompts) if prompts is not None else list(texts)
    return [_prompt(k, text) for k, text in enumerate(lines)]


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


def _prompt(index: int, text: str, seed: int | None = None, stem: str | None = None) -> Prompt:
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower())[:_SLUG].strip("-")
    return Prompt(index=index, text=text, seed=seed, stem=stem or (f"{index:04d}_{slug}" if slug else f"{index:04d}"))
