"""Tables and bars of flux2-tiny: each method beside the plain upscale of the same latents.

A gain is 1 - ours / plain for the distances and for NIQE (lower is better), and a difference for PSNR. The bars are
those of the first flux2-tiny, at the default number of steps on TAEF2's latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from latpix.evaluation.scores import Scores

FEATURE_GAIN = 0.03
STRUCTURE_TEXTURE_GAIN = 0.02
PSNR_LOSS = 0.3  # dB
COLOUR = 1.5  # levels

HEAD = "| latents | method | PSNR | feature | structure-texture | NIQE | native PSNR | colour (worst) | grid |"
RULE = "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"


@dataclass(frozen=True)
class Row:
    """Mean figures of one way to make pictures from one kind of latent."""

    latents: str
    method: str
    pictures: int
    scores: Scores
    worst_colour: float  # levels, of the worst picture


@dataclass(frozen=True)
class Bar:
    """One demand, what was measured, and whether it is met."""

    name: str
    wanted: float
    found: float
    met: bool


def table(rows: Sequence[Row]) -> str:
    """Markdown; gains in brackets are over the first row of the same latents."""
    lines = [HEAD, RULE]
    for row in rows:
        plain = first(rows, row.latents)
        a, b = row.scores, plain.scores
        distances = [(a.feature, b.feature), (a.structure_texture, b.structure_texture), (a.niqe, b.niqe)]
        cells = [
            row.latents,
            row.method,
            f"{a.psnr:.2f}" + ("" if row is plain else f" ({a.psnr - b.psnr:+.2f})"),
            *(f"{ours:.4f}" + ("" if row is plain else f" ({ours / theirs - 1:+.1%})") for ours, theirs in distances),
            f"{a.native_psnr:.2f}",
            f"{a.mean_colour:.2f} ({row.worst_colour:.2f})",
            f"{a.grid_rows:.3f} {a.grid_columns:.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def bars(rows: Sequence[Row], method: str) -> list[Bar]:
    """The bars for one method on TAEF2's latents."""
    plain, ours = first(rows, "TAEF2").scores, named(rows, "TAEF2", method)
    texture = 1 - ours.scores.structure_texture / plain.structure_texture
    return [
        at_least("feature distance below plain, share", FEATURE_GAIN, 1 - ours.scores.feature / plain.feature),
        at_least("structure-texture distance below plain, share", STRUCTURE_TEXTURE_GAIN, texture),
        at_most("PSNR below plain, dB", PSNR_LOSS, plain.psnr - ours.scores.psnr),
        at_most("mean colour off the codec's decode, levels", COLOUR, ours.worst_colour),
    ]


def noise_bars(rows: Sequence[Row], told: str, pretended: str) -> list[Bar]:
    """Being told latent_sigma must beat pretending that a noised latent is clean."""
    latents = rows[0].latents
    a, b = named(rows, latents, told).scores, named(rows, latents, pretended).scores
    return [
        at_least("feature distance, latent_sigma told, below pretending 0, share", 0, 1 - a.feature / b.feature),
        at_least("structure-texture, the same", 0, 1 - a.structure_texture / b.structure_texture),
    ]


def at_least(name: str, wanted: float, found: float) -> Bar:
    """Met from ``wanted`` upwards."""
    return Bar(f"{name}: at least", wanted, found, found >= wanted)


def at_most(name: str, wanted: float, found: float) -> Bar:
    """Met up to ``wanted``."""
    return Bar(f"{name}: at most", wanted, found, found <= wanted)


def bar_table(found: Sequence[Bar]) -> str:
    """Markdown."""
    lines = ["| bar | wanted | found | met |", "| --- | --- | --- | --- |"]
    lines += [f"| {bar.name} | {bar.wanted:g} | {bar.found:.4f} | {'yes' if bar.met else 'NO'} |" for bar in found]
    return "\n".join(lines)


def first(rows: Sequence[Row], latents: str) -> Row:
    """The row to beat: the plain upscale of the same latents."""
    return next(row for row in rows if row.latents == latents)


def named(rows: Sequence[Row], latents: str, method: str) -> Row:
    """One row."""
    return next(row for row in rows if (row.latents, row.method) == (latents, method))
