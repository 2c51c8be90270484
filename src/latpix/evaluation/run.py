"""Measure results against their originals: photographs through checkpoints, or pairs of files.

    photographs   each is shrunk, encoded, decoded by every checkpoint and by the plain way, and compared with itself
    pairs         each result is compared with its reference, however it was made

Pictures above 1024 pixels a side are measured on the crop of that size in their middle. What is wrong with one picture
leaves it out of every method's figures; the others go on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from latpix import __version__
from latpix.batching.inputs import Failure, read_entries
from latpix.batching.story import file_sha256
from latpix.devices import is_out_of_memory
from latpix.errors import LatpixError, ManifestError, MemoryLimitError, PictureError, UsageError
from latpix.evaluation.figures import Reference, Value, average, measurable, measure
from latpix.evaluation.methods import PATCH, Make, Method, Result
from latpix.evaluation.pictures import SCALE, shrink
from latpix.evaluation.sheet import busiest
from latpix.evaluation.store import Store
from latpix.files.inputs import check_input
from latpix.files.picture_files import read_picture

CROP = 1024  # pixels a side that are measured
ALIGNED = 64  # the crop's corner lies on a multiple, so that cells and patches stay where they were
SHOWN, PART = 4, 384  # pictures on the page, and the side of what is shown of each
PAIRS = "pairs"

Row = dict[str, Any]
OnRow = Callable[[Row, bool], None]  # a row, and whether it was there already


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured: a photograph, or a result and its reference; the original comes last."""

    name: str
    paths: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All rows of one method and their means."""

    label: str
    plain: bool
    rows: list[Row]
    metrics: dict[str, float | None]
    settings: dict[str, Any]

    def mean(self, key: str) -> float | None:
        """Of ``seconds``, where the method has a cost."""
        values = [row[key] for row in self.rows if row.get(key) is not None]
        return sum(values) / len(values) if values else None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What came out: each method, over the pictures that none of them failed on."""

    methods: list[Measured]
    figures: list[str]
    left_out: dict[str, list[str]]  # figures by the library that is not installed
    failures: list[Failure]


def evaluate(
    subjects: Sequence[Subject],
    methods: Sequence[Method],
    *,
    folder: Path | None = None,
    on_row: OnRow | None = None,
) -> Evaluation:
    """Measure each subject by each method; what ``folder`` holds already is not done again.

    Raises:
        OutputError: the folder holds figures with other settings, or something else.
    """
    if not subjects:
        raise UsageError("nothing to evaluate; name photographs, or --pairs FILE.jsonl.")
    figures, left_out = measurable()
    store = Store(folder)
    common = {"crop": CROP, "figures": figures}
    settings = {method.label: {**method.settings, **common} for method in methods}
    store.open(settings)
    failures: dict[str, Failure] = {}
    found: dict[str, list[Row]] = {}
    for method in methods:
        make: Make | None = None
        rows = found[method.label] = []
        for place, subject in enumerate(subjects):
            if subject.name in failures:
                continue
            try:
                digest = _digest(subject)
                row = store.row(subject.name, method.label, digest, shown=place < SHOWN)
            except LatpixError as error:
                failures[subject.name] = Failure(input=subject.name, error=error)
                continue
            there = row is not None
            if row is None:
                make = make or method.open()
                try:
                    row = {**_measured(subject, method, make, figures, store, place), "digest": digest}
                except LatpixError as error:
                    failures[subject.name] = Failure(input=subject.name, error=error)
                    continue
                store.keep(row)
            rows.append(row)
            if on_row is not None:
                on_row(row, there)
    measured = []
    for method in methods:
        rows = [row for row in found[method.label] if row["picture"] not in failures]
        values = [cast("dict[str, Value]", row["figures"]) for row in rows]
        measured.append(
            Measured(
                label=method.label,
                plain=method.plain,
                rows=rows,
                metrics=average(values, figures),
                settings=settings[method.label],
            )
        )
    return Evaluation(methods=measured, figures=figures, left_out=left_out, failures=[*failures.values()])


