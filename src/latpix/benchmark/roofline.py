"""A roofline plot: how fast each case computes, over how much it computes for each byte that it moves.

No decode can lie above the roof: the slope is the memory's measured rate, the flat lines those of matrix products.
Operations are the plain algorithm's, bytes those counted operator by operator; where much stays in a cache, a point may
lie left of where the memory would put it. Source: Williams et al. 2009.
"""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

COLOURS = ("#2a78d6", "#c4501b", "#1b8a5a", "#8a4fb3", "#a8861c", "#b0355f", "#2b8f99", "#666666")
LEFT, TOP, WIDTH, HEIGHT, LEGEND, LINE = 70, 20, 460, 340, 250, 20
Point = tuple[float, float]  # operations per byte, operations per second


def roofline(document: Mapping[str, Any]) -> str:
    """The plot of a benchmark's document, as SVG: ours filled, the plain implementation hollow, a line between them."""
    rows = document["cases"]
    pairs = [(_point(row, "", row["ms"]), _point(row, "plain_", row["plain_ms"])) for row in rows]
    bandwidth, roofs = document["copy_bytes_per_second"], document["matmul_flops"]
    points = [point for pair in pairs for point in pair]
    ridges = [rate / bandwidth for rate in roofs.values()]
    x_low, x_high = _decades([*ridges, *(x for x, _ in points)])
    y_low, y_high = _decades([*roofs.values(), *(y for _, y in points)])

    def x(value: float) -> float:
        return LEFT + WIDTH * (math.log10(value) - x_low) / (x_high - x_low)

    def y(value: float) -> float:
        return TOP + HEIGHT * (y_high - math.log10(value)) / (y_high - y_low)

    parts = [*_axes(x, y, (x_low, x_high), (y_low, y_high))]
    for dtype, rate in roofs.items():
        parts.append(_line(x(rate / bandwidth), y(rate), x(10**x_high), y(rate), "roof"))
        parts.append(f"<text x='{LEFT + WIDTH}' y='{y(rate) - 4:.1f}' text-anchor='end'>{escape(dtype)} matmul</text>")
    start = max(10**x_low, 10**y_low / bandwidth)
    end = max(ridges)
    parts.append(_line(x(start), y(start * bandwidth), x(end), y(end * bandwidth), "roof"))
    parts.append(f"<text x='{x(start) + 6:.1f}' y='{y(start * bandwidth) - 8:.1f}'>copy</text>")
    for place, (row, (ours, plain)) in enumerate(zip(rows, pairs, strict=True)):
        colour = COLOURS[place % len(COLOURS)]
        parts.append(f"<g stroke='{colour}' fill='{colour}'>" + _line(x(ours[0]), y(ours[1]), x(plain[0]), y(plain[1])))
        parts.append(f"<circle cx='{x(plain[0]):.1f}' cy='{y(plain[1]):.1f}' r='4' fill='white'/>")
        tip = f"{row['name']}, {row['dtype']}: {ours[1] / 1e9:.4g} GFLOP/s at {ours[0]:.3g} operations a byte"
        parts.append(f"<circle cx='{x(ours[0]):.1f}' cy='{y(ours[1]):.1f}' r='4'><title>{escape(tip)}</title></circle>")
        level, edge = TOP + LINE * (place + 1), LEFT + WIDTH + 24
        parts.append(f"<circle cx='{edge}' cy='{level - 4}' r='4'/></g>")
        parts.append(f"<text x='{edge + 10}' y='{level}'>{escape(row['name'])}, {escape(row['dtype'])}</text>")
    size = (LEFT + WIDTH + LEGEND, TOP + HEIGHT + 50)
    title = escape(f"{document['device']}: filled latpix, hollow the plain implementation")
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {size[0]} {size[1]}' width='{size[0]}'>"
        "<style>text{font:12px sans-serif}.axis{stroke:#ddd}.roof{stroke:#333;stroke-width:1.5}</style>"
        f"<rect width='{size[0]}' height='{size[1]}' fill='white'/>{''.join(parts)}"
        f"<text x='{LEFT}' y='{size[1] - 4}'>{title}</text></svg>\n"
    )


def _point(row: Mapping[str, Any], prefix: str, ms: float) -> Point:
    return float(row["flops"] / row[f"{prefix}traffic_bytes"]), float(row["flops"] / (ms / 1000))


def _decades(values: list[float]) -> tuple[int, int]:
    """Powers of ten around all of them."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _axes(x: Any, y: Any, across: tuple[int, int], up: tuple[int, int]) -> list[str]:
    parts = []
    for power in range(across[0], across[1] + 1):
        at = x(10**power)
        parts.append(_line(at, TOP, at, TOP + HEIGHT, "axis"))
        parts.append(f"<text x='{at:.1f}' y='{TOP + HEIGHT + 16}' text-anchor='middle'>{10.0**power:g}</text>")
    for power in range(up[0], up[1] + 1):
        at = y(10**power)
        parts.append(_line(LEFT, at, LEFT + WIDTH, at, "axis"))
        parts.append(f"<text x='{LEFT - 6}' y='{at + 4:.1f}' text-anchor='end'>{10.0 ** (power - 9):g}</text>")
    parts.append(f"<text x='{LEFT + WIDTH / 2}' y='{TOP + HEIGHT + 32}' text-anchor='middle'>operations a byte</text>")
    parts.append(f"<text x='{LEFT}' y='{TOP - 6}'>GFLOP/s</text>")
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, kind: str = "") -> str:
    named = f" class='{kind}'" if kind else ""
    return f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}'{named}/>"
