"""``results.jsonl``: one line for each finished output, in the order of the items, whole at any time.

Several processes may write to one: each adds its line under a lock, and the file is replaced, never cut.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from latpix.files.atomic import writing

NAME = "results.jsonl"
ORDER = ("index", "step")  # what identifies and sorts a line


def add_result(folder: Path, row: Mapping[str, Any]) -> None:
    """Add a line to the folder's results, or replace that of the same item and step.

    Raises:
        OutputError: it cannot be written.
    """
    with FileLock(folder / f".{NAME}.lock"):
        rows = {_key(known): known for known in read_results(folder)}
        rows[_key(row)] = dict(row)
        lines = [json.dumps(rows[key], ensure_ascii=False) + "\n" for key in sorted(rows)]
        with writing(folder / NAME, overwrite=True) as part:
            part.write_text("".join(lines), encoding="utf-8")


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The lines of a folder's results; none where there is no file."""
    path = folder / NAME
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _key(row: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(row[name] for name in ORDER)
