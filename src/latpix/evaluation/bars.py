"""Tables and bars of flux2-tiny: each method beside the plain upscale of the same latents.

A gain is 1 - ours / plain for the distances and for NIQE (lower is better), and a difference for PSNR. The bars are
those of a flux2-tiny trained on a CPU, at the default number of steps on TAEF2's latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from latpix.evaluation.scores import Scores

FEATURE_GAIN = 0.06
STRUCTURE_TEXTURE_GAIN = 0.05
NIQE_GAIN = 0.22
PSNR_LOSS = 0.5  # dB
NATIVE_PSNR = 32.0  # dB
COLOUR = 1.0  # levels
GRID = 0.05  # off the original's own ratio
SPECKS = 1.0  # levels above the plain upscale's own
NOISED_GAIN = 0.25
FLAT_GRAIN = 1.0  # levels

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
    plain, found = first(rows, "TAEF2").scores, named(rows, "TAEF2", method).scores
    grid = max(abs(found.grid_rows - 1), abs(found.grid_columns - 1))
    return [
        *gains(found, plain, FEATURE_GAIN, STRUCTURE_TEXTURE_GAIN, "plain"),
        at_least("NIQE below plain, share", NIQE_GAIN, 1 - found.niqe / plain.niqe),
        at_most("PSNR below plain, dB", PSNR_LOSS, plain.psnr - found.psnr),
        at_least("PSNR shrunk to native size, against the codec's decode, dB", NATIVE_PSNR, found.native_psnr),
        at_most("mean colour off the codec's decode, levels", COLOUR, found.mean_colour),
        at_most("grid at patch borders off the original's, share", GRID, grid),
        at_most("fixed pattern above plain's, levels", SPECKS, found.fixed_pattern - plain.fixed_pattern),
    ]


def sweep_bars(rows: Sequence[Row], clean: str, noised: Sequence[str], method: str, at: str) -> list[Bar]:
    """Noisier latents give poorer pictures, step by step, and at one level far better ones than plain.

    Args:
        rows: of all kinds of latents.
        clean, noised: the kinds, by rising noise.
        method: ours.
        at: the kind that is compared with the plain upscale of the same latent.
    """
    ours = [named(rows, kind, method).scores for kind in (clean, *noised)]
    rises = [
        min(b / a - 1 for a, b in pairwise(figures))
        for figures in ([one.feature for one in ours], [one.structure_texture for one in ours])
    ]
    found, plain = named(rows, at, method).scores, first(rows, at).scores
    return [
        at_least("distances' least rise from one noise level to the next, share", 0, min(rises)),
        *gains(found, plain, NOISED_GAIN, NOISED_GAIN, f"plain ({at})"),
    ]


def gains(found: Scores, plain: Scores, feature: float, structure_texture: float, against: str) -> list[Bar]:
    """How far both distances are below those of the plain upscale."""
    texture = 1 - found.structure_texture / plain.structure_texture
    return [
        at_least(f"feature distance below {against}, share", feature, 1 - found.feature / plain.feature),
        at_least(f"structure-texture distance below {against}, share", structure_texture, texture),
    ]


def flat_bar(levels: float) -> Bar:
    """Grain on a flat grey latent."""
    return at_most("grain on a flat latent, levels", FLAT_GRAIN, levels)


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
