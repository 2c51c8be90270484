"""What can be said of an input before its format matters: it exists, is a file, is not empty."""

from pathlib import Path

from latpix.errors import LatpixError


def check_input(path: str | Path, error: type[LatpixError], kind: str) -> Path:
    """The path of an input file that can be opened.

    Args:
        path: what the user named.
        error: the class to raise.
        kind: what was expected, with its article, e.g. "a picture".

    Raises:
        LatpixError: of class ``error``, when there is no such file, or nothing in it.
    """
    path = Path(path)
    if not path.exists():
        raise error(f'"{path}" does not exist; check the path.')
    if path.is_dir():
        raise error(f'"{path}" is a folder, not {kind}; name a file in it.')
    if path.stat().st_size == 0:
        raise error(f'"{path}" is empty (0 bytes), not {kind}; it was probably cut off while it was copied.')
    return path
