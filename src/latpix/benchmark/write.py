"""The files of a benchmark."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latpix.benchmark.roofline import roofline
from latpix.files.atomic import writing


def write(document: Mapping[str, Any], folder: Path) -> Path:
    """Write ``bench.json``, and ``roofline.svg`` where something was timed, over older ones; gives the first's path."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"bench.json": json.dumps(document, indent=1) + "\n"}
    if document["cases"]:
        files["roofline.svg"] = roofline(document)
    for name, text in files.items():
        with writing(folder / name, overwrite=True) as part:
            part.write_text(text, encoding="utf-8")
    return folder / "bench.json"
