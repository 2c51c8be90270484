"""Recompute what goldens say of whole backbones: their schedules, and upstream's registry against our tables.

``schedules`` and ``registry`` are a ``.json`` without tensors. Which sigmas another version of diffusers made
(``sigmas_diffusers_*``) is documentary. Letters: K steps done.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch

from latpix.backbones.registry import BACKBONES, RELEASE, Backbone
from latpix.backbones.schedules import Schedule, schedule
from latpix.checkpoints.registry import HUB, rows_that_read
from latpix.doctor.family import Case, Golden, close, skip

TABLES = ("schedules", "registry")  # families that are a .json alone
SIGMAS, SIGMAS_SDXL = 1e-6, 1e-5  # from the goldens' README; absolute and relative
VERSIONS = {"v1pt5": "v1.5"}  # upstream's spelling of what our names end in
BEYOND_SIZE = 1024  # pixels, where a schedule does not depend on it


def run_schedules(golden: Golden) -> Iterator[Case]:
    """Sigmas, timesteps, the shift, and the level of the state that is captured."""
    rows = golden.description.get("rows", [])
    for row in rows if rows and _can_schedule(golden) else []:
        backbone = BACKBONES.get(row["backbone"])
        if backbone is None or backbone.generator is None:
            skip(golden.folder / f"{golden.name}: {row['backbone']}", "a backbone that is not known here")
            continue
        height, width = row["ldm_height"], row["ldm_width"]
        made = _made(backbone, row["steps"], row["scheduler"], height, width)
        errors = [_close(made.sigmas, row["sigmas"]), _close(made.timesteps, row["timesteps"])]
        if row.get("mu") is not None:
            errors.append(_close([made.mu or 0], [row["mu"]]))
        if "capture" in row:
            captured = row["capture"]
            errors.append(_close([made.latent_sigmas[captured["K"]]], [captured["latent_sigma"]]))
            errors.append(_same(captured["step_index"], captured["K"] - 1))
        yield f"{row['backbone']}.{width}x{height}.{row['steps']}", max(errors)


def run_sdxl(golden: Golden) -> Iterator[Case]:
    """SDXL's own schedule, of the family whose other cases are states at some of its sigmas."""
    names = [name for name in ("sigmas", "timesteps") if name in golden.tensors]
    if names and _can_schedule(golden):
        described = golden.description
        made = _made(BACKBONES["sdxl"], described["steps"], described["scheduler"], BEYOND_SIZE, BEYOND_SIZE)
        for name in names:
            expected = golden.tensors[name]
            yield name, close(torch.tensor(getattr(made, name), dtype=expected.dtype), expected, SIGMAS_SDXL)


def run_registry(golden: Golden) -> Iterator[Case]:
    """Upstream's pipelines, files of encoders, and which checkpoint decodes which backbone, against our tables."""
    described = golden.description
    if "hub_repo" in described:
        yield "hub_repo", _same((RELEASE, HUB), (described["hub_repo"],) * 2)
    for name, expected in described.get("pipelines", {}).items():
        yield f"pipelines.{name}", _same(_pipeline(BACKBONES.get(name)), expected)
    for name, expected in described.get("vae_files", {}).items():
        yield f"vae_files.{name}", _same(_files(BACKBONES.get(name), expected), expected)
    for row in described.get("checkpoints", []):
        yield f"checkpoints.{row['backbone']}.{row['variant']}", _same(_checkpoint(row), (row["file"], row["scale"]))


def _made(backbone: Backbone, steps: int, settings: dict[str, Any], height: int, width: int) -> Schedule:
    """The schedule of the golden's own settings."""
    import diffusers

    settings = dict(settings)
    made = getattr(diffusers, settings.pop("cls", "FlowMatchEulerDiscreteScheduler"))
    return schedule(backbone, steps, height=height, width=width, scheduler=made(**settings))


def _can_schedule(golden: Golden) -> bool:
    if find_spec("diffusers") is not None:
        return True
    skip(golden.folder / golden.name, 'backbones need diffusers: pip install "latpix[backbones]"')
    return False


def _pipeline(backbone: Backbone | None) -> dict[str, object] | None:
    """Our row in the golden's words."""
    if backbone is None or backbone.generator is None:
        return None
    row = backbone.generator
    own = {} if row.guidance_argument == "guidance_scale" else {row.guidance_argument: row.guidance}
    return {
        "cls": f"diffusers.{row.class_name}",
        "model": row.model,
        "steps": row.steps,
        "guidance_scale": row.guidance,
        "extra": {**row.arguments, **own},
        "suggested_capture_steps": list(row.stops),
        "recommended_latent": "x0" if row.stop is None else row.stop,
    }


def _files(backbone: Backbone | None, like: object) -> object:
    """The files of a backbone's encoder, one or several as the golden has them."""
    if backbone is None:
        return None
    row = backbone.encoder
    if not isinstance(like, dict):
        return row.file
    held = {"encoder": row.model, "decoder": row.file, "stats": row.statistics, "decoder_config": row.decoder_config}
    return {name: value for name, value in held.items() if value is not None}


def _checkpoint(row: dict[str, Any]) -> tuple[str | None, int] | None:
    """File and scale of the checkpoint that we give a backbone in a variant."""
    backbone = BACKBONES.get(row["backbone"])
    alias = BACKBONES.get(row.get("alias_of") or row["backbone"])
    if backbone is None or alias is None or alias.space != backbone.space:
        return None
    variant, _, version = row["variant"].partition("_")
    name = "-".join([backbone.space, variant, *([VERSIONS.get(version, version)] if version else [])])
    found = [one for one in rows_that_read(backbone.space) if one.name == name and not one.withdrawn]
    return (found[0].upstream_path, found[0].scale) if found else None


def _close(ours: Any, expected: Any) -> float:
    return close(torch.tensor(ours, dtype=torch.float64), torch.tensor(expected, dtype=torch.float64), SIGMAS)


def _same(ours: object, expected: object) -> float:
    return 0.0 if ours == expected else float("inf")
