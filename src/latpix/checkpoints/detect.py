"""What a bare file is: which registry rows its tensors fit, what can be read off their shapes, and what is wrong.

A file cannot tell its rotary reference, padding, scale, downsampling and depth-to-space, nor which latents it was
trained on; rows that differ only there fit alike, and ``like`` decides.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from latpix.checkpoints.convert import upstream_name
from latpix.checkpoints.registry import CHECKPOINTS, Checkpoint, shapes_of

SHOWN = 4  # names listed of each kind in a message
RGB_HEAD = "latent_projection.rgb_head."  # only training reads it; released v1.5 files have all of it or nothing

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What the shapes of a decoder's tensors tell."""

    family: Literal["v1", "v1.5", "pixeldit", "tiny"]
    width: int  # of patch tokens
    depth: int  # patch blocks
    latent_width: int | None = None
    latent_inputs: int | None = None  # channels that enter the latent projection, after any reordering

    def __str__(self) -> str:
        latent = f", latent projection {self.latent_width} wide on {self.latent_inputs} channels"
        return f"{self.family}, width {self.width}, {self.depth} blocks{latent if self.latent_width else ''}"


@dataclass(frozen=True)
class Difference:
    """Tensors of a file against those of a row, by upstream's names; empty where the file fits."""

    missing: tuple[str, ...]
    strange: tuple[str, ...]
    reshaped: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.strange or self.reshaped)

    def __str__(self) -> str:
        kinds = (("missing", self.missing), ("strange", self.strange), ("of another shape", self.reshaped))
        return "; ".join(f"{len(names)} {kind} ({shorten(names)})" for kind, names in kinds if names)


def traits(shapes: Shapes) -> Traits | None:
    """Read version and widths off a file; None if it is no network of this kind."""
    patches, blocks = shapes.get("patch_embedding.weight"), [n for n in shapes if n.startswith("patch_blocks.")]
    if patches is None or not blocks:
        return None
    width, depth = patches[0], len({name.split(".")[1] for name in blocks})
    latent = shapes.get("latent_projection.latent_stack.conv_in.weight")
    if latent is None:
        return Traits(family="pixeldit", width=width, depth=depth)
    family: Literal["v1", "v1.5", "tiny"] = "v1.5" if "pixel_gate.log_alpha" in shapes else "v1"
    return Traits(
        family=family if "caption_embedding.proj.weight" in shapes else "tiny",
        width=width,
        depth=depth,
        latent_width=latent[0],
        latent_inputs=latent[1],
    )


def difference(shapes: Shapes, row: Checkpoint) -> Difference:
    """What keeps a file from being a row's. The six tensors of the RGB head may be there or not, but only together."""
    head = _rgb_head(row)
    expected = {name: shape for name, shape in row.shapes.items() if name not in head}
    if has_rgb_head(shapes):
        expected |= head
    return Difference(
        missing=_named(name for name in expected if name not in shapes),
        strange=_named(name for name in shapes if name not in expected),
        reshaped=_named(name for name in expected if shapes.get(name, expected[name]) != expected[name]),
    )


def fits(shapes: Shapes, row: Checkpoint) -> bool:
    """Whether a file's tensors are exactly those of a row, the optional RGB head aside."""
    return not difference(shapes, row)


def fitting_rows(shapes: Shapes) -> list[Checkpoint]:
    """The registry rows that a file's tensors fit.

    A file with an RGB head may be a teacher's, or a student's that kept it. One without is a student's: teachers are
    trained with it, and a teacher's file that lost it has to be named by ``like``.
    """
    rows = [row for row in CHECKPOINTS.values() if fits(shapes, row)]
    if has_rgb_head(shapes):
        return rows
    return [row for row in rows if row.network.rgb_head is None] or rows


def has_rgb_head(shapes: Shapes) -> bool:
    """Whether any tensor of the head is there."""
    return any(name.startswith(RGB_HEAD) for name in shapes)


def nearest_row(shapes: Shapes) -> Checkpoint | None:
    """The row that shares most tensors with a file; None if none shares any."""
    shared = {name: len(set(shapes.items()) & set(row.shapes.items())) for name, row in CHECKPOINTS.items()}
    best = max(shared, key=lambda name: shared[name])
    return CHECKPOINTS[best] if shared[best] else None


def misfit(path: Path, shapes: Shapes, row: Checkpoint | None = None) -> str:
    """Why a file is not a row's, or nobody's; says what it is instead, as far as that can be told.

    Args:
        path: of the file, for the message.
        shapes: of its tensors, by our names.
        row: the one that was asked for; None if any would have done.
    """
    nearest = row or nearest_row(shapes)
    if nearest is None:
        names = shorten(_named(shapes))
        return f'"{path}" is not a checkpoint of a pixel decoder: its {len(shapes)} tensors are all strange ({names}).'
    found = traits(shapes)
    looks = f" By its shapes it is {found}." if found else ""
    what = (
        f'"{path}" is not a "{row.name}" file' if row else f'"{path}" fits no registry row; nearest is "{nearest.name}"'
    )
    fitting = ", ".join(other.name for other in fitting_rows(shapes)) or "none"
    instead = f" Registry rows that fit: {fitting}." if row else ""
    return (
        f"{what}: of its {len(shapes)} tensors and the {len(nearest.shapes)} expected, {difference(shapes, nearest)}."
        f"{looks}{instead}"
    )


def ambiguity(path: Path, rows: Sequence[Checkpoint]) -> str:
    """That several rows fit, and how to say which; a released file's folder, if it kept its name, makes the example."""
    named = [row for row in rows if row.upstream_path and Path(row.upstream_path).parent.name in path.resolve().parts]
    example = (named or [*rows])[0].name
    return (
        f'"{path}" fits {len(rows)} registry rows, which differ in what a file cannot tell: '
        f"{', '.join(row.name for row in rows)}. Say which it is: like={example!r} "
        f"(on the command line --like {example})."
    )


def shorten(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _rgb_head(row: Checkpoint) -> Shapes:
    """The optional tensors of a row: the RGB head of v1.5, or of whatever was built with one."""
    if not row.version.startswith("v1.5") and row.network.rgb_head is None:
        return {}
    with_head = shapes_of(row.network if row.network.rgb_head is not None else replace(row.network, rgb_head=-1))
    return {name: shape for name, shape in with_head.items() if name.startswith(RGB_HEAD)}


def _named(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(upstream_name(name) for name in names))
