"""What a command shows: results on stdout; messages and progress on stderr.

Without ``--json`` stdout gets one output path a line; with it JSON, and nothing else. A progress bar appears where
stderr is a terminal.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from latpix.batching.inputs import Failure
    from latpix.batching.outputs import Result, Work
    from latpix.batching.shots import Generation

FAILED, SOME_FAILED = 1, 3


class Screen:
    """How much is said, and in which form; one for each command line."""

    def __init__(self) -> None:
        self.verbosity = 0  # -1 quiet, 0 usual, 1 more, 2 tracebacks too
        self.json = False

    def mute(self) -> None:
        """Say only what went wrong: another process speaks for this one too."""
        self.verbosity, self.json = -1, False

    def error(self, message: str, cause: BaseException | None = None) -> None:
        """Say what went wrong, however quiet; with the traceback of ``cause`` at -vv."""
        if cause is not None and self.verbosity > 1:
            import traceback

            traceback.print_exception(cause)
        click.echo(message, err=True)

    def note(self, message: str, *, level: int = 0) -> None:
        """Say something to people, unless they asked for less."""
        if self.verbosity >= level:
            click.echo(message, err=True)

    def document(self, value: Any) -> None:
        """One JSON document on a line of its own."""
        click.echo(json.dumps(value))

    def follow(
        self,
        work: "Work | Generation",
        start: Callable[[Callable[..., None]], "Iterator[Result | Failure]"],
        *,
        dry_run: bool = False,
    ) -> int:
        """Start the work, show each row as it comes, and give the exit code."""
        from latpix.batching.inputs import Failure

        began, made = time.perf_counter(), 0
        failures: list[Failure] = []
        for path in work.skipped:
            self.note(f"{path} is there already; skipped", level=1)
        with progress_bar(work.outputs, shown=self.verbosity >= 0 and not dry_run) as bar:
            for row in start(bar.step):
                with bar.aside():
                    if isinstance(row, Failure):
                        failures.append(row)
                        self._failure(row, alone=work.inputs == 1)
                    else:
                        made += 1
                        self._result(row, dry_run=dry_run)
                bar.advance()
        if not dry_run:
            self._sum_up(work, made, failures, time.perf_counter() - began)
        return 0 if not failures else FAILED if work.inputs == 1 else SOME_FAILED

    def _result(self, row: "Result", *, dry_run: bool) -> None:
        if self.json:
            self.document({**vars(row), "output": str(row.output), **({"dry_run": True} if dry_run else {})})
            return
        size = f"{row.width}x{row.height}"
        if dry_run:
            how = f"; {row.how}" if row.how else ""
            click.echo(f"{row.input} -> {row.output} ({size}, about {row.seconds:.0f} s{how})")
            return
        if self.verbosity >= 0:
            click.echo(click.format_filename(row.output))
        if row.how:
            self.note(f"  {row.how}")
        self.note(f"  {size}, seed {row.seed}, latent_sigma {row.latent_sigma}, {row.seconds:.1f} s", level=1)

    def _failure(self, row: "Failure", *, alone: bool) -> None:
        kind = type(row.error).__name__
        if self.json:
            self.document({"input": row.input, "error": kind, "message": str(row.error)})
        self.error(("" if alone else f"{row.input}: ") + f"{kind}: {row.error}", row.error)

    def _sum_up(self, work: "Work | Generation", made: int, failures: "list[Failure]", seconds: float) -> None:
        if made > 1:
            self.note(f"{made} files in {seconds:.1f} s, {seconds / made:.1f} s each")
        if work.skipped:
            self.note(f"{len(work.skipped)} were there already")
        if failures and work.inputs > 1:
            names = ", ".join(dict.fromkeys(failure.input for failure in failures))
            self.error(f"failed: {names}")


class _Bar:
    """A progress bar that counts outputs, and steps within them."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        # The bar must not catch stdout, which may be a pipe with results in it.
        self.progress = Progress(
            *columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self.task = self.progress.add_task("", total=total)
        self.done = 0

    def step(self, step: int, steps: int, what: str = "step") -> None:
        """A step of the output at hand is done."""
        self.progress.update(self.task, description=f"{what} {step}/{steps}")

    def advance(self) -> None:
        """An output is done."""
        self.done += 1
        self.progress.update(self.task, completed=self.done, description="")

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bar away while something else is printed."""
        self.progress.stop()
        yield
        self.progress.start()


class _NoBar:
    """The same, silent."""

    aside = nullcontext

    def step(self, step: int, steps: int, what: str = "step") -> None:
        """Show nothing."""

    def advance(self) -> None:
        """Show nothing."""


@contextmanager
def progress_bar(total: int, *, shown: bool) -> Iterator[_Bar | _NoBar]:
    """A progress bar on stderr, where that is a terminal."""
    if not (shown and sys.stderr.isatty()):
        yield _NoBar()
        return
    bar = _Bar(total)
    with bar.progress:
        yield bar
