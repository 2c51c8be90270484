"""The noise levels of a backbone's run, before it runs: diffusers' scheduler, called as the pipeline calls it.

    FLUX, Qwen-Image    levels 1 .. 1/N, shifted by mu, which is linear in the number of tokens
    FLUX.2              the same; mu is linear in the number of steps, with both ends linear in that of tokens
    SD3                 the scheduler's own levels; those of Z-Image fall from 1 to 1/N
    SDXL                Euler's sigmas, of the frame x = latent + sigma noise

Source: the pipelines' published defaults; Esser et al. 2024, section 5.3.2, on shifting by resolution.
Letters: N steps, n tokens.
"""

import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latpix.backbones.registry import Backbone
from latpix.errors import CheckpointError, MissingExtraError
from latpix.latents.spaces import find_space

TOKEN = 16  # pixels a side, of all pipelines that count tokens
# FLUX.1's; FLUX.2 computes its shift itself.
_DYNAMIC = {
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
# Of the published models; a model's own folder says more, see ``scheduler_of``.
SETTINGS: dict[str, dict[str, Any]] = {
    "flux": _DYNAMIC,
    "flux2": _DYNAMIC,
    "flux2-klein-4b": _DYNAMIC,
    "flux2-klein-9b": _DYNAMIC,
    "sd3": {"shift": 3.0},
    "sdxl": {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "timestep_spacing": "leading",
        "steps_offset": 1,
    },
    "qwenimage": {**_DYNAMIC, "shift": 1.0, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02},
    "zimage": {"shift": 6.0},
    "zimage-turbo": {"shift": 3.0},
}
SETTINGS["qwenimage-2512"] = SETTINGS["qwenimage"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One run of a backbone's scheduler."""

    sigmas: tuple[float, ...]  # N + 1, the last one 0; of SDXL up to about 12
    timesteps: tuple[float, ...]  # N
    latent_sigmas: tuple[float, ...]  # N + 1: entry K is how noisy the latent is after K steps, in [0, 1]
    mu: float | None  # of the dynamic shift


def sigmas(backbone: Backbone, steps: int, *, height: int, width: int, scheduler: Any = None) -> tuple[float, ...]:
    """The scheduler's noise levels, one more than there are steps; see ``schedule``."""
    return schedule(backbone, steps, height=height, width=width, scheduler=scheduler).sigmas


def schedule(backbone: Backbone, steps: int, *, height: int, width: int, scheduler: Any = None) -> Schedule:
    """The noise levels of a run, as the pipelines of diffusers 0.42 make them.

    Args:
        backbone: that generates.
        steps: of the whole run.
        height: of the native picture in pixels.
        width: the same across.
        scheduler: the pipeline's, which stays as it is; None: that of the published model.

    Raises:
        MissingExtraError: diffusers is not installed.
    """
    assert backbone.generator is not None
    given = scheduler_of(backbone) if scheduler is None else scheduler
    own = type(given).from_config(given.config)
    n = (height // TOKEN) * (width // TOKEN)
    kind = backbone.generator.class_name
    mu = None if kind == "StableDiffusionXLPipeline" else _mu(kind, n, steps, own.config)
    arguments: dict[str, Any] = {} if mu is None else {"mu": mu}
    if kind == "ZImagePipeline":
        arguments["sigmas"] = torch.linspace(1.0, 1 / steps, steps).tolist()
    elif mu is not None and kind != "StableDiffusion3Pipeline":
        arguments["sigmas"] = np.linspace(1.0, 1 / steps, steps)
    with warnings.catch_warnings():
        # numpy's, of how SDXL's scheduler makes an array of a tensor
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        own.set_timesteps(**({} if "sigmas" in arguments else {"num_inference_steps": steps}), **arguments)
    levels = tuple(own.sigmas.tolist())
    vp = find_space(backbone.space).noising == "vp"
    return Schedule(
        sigmas=levels,
        timesteps=tuple(own.timesteps.tolist()),
        latent_sigmas=tuple(level / math.hypot(level, 1) for level in levels) if vp else levels,
        mu=mu,
    )


def scheduler_of(backbone: Backbone, model: str | Path | None = None) -> Any:
    """The scheduler of a backbone: of a pipeline's folder, or else of the published model.

    Raises:
        CheckpointError: the folder's is none that diffusers knows.
        MissingExtraError: diffusers is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise MissingExtraError.of("backbones", "diffusers") from error
    file = None if model is None else Path(model) / "scheduler" / "scheduler_config.json"
    if file is not None and file.is_file():
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
            return getattr(diffusers, config["_class_name"]).from_config(config)
        except (ValueError, LookupError, AttributeError) as error:
            raise CheckpointError(f'"{file}" describes no scheduler of diffusers: {error}.') from error
    is_euler = find_space(backbone.space).noising == "vp"
    made = diffusers.EulerDiscreteScheduler if is_euler else diffusers.FlowMatchEulerDiscreteScheduler
    return made(**SETTINGS[backbone.name])


def _mu(kind: str, n: int, steps: int, config: Any) -> float | None:
    """How much a run of that many tokens is shifted; None where the scheduler shifts alike for all."""
    if kind in ("Flux2Pipeline", "Flux2KleinPipeline"):
        return _mu_of_steps(n, steps)
    if kind in ("StableDiffusion3Pipeline", "ZImagePipeline") and not config.get("use_dynamic_shifting"):
        return None
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, top = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (top - base) / (high - low)
    return float(n * slope + (base - slope * low))


def _mu_of_steps(n: int, steps: int) -> float:
    """FLUX.2's, a fit to what worked: on a line through its values for 10 and 200 steps."""
    at_10, at_200 = 8.73809524e-05 * n + 1.89833333, 0.00016927 * n + 0.45666666
    if n > 4300:
        return at_200
    slope = (at_200 - at_10) / 190
    return slope * steps + at_200 - 200 * slope
