"""A run's log: a line of JSON for each few steps, and the same to TensorBoard where that is installed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latpix.files.atomic import writing

LOG = "log.jsonl"


class RunLog:
    """The log of one process; only the first one of several writes.

    Args:
        run: the run's folder.
        step: where the run stands; lines from beyond, which a killed process left, are removed.
        writes: whether this process writes at all.
    """

    def __init__(self, run: Path, step: int, *, writes: bool = True) -> None:
        self.path = run / LOG
        self.board: Any = None
        self.writes = writes
        if not writes:
            return
        kept = [line for line in read_log(run) if line["step"] <= step]
        with writing(self.path, overwrite=True) as part:
            part.write_text("".join(json.dumps(line) + "\n" for line in kept))
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self.board = SummaryWriter(run / "tensorboard", purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float | str | list[str]]) -> None:
        """One line, on the disk before this returns to the loop."""
        if not self.writes:
            return
        with self.path.open("a") as log:
            log.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            if self.board is not None and isinstance(value, float):
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out what is left."""
        if self.board is not None:
            self.board.close()


def read_log(run: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's log; a line that a killed process left half written is not one."""
    path, lines = run / LOG, []
    for text in path.read_text().splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
