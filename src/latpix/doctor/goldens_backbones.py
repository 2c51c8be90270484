"""Recompute backbone goldens: normalization, packing, noising, SDXL's frame, pictures and vision tokens.

Each family is a ``.safetensors`` with a ``.json`` of the same name for what is not a tensor, or that alone. Tensors are
grouped by the first part of their names, and a group is a case: one space, one noising rule, one captured step. All
that makes a case comes from its files; what is a fact of its latent space stands in ``LATENT_SPACES``, and that is what
is tested.

Letters: b batch, c channels, g cells a side, h and w cells, n tokens.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from latpix.backbones.rae import VISIONS, encoder_input, on_grid
from latpix.doctor import goldens_captions, goldens_rae, goldens_schedules
from latpix.doctor.family import Case, Golden, Tensors, close, exact, skip
from latpix.doctor.rows import GoldenRow
from latpix.files.picture_files import read_picture
from latpix.latents.noising import edm_to_vp, noise_latent
from latpix.latents.normalize import Statistics, denormalize, normalize
from latpix.latents.packing import pack, patchify, unpack
from latpix.latents.spaces import LatentSpace, NoisingRule

ARITHMETIC, BATCH_NORM, RESIZE = (
    1e-6,
    2e-6,
    2e-6,
)  # from the goldens' README; absolute and relative. What only moves values is exact.


def run(folder: Path, device: torch.device | str = "cpu") -> Iterator[GoldenRow]:
    """A row per case found in ``folder``; families that are absent or unknown are skipped with a line on stderr."""
    names = sorted({path.stem for path in folder.glob("*.safetensors")} | {path.stem for path in folder.glob("*.json")})
    if not names:
        print(f"no backbone goldens in {folder}", file=sys.stderr)
    for name in names:
        path = folder / f"{name}.safetensors"
        if name not in RUNNERS or not (path.exists() or name in goldens_schedules.TABLES):
            skip(folder / name, "no golden of a known family")
            continue
        text = path.with_suffix(".json")
        description = json.loads(text.read_text()) if text.exists() else {}
        golden = Golden(folder, name, description, load_file(path, device=str(device)) if path.exists() else {})
        for case, error in RUNNERS[name](golden):
            yield GoldenRow.of(f"backbones/{name}.{case}", "backbones", error)


def run_normalization(golden: Golden) -> Iterator[Case]:
    """Raw to latent and back, per space."""
    for group, space, tensors in golden.spaces():
        latent = close(normalize(tensors["raw"], space), tensors["latent"], ARITHMETIC)
        yield group, max(latent, close(denormalize(tensors["latent"], space), tensors["raw_back"], ARITHMETIC))


def run_packing(golden: Golden) -> Iterator[Case]:
    """Tokens to latent and back, per space; where the raw latent is there, from it."""
    height, width = golden.description["image_height"], golden.description["image_width"]
    for group, space, tensors in golden.spaces():
        tokens, latent = tensors["tokens"], tensors["latent"]
        unpacked = unpack(tokens, space, height=height, width=width)
        errors = [exact(unpacked, latent), exact(pack(latent, space), tokens)]
        if "token_ids" in tensors:  # [b, n, 4]: 0, row, column, 0
            rows, columns = tensors["token_ids"][..., 1:3].unbind(-1)
            picture = torch.arange(len(tokens), device=tokens.device)[:, None]
            errors.append(exact(unpacked[picture, :, rows, columns], tokens))
        if "raw" in tensors:
            errors.extend(through_raw(space, tensors))
        yield group, max(errors)


def through_raw(space: LatentSpace, tensors: Tensors) -> Iterator[float]:
    """The raw latent's way to the latent and back, with the statistics that the golden brings."""
    statistics = Statistics(tensors["bn_mean"], tensors["bn_var"])
    raw_back = denormalize(tensors["latent"], space, statistics)
    yield exact(patchify(tensors["raw"], space.patchify), tensors["patched"])
    for name in ("latent", "latent_from_encoder"):
        yield close(normalize(tensors["raw"], space, statistics), tensors[name], BATCH_NORM)
    yield close(patchify(raw_back, space.patchify), tensors["denormalized"], BATCH_NORM)
    yield close(raw_back, tensors["raw_back"], BATCH_NORM)


def run_sdxl_frame(golden: Golden) -> Iterator[Case]:
    """Captured states of SDXL's scheduler, as latents and their latent_sigma; and the scheduler's levels."""
    for row in golden.description["rows"]:
        case = f"k{row['K']}"
        latent, latent_sigma = edm_to_vp(golden.tensors[f"{case}.edm"], row["sigma_edm"])
        level = abs(latent_sigma - row["latent_sigma"]) / ARITHMETIC
        yield case, max(close(latent, golden.tensors[f"{case}.vp"], ARITHMETIC), level)
    yield from goldens_schedules.run_sdxl(golden)


def run_noising(golden: Golden) -> Iterator[Case]:
    """One clean latent at every noise level, per rule."""
    clean, noise, sigmas = golden.tensors["clean"], golden.tensors["noise"], golden.description["sigmas"]
    groups = golden.groups()
    for rule in get_args(NoisingRule):
        for number, expected in groups.pop(rule, {}).items():
            noised = noise_latent(clean, noise, sigmas[int(number)], rule)
            yield f"{rule}.{number}", close(noised, expected, ARITHMETIC)
    for rule in groups:
        skip(golden.folder / f"{golden.name}: {rule}", "a noising rule that is not known here")


def run_images(golden: Golden) -> Iterator[Case]:
    """A picture read and cropped in its middle, and as vision encoders see it; vision tokens to latents and back."""
    picture = golden.folder / "picture.png"
    if picture.exists():
        expected = golden.tensors["cropped"]
        yield "cropped", close(crop(read_picture(picture), *expected.shape[2:]), expected, ARITHMETIC)
    raw, cropped = on_grid(golden.tensors["tokens"]), golden.tensors["cropped"]
    for group, space, tensors in golden.spaces():
        tiny = replace(space, channels=raw.shape[1], fixed_size=raw.shape[2])  # fewer and smaller than the real ones
        given = Statistics(tensors["stat_mean"], tensors["stat_var"]) if "stat_mean" in tensors else None
        errors = [close(normalize(raw, tiny, given), tensors["latent"], ARITHMETIC)]
        if "denormalized" in tensors:
            errors.append(close(denormalize(tensors["latent"], tiny, given), tensors["denormalized"], ARITHMETIC))
        if "encoder_input" in tensors and group in VISIONS:
            expected = tensors["encoder_input"]
            errors.append(close(encoder_input(cropped, expected.shape[-1], VISIONS[group]), expected, RESIZE))
        yield group, max(errors)


def crop(pixels: Float[Tensor, "b 3 H W"], height: int, width: int) -> Float[Tensor, "b 3 h w"]:
    """The middle of a picture."""
    top, left = (pixels.shape[2] - height) // 2, (pixels.shape[3] - width) // 2
    return pixels[..., top : top + height, left : left + width]


RUNNERS: dict[str, Callable[[Golden], Iterator[Case]]] = {
    "normalization": run_normalization,
    "packing": run_packing,
    "sdxl_frame": run_sdxl_frame,
    "noising": run_noising,
    "images": run_images,
    "captions": goldens_captions.run,
    "rae_decoder": goldens_rae.run,
    "schedules": goldens_schedules.run_schedules,
    "registry": goldens_schedules.run_registry,
}
