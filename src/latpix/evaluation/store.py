"""The folder of an evaluation: what is measured is kept, and a second run goes on from there.

REPORT_DIR/settings.json     what was measured with which settings; others are refused
REPORT_DIR/rows/KEY.json     one result: a picture by one method, its figures, time and memory
REPORT_DIR/shown/KEY.jpg     a part of it, for the page
REPORT_DIR/report.json, report.html
"""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from latpix.errors import OutputError
from latpix.files.atomic import writing
from latpix.files.colour import pack

FORMAT = "latpix-evaluation-1"
JPEG_QUALITY = 92


class Store:
    """The folder; without one, nothing is kept and nothing found."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def open(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Take the folder for methods with these settings, or refuse; methods that it does not know are added.

        Raises:
            OutputError: it was made with other settings, or holds something else.
        """
        if self.folder is None:
            return
        if self.folder.exists() and not self.folder.is_dir():
            raise OutputError(f'"{self.folder}" is a file; name a folder for the report.')
        path = self.folder / "settings.json"
        found = _read(path)
        if found is None or found.get("format") != FORMAT:
            if self.folder.is_dir() and any(not one.name.startswith(".") for one in self.folder.iterdir()):
                raise OutputError(f'"{self.folder}" holds something other than an evaluation; name another folder.')
            found = {"format": FORMAT, "methods": {}}
        known: dict[str, Any] = found["methods"]
        asked = json.loads(json.dumps(settings))  # as the file would give them back
        kinds = {entry["kind"] == "pairs" for entry in [*known.values(), *asked.values()]}
        if len(kinds) > 1:
            raise OutputError(f'"{self.folder}" is an evaluation of {_other(asked)}; name another folder.')
        for method in known.keys() & asked.keys():
            keys = known[method].keys() | asked[method].keys()
            differing = sorted(key for key in keys if known[method].get(key) != asked[method].get(key))
            if differing:
                changes = "; ".join(
                    f"{key} {known[method].get(key)}, now {asked[method].get(key)}" for key in differing
                )
                raise OutputError(
                    f'"{self.folder}" has figures of "{method}" with other settings: {changes}. '
                    "Name another folder, or take the same settings."
                )
        for name in ("rows", "shown"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._write(path, {"format": FORMAT, "methods": {**known, **asked}})

    def row(self, picture: str, method: str, digest: str, *, shown: bool) -> dict[str, Any] | None:
        """What was measured before of the same bytes, with its part for the page if it will be ``shown``."""
        if self.folder is None:
            return None
        key = _key(picture, method)
        found = _read(self.folder / "rows" / f"{key}.json")
        if found is None or found.get("digest") != digest:
            return None
        return found if not shown or (self.has(picture, method) and self.has(picture, "original")) else None

    def keep(self, row: Mapping[str, Any]) -> None:
        """Write a row, whole or not at all."""
        if self.folder is not None:
            self._write(self.folder / "rows" / f"{_key(row['picture'], row['method'])}.json", row)

    def show(self, picture: str, method: str, pixels: Float[Tensor, "1 3 H W"]) -> None:
        """Write a part of a result for the page."""
        if self.folder is not None:
            data = io.BytesIO()
            pack(pixels[0]).save(data, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4")
            with writing(self._part(picture, method), overwrite=True) as part:
                part.write_bytes(data.getbuffer())

    def has(self, picture: str, method: str) -> bool:
        """Whether such a part is there."""
        return self.folder is not None and self._part(picture, method).is_file()

    def shown(self, picture: str, method: str) -> bytes:
        """That part's file."""
        return self._part(picture, method).read_bytes()

    def write(self, name: str, text: str) -> Path:
        """Write a file of the report."""
        assert self.folder is not None
        with writing(self.folder / name, overwrite=True) as part:
            part.write_text(text, encoding="utf-8")
        return self.folder / name

    def _part(self, picture: str, method: str) -> Path:
        assert self.folder is not None
        return self.folder / "shown" / f"{_key(picture, method)}.jpg"

    def _write(self, path: Path, value: Mapping[str, Any]) -> None:
        with writing(path, overwrite=True) as part:
            part.write_text(json.dumps(value, indent=1), encoding="utf-8")


def _key(picture: str, method: str) -> str:
    """A file's name: readable, and another for every picture and method."""
    readable = "".join(letter if letter.isalnum() else "-" for letter in Path(picture).stem)[:40]
    digest = hashlib.sha256("\0".join((picture, method)).encode()).hexdigest()
    return f"{readable}-{digest[:12]}"


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is none, or a damaged one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _other(asked: Mapping[str, Mapping[str, Any]]) -> str:
    return "photographs" if any(entry["kind"] == "pairs" for entry in asked.values()) else "pairs"
