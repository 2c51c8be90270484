"""Writing a file whole or not at all: a temporary file beside it, flushed to the disk, then renamed."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from latpix.errors import OutputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary path to write to; when the block ends without an error, it becomes ``path``.

    Whatever ends the block early, an interrupt included, leaves nothing behind and ``path`` as it was.

    Args:
        path: where the result belongs; its folder must exist.
        overwrite: replace a file that is there already.

    Raises:
        OutputError: ``path`` exists and may not be replaced, its folder is missing, the disk is full.
    """
    path = Path(path)
    check_output(path, overwrite=overwrite)
    part = path.with_name(f".latpix-{secrets.token_hex(6)}.part")
    try:
        part.touch()
        rights = part.stat().st_mode  # some libraries write files that only their owner may read
        yield part
        part.chmod(rights)
        _flush(part)
        check_output(path, overwrite=overwrite)  # again: it may have appeared while we were writing
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(_reason(error, path)) from error
    finally:
        part.unlink(missing_ok=True)


def check_output(path: Path, *, overwrite: bool = False) -> None:
    """Refuse an output that cannot be written, before any work starts.

    Raises:
        OutputError: ``path`` is a folder, exists and may not be replaced, or its folder is missing.
    """
    if path.is_dir():
        raise OutputError(f'"{path}" is a folder; name a file in it.')
    if path.exists() and not overwrite:
        raise OutputError(f'"{path}" exists already; choose another name, or ask for overwriting.')
    if not path.parent.is_dir():
        raise OutputError(f'the folder of "{path}" does not exist; make "{path.parent}" first.')


def _flush(part: Path) -> None:
    """Wait until the bytes are on the disk; some disks say only now that they are full."""
    with part.open("rb") as file:
        os.fsync(file.fileno())


def _reason(error: OSError | SafetensorError, path: Path) -> str:
    # safetensors reports the system's number only in its text: "I/O error: ... (os error 28)".
    text = str(error)
    if getattr(error, "errno", None) in FULL or any(f"(os error {number})" in text for number in FULL):
        return f'the disk is full: "{path}" was not written; free some space and try again.'
    return f'"{path}" cannot be written: {getattr(error, "strerror", None) or text}.'
