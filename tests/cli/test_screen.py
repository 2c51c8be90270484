"""What is shown where stderr is a terminal, and how much."""

import io
import sys
from pathlib import Path

from latpix.batching.inputs import Failure
from latpix.batching.outputs import Result, Work
from latpix.cli.screen import Screen, progress_bar
from latpix.errors import PictureError


def row(name):
    return Result(input=name, output=Path(name), height=4, width=6, seed=1, latent_sigma=0.0, seconds=2.0)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_is_drawn_on_a_terminal_and_results_stay_alone_on_stdout(capsys, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    work = Work(jobs=[], inputs=3, skipped=[])

    def rows(on_step):
        on_step(1, 4)
        yield row("a.png")
        on_step(2, 4)
        yield row("b.png")

    assert Screen().follow(work, rows) == 0
    assert capsys.readouterr().out == "a.png\nb.png\n"
    assert "step 1/4" in terminal.getvalue() or "0/0" in terminal.getvalue()
    assert "2 files in" in terminal.getvalue()


def test_no_bar_is_drawn_elsewhere(capsys):
    with progress_bar(3, shown=True) as bar, bar.aside():
        bar.step(1, 4)
        bar.advance()
    assert capsys.readouterr() == ("", "")


def test_the_exit_code_tells_one_failure_from_some(capsys):
    failure = Failure(input="a.png", error=PictureError("no"))
    for inputs, rows, code in ((1, [failure], 1), (2, [failure, row("b.png")], 3), (2, [failure, failure], 3)):
        work = Work(jobs=[], inputs=inputs, skipped=[])
        assert Screen().follow(work, lambda _on_step, rows=rows: iter(rows)) == code
