"""The report as one page: a table, a plot of each figure, and a slider between two ways to make a picture.

The page asks nobody for anything: styles, script, plots (SVG) and pictures (data URIs) are inside.
"""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from latpix import __version__
from latpix.evaluation.figures import FIGURES, Figure, number, worse_axis
from latpix.evaluation.run import Evaluation, Measured

COLOURS = ("#888780", "#2a78d6", "#c4501b", "#1b8a5a", "#8a4fb3", "#a8861c")
WIDTH, LINE, MARGIN = 420, 26, 12
ARROWS = {"higher": "↑", "lower": "↓", "one": "→ 1"}


def page(evaluation: Evaluation, facts: Mapping[str, Any], parts: Mapping[str, Mapping[str, bytes]]) -> str:
    """The whole page.

    Args:
        evaluation: what was measured.
        facts: its document.
        parts: of a few pictures, the JPEG of the same part by each method, and of the original.
    """
    figures = [figure for figure in FIGURES if figure.key in evaluation.figures]
    plots = "".join(_plot(figure, evaluation.methods) for figure in figures)
    body = [
        "<h1>latpix evaluate</h1>",
        f"<p>{_counted(facts['pictures'], 'picture')}. {_remarks(facts)}</p>",
        _table(figures, evaluation.methods),
        "<h2>Before and after</h2>" + _sliders(parts, evaluation.methods) if parts else "",
        f"<h2>Picture by picture</h2><p>A dot is a picture, the bar their mean.</p><div class=plots>{plots}</div>",
        _meanings(figures),
        _settings(evaluation.methods),
        _failures(facts["failed"]),
        f"<p class=small>latpix {escape(__version__)}</p>",
    ]
    assets = files("latpix.evaluation")
    style, script = ((assets / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>latpix evaluate</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style></head>\n<body>{''.join(body)}<script>{script}</script></body></html>\n"
    )


def _remarks(facts: Mapping[str, Any]) -> str:
    """What a reader must know of how it was measured."""
    remarks = []
    if facts["cropped"]:
        remarks.append(f"{facts['cropped']} of them were measured on a crop of at most {facts['crop']} pixels a side.")
    if facts["left_out"]:
        remarks.append(f"Left out, for want of a library: {', '.join(facts['left_out'])}.")
    if facts["failed"]:
        remarks.append(f"{len(facts['failed'])} failed and count nowhere; they are listed below.")
    return escape(" ".join(remarks))


def _table(figures: Sequence[Figure], methods: Sequence[Measured]) -> str:
    heads = "".join(f"<th title='{escape(f.meaning)}'>{escape(f.label)} {ARROWS[f.better]}</th>" for f in figures)
    rows = []
    for place, method in enumerate(methods):
        cells = []
        for figure in figures:
            value = method.metrics[figure.key]
            best = (
                len(methods) > 1
                and value is not None
                and _merit(figure, value)
                == max(_merit(figure, other) for one in methods if (other := one.metrics[figure.key]) is not None)
            )
            cells.append(f"<td{' class=best' if best else ''}>{number(value)}</td>")
        peak = max((row["peak_bytes"] for row in method.rows if row.get("peak_bytes")), default=None)
        memory = "-" if peak is None else f"{peak / 2**30:.2f}"
        rows.append(
            f"<tr><th><i style='background:{_colour(place)}'></i>{escape(method.label)}</th>{''.join(cells)}"
            f"<td>{number(method.mean('seconds'))}</td><td>{memory}</td></tr>"
        )
    return (
        f"<div class=wide><table><tr><th></th>{heads}<th>seconds</th>"
        "<th title='CUDA: of the decode; else the whole process at its highest so far'>memory, GiB</th></tr>"
        f"{''.join(rows)}</table></div>"
    )


def _plot(figure: Figure, methods: Sequence[Measured]) -> str:
    """One line a method: a dot for each picture, a bar at the mean."""
    values = [[worse_axis(row["figures"].get(figure.key)) for row in method.rows] for method in methods]
    known = [value for line in values for value in line if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    span = (high - low) or 1.0
    height = LINE * len(methods) + 2 * MARGIN + 12

    def x(value: float) -> float:
        return MARGIN + (WIDTH - 2 * MARGIN) * (0.5 if high == low else (value - low) / span)

    marks = []
    for place, (method, line) in enumerate(zip(methods, values, strict=True)):
        y = MARGIN + LINE * place + LINE / 2
        marks.append(f"<line x1={MARGIN} x2={WIDTH - MARGIN} y1={y} y2={y} class=axis />")
        for row, value in zip(method.rows, line, strict=True):
            if value is not None:
                tip = escape(f"{row['picture']}, {method.label}: {number(value)}")
                marks.append(
                    f"<circle cx='{x(value):.1f}' cy='{y}' r=3.5 fill='{_colour(place)}'><title>{tip}</title></circle>"
                )
        mean = method.metrics[figure.key]
        if mean is not None:
            at = min(max(x(mean), MARGIN), WIDTH - MARGIN)
            marks.append(f"<rect x='{at - 1.5:.1f}' y='{y - 9}' width=3 height=18 fill='{_colour(place)}' />")
    base = height - 4
    marks.append(f"<text x={MARGIN} y={base}>{number(low)}</text>")
    marks.append(f"<text x={WIDTH - MARGIN} y={base} text-anchor=end>{number(high)}</text>")
    title = f"{escape(figure.label)} {ARROWS[figure.better]}"
    svg = f"<svg viewBox='0 0 {WIDTH} {height}' role=img aria-label='{title}'>{''.join(marks)}</svg>"
    return f"<figure><figcaption>{title}</figcaption>{svg}</figure>"


def _sliders(parts: Mapping[str, Mapping[str, bytes]], methods: Sequence[Measured]) -> str:
    """The plain way on the left, the first checkpoint on the right; a reader may choose others."""
    labels = [*(method.label for method in methods), "original"]
    before = next((method.label for method in methods if method.plain), "original")
    after = next(method.label for method in methods if not method.plain)
    out = []
    for picture, shown in parts.items():
        pictures = "".join(
            f"<img alt='{escape(label)}' src='data:image/jpeg;base64,{base64.b64encode(shown[label]).decode()}'>"
            for label in labels
        )
        out.append(
            f"<section class=slider><h3>{escape(picture)}</h3><div class=bar>{_choice(labels, before, 'left')}"
            f"{_choice(labels, after, 'right')}</div><div class=stack>{pictures}</div>"
            "<input type=range min=0 max=100 value=50 aria-label='where the two pictures meet'></section>"
        )
    return f"<div class=plots>{''.join(out)}</div>"


def _choice(labels: Sequence[str], chosen: str, side: str) -> str:
    options = "".join(f"<option{' selected' if label == chosen else ''}>{escape(label)}</option>" for label in labels)
    return f"<select aria-label='{side}'>{options}</select>"


def _meanings(figures: Sequence[Figure]) -> str:
    rows = "".join(f"<dt>{escape(figure.label)}</dt><dd>{escape(figure.meaning)}</dd>" for figure in figures)
    return f"<h2>What the figures mean</h2><dl>{rows}</dl>"


def _settings(methods: Sequence[Measured]) -> str:
    rows = "".join(
        f"<dt>{escape(method.label)}</dt><dd>"
        + escape(", ".join(f"{key} {value}" for key, value in method.settings.items() if key != "figures"))
        + "</dd>"
        for method in methods
    )
    return f"<h2>Settings</h2><dl class=small>{rows}</dl>"


def _failures(failed: Sequence[Mapping[str, str]]) -> str:
    rows = "".join(f"<dt>{escape(one['input'])}</dt><dd>{escape(one['message'])}</dd>" for one in failed)
    return f"<h2>Failed</h2><dl>{rows}</dl>" if failed else ""


def _merit(figure: Figure, value: float) -> float:
    """Larger is better."""
    return {"higher": value, "lower": -value, "one": -abs(value - 1)}[figure.better]


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]