def pairs_method() -> Method:
    """Results that are there already."""

    def make(pictures: Sequence[Float[Tensor, "1 3 _ _"]]) -> Result:
        pixels, original = pictures
        reference = Reference(original=original, native_decode=shrink(original), cell=ALIGNED, patch=PATCH)
        return Result(pixels=pixels, reference=reference)

    settings = {"kind": "pairs", "latpix": __version__}
    return Method(label=PAIRS, settings=settings, scale=SCALE, open=lambda: make)


def read_pairs(path: str | Path) -> tuple[list[Subject], list[Failure]]:
    """The lines ``{"image": result, "reference": original}`` of a file; paths are relative to it.

    Raises:
        ManifestError: there is no such file, it is no text, or it is empty.
    """
    folder = Path(path).parent
    pairs: dict[tuple[str, str], None] = {}
    failures: list[Failure] = []
    for line in read_entries(path, "image", ("reference",)):
        if isinstance(line, Failure):
            failures.append(line)
        elif "reference" not in line:
            reason = f'the line of "{line["image"]}" in {path} has no "reference"; expected the path of its original.'
            failures.append(Failure(input=line["image"], error=ManifestError(reason)))
        else:
            pairs[line["image"], line["reference"]] = None
    images = [image for image, _ in pairs]
    subjects = [
        Subject(
            name=image if images.count(image) == 1 else f"{image} ({reference})",
            paths=(folder / image, folder / reference),
        )
        for image, reference in pairs
    ]
    return subjects, failures


def cropped(pixels: Float[Tensor, "1 3 H W"], scale: int) -> Float[Tensor, "1 3 h w"]:
    """What is measured of a picture: at most 1024 pixels a side of its middle, in whole native pixels."""
    height, width = (min(side, CROP) // scale * scale for side in pixels.shape[-2:])
    top, left = ((side - CROP) // 2 // ALIGNED * ALIGNED if side > CROP else 0 for side in pixels.shape[-2:])
    return pixels[..., top : top + height, left : left + width]


def _digest(subject: Subject) -> str:
    """Of all its files."""
    return " ".join(file_sha256(check_input(path, PictureError, "a picture")) for path in subject.paths)


def _measured(subject: Subject, method: Method, make: Make, figures: Sequence[str], store: Store, place: int) -> Row:
    """Make one result and measure it."""
    whole = [read_picture(path) for path in subject.paths]
    sizes = {tuple(picture.shape[-2:]) for picture in whole}
    if len(sizes) > 1:
        ours, theirs = (f"{picture.shape[3]}x{picture.shape[2]}" for picture in whole)
        raise PictureError(
            f"the result is {ours} pixels, its reference {theirs}; only pictures of one size can be compared."
        )
    pictures = [cropped(picture, method.scale) for picture in whole]
    try:
        result = make(pictures)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryLimitError(f"the device has too little memory for it; set --memory-limit. ({error})") from error
    values = measure(result.pixels, result.reference, figures)
    if place < SHOWN:
        _show(subject, method, result, store)
    height, width = pictures[-1].shape[-2:]
    size = (whole[-1].shape[2], whole[-1].shape[3])
    return {
        "picture": subject.name,
        "method": method.label,
        "height": height,
        "width": width,
        "cropped_from": None if size == (height, width) else list(size),
        "figures": values,
        "seconds": result.seconds,
        "peak_bytes": result.peak_bytes,
    }


@torch.no_grad()
def _show(subject: Subject, method: Method, result: Result, store: Store) -> None:
    """Keep the part with the most detail, of the result and of the original."""
    original = result.reference.original
    side = min(PART, *original.shape[-2:])
    top, left = busiest(original, side)
    window = (..., slice(top, top + side), slice(left, left + side))
    store.show(subject.name, "original", original[window])
    store.show(subject.name, method.label, result.pixels.cpu()[window])
