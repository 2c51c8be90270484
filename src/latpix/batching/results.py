"""``results.jsonl``: a line for each finished output.

Several processes may write to one file: each adds its lines at the end, under a lock; the last line of an output
counts. ``settle_results`` puts the lines in the order of the items.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from latpix.errors import OutputError
from latpix.files.atomic import writing

NAME = "results.jsonl"


def add_result(folder: Path, row: Mapping[str, Any]) -> None:
    """Add a line to the folder's results.

    Raises:
        OutputError: it cannot be written.
    """
    with _lock(folder):
        try:
            with (folder / NAME).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            raise OutputError(f'"{folder / NAME}" cannot be written: {error.strerror}.') from error


def settle_results(folder: Path) -> None:
    """One line for each output, in the order of the items and of their steps."""
    with _lock(folder):
        rows = read_results(folder)
        if not rows:
            return
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in sorted(rows, key=_order)]
        with writing(folder / NAME, overwrite=True) as part:
            part.write_text("".join(lines), encoding="utf-8")


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The lines of a folder's results, the last of each output; none where there is no file.

    Raises:
        OutputError: a file of that name is there, and is none of ours.
    """
    path = folder / NAME
    if not path.is_file():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return list({row["output"]: row for row in rows if isinstance(row["index"], int)}.values())
    except (ValueError, LookupError, TypeError, OSError) as error:
        raise OutputError(f'"{path}" is no list of results of ours; move it away, or choose another folder.') from error


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["index"], row["step"], row["output"]


def _lock(folder: Path) -> FileLock:
    """One for each folder, kept where temporary files are, so that none stays among the results."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return FileLock(Path(tempfile.gettempdir()) / f"latpix-{name}.lock")
