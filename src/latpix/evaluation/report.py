"""What an evaluation says: the document for programs, the table for a terminal, and the files of the report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latpix.batching.inputs import Failure
from latpix.evaluation.figures import FIGURES, number
from latpix.evaluation.page import page
from latpix.evaluation.run import CROP, PAIRS, SHOWN, Evaluation, Measured
from latpix.evaluation.store import Store


def document(evaluation: Evaluation, failures: Sequence[Failure] = ()) -> dict[str, Any]:
    """The first checkpoint's figures, every method's beside them, and what failed.

    Args:
        evaluation: what was measured.
        failures: inputs that could not even be tried.
    """
    first = next((method for method in evaluation.methods if not method.plain), evaluation.methods[0])
    failed = [*failures, *evaluation.failures]
    return {
        **_summary(first),
        "compared": [_summary(method) for method in evaluation.methods],
        "crop": CROP,
        "cropped": sum(row["cropped_from"] is not None for row in first.rows),
        "left_out": [key for keys in evaluation.left_out.values() for key in keys],
        "failed": [
            {"input": one.input, "error": type(one.error).__name__, "message": str(one.error)} for one in failed
        ],
    }


def table(evaluation: Evaluation) -> str:
    """The means, one line a method, for a terminal."""
    figures = [figure for figure in FIGURES if figure.key in evaluation.figures]
    lines = [["", *(figure.label for figure in figures), "seconds"]]
    for method in evaluation.methods:
        values = [method.metrics[figure.key] for figure in figures]
        lines.append([method.label, *map(number, [*values, method.mean("seconds")])])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def write_report(evaluation: Evaluation, folder: Path, failures: Sequence[Failure] = ()) -> Path:
    """Write ``report.json`` and ``report.html``; gives the page's path."""
    store = Store(folder)
    facts = document(evaluation, failures)
    facts["rows"] = [row for method in evaluation.methods for row in method.rows]
    facts["settings"] = {method.label: method.settings for method in evaluation.methods}
    store.write("report.json", json.dumps(facts, indent=1))
    shown = [row["picture"] for row in evaluation.methods[0].rows]
    parts = {
        picture: {label: store.shown(picture, label) for label in _labels(evaluation)}
        for picture in shown[:SHOWN]
        if all(store.has(picture, label) for label in _labels(evaluation))
    }
    return store.write("report.html", page(evaluation, facts, parts))


def _labels(evaluation: Evaluation) -> list[str]:
    return [*(method.label for method in evaluation.methods), "original"]


def _summary(method: Measured) -> dict[str, Any]:
    peaks = [row["peak_bytes"] for row in method.rows if row.get("peak_bytes")]
    return {
        "checkpoint": None if method.plain or method.label == PAIRS else method.label,
        "method": method.label,
        "pictures": len(method.rows),
        "metrics": method.metrics,
        "seconds": method.mean("seconds"),
        "peak_bytes": max(peaks, default=None),
    }
