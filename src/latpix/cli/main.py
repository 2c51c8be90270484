"""``latpix``: the group of commands, and the one place where errors become messages and exit codes.

| code | meaning                                                                      |
| ---- | ---------------------------------------------------------------------------- |
| 0    | all done                                                                     |
| 1    | an error of ours, or the one input failed                                    |
| 2    | wrong usage                                                                  |
| 3    | several inputs, of which some failed: they are listed, the others are there |
| 130  | interrupted; what was finished is there                                      |
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import click

from latpix import __version__
from latpix.cli.screen import FAILED, Screen
from latpix.errors import LatpixError, MemoryWarning, UsageError

# In the order of --help.
COMMANDS = (
    "demo",
    "upscale",
    "encode",
    "decode",
    "generate",
    "caption",
    "plan",
    "checkpoints",
    "quantize",
    "data",
    "train",
    "distill",
    "doctor",
    "evaluate",
    "bench",
    "verify",
)
MISUSED, INTERRUPTED = 2, 130


class Commands(click.Group):
    """Commands by name; each one's module is imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"latpix.cli.{name}"), name)
        return command


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="latpix", message="%(prog)s %(version)s")
def latpix() -> None:
    """Turn the latents of image generators, and photographs, into pictures several times larger."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and give its exit code."""
    screen = Screen()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", MemoryWarning)
            warnings.showwarning = _showing(screen, warnings.showwarning)
            code = latpix.main(args=arguments, prog_name="latpix", standalone_mode=False, obj=screen)
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, click.Abort):
        screen.error("interrupted; what was finished is there.")
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return MISUSED
    except LatpixError as error:
        screen.error(f"{type(error).__name__}: {error}", error)
        return MISUSED if isinstance(error, UsageError) else FAILED


def _showing(screen: Screen, usual: Callable[..., None]) -> Callable[..., None]:
    """Python's way to show warnings, ours as notes."""

    def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, MemoryWarning):
            screen.note(str(message))
        else:
            usual(message, category, *where)

    return show


def main() -> None:
    """The entry point of the console script and of ``python -m latpix``."""
    sys.exit(run())
