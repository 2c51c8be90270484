"""Every checkpoint there is: the released ones, the withdrawn ones that people still hold, and the shipped one.

A row is its difference to the release it belongs to. Source: the releases' configurations.
"""

import difflib
import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from latpix.errors import CheckpointError
from latpix.network.config import PIXELDIT, V1, V1_5, NetworkConfig
from latpix.network.model import build
from latpix.sampling.paths import Prediction
from latpix.sampling.schedules import DynamicShift

HUB = "nvidia/PiD"
FAR = 1.25  # how far beyond its trained sides a checkpoint still paints a picture in one piece
RELEASE_LICENSE = f"NVIDIA license of the hub repository {HUB} (see its model card)"

Version = Literal["v1", "v1.5", "v1.5-teacher", "pixeldit", "tiny"]


@dataclass(frozen=True, kw_only=True)
class SamplingDefaults:
    """How a checkpoint is meant to be sampled."""

    kind: Literal["student", "teacher", "text"] = "student"
    times: tuple[float, ...] | None = (0.999, 0.866, 0.634, 0.342, 0.0)
    steps: int = 4
    max_steps: int = 4
    sampler: Literal["sde", "ode"] = "sde"
    prediction: Prediction = "velocity"
    guidance_scale: float = 1.0
    shift: float = 6.0
    dynamic_shift: DynamicShift | None = None
    max_latent_sigma: float = 0.8  # the noisiest latent that training showed


STUDENT = SamplingDefaults()
TEACHER = SamplingDefaults(kind="teacher", times=None, steps=25, max_steps=200, guidance_scale=5.0)
TEXT = replace(TEACHER, kind="text", steps=50, guidance_scale=2.75)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One row: a network, what it reads, how it is sampled, and where its file is."""

    name: str
    space: str  # of the latents it reads; "" for text-to-image networks
    version: Version
    network: NetworkConfig
    sampling: SamplingDefaults = STUDENT
    upstream_path: str | None = None  # in the hub repository; None for shipped weights
    license: str = RELEASE_LICENSE
    native_sizes: tuple[int, int] = (512, 512)  # trained range of the native side, in pixels
    withdrawn: bool = False

    @property
    def scale(self) -> int:
        """Output side / native side."""
        return self.network.scale

    def knows(self, height: int, width: int) -> bool:
        """Whether a native picture of this size is inside the trained range; small ones are only a little soft.

        The area counts, as in training with several shapes; but no side may be longer than twice the largest.
        """
        most = self.native_sizes[1]
        return height * width <= (FAR * most) ** 2 and max(height, width) <= 2 * FAR * most

    @property
    def guided(self) -> bool:
        """Whether each step needs the null caption too: undistilled checkpoints, not students."""
        return bool(self.network.caption_width) and self.sampling.guidance_scale != 1

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter, by our name."""
        return shapes_of(self.network)

    @property
    def parameters(self) -> int:
        """How many numbers its network learned."""
        return sum(math.prod(shape) for shape in self.shapes.values())


@cache
def shapes_of(network: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of a network, by our name; rows of one layout share it."""
    return {name: tuple(p.shape) for name, p in build(network, device="meta").named_parameters()}


def _path(experiment: str) -> str:
    return f"checkpoints/{experiment}/model_ema_bf16.pth"


# What a space changes in the network; the spaces' other facts are in latents/spaces.py.
_V1 = {
    "flux1": V1,
    "flux2": replace(V1, latent_channels=128, latent_downsample=16),
    "sd3": V1,
    "sdxl": replace(V1, latent_channels=4),
    "qwen": V1,
    "dinov2": replace(V1, latent_channels=768, latent_downsample=16),
    "siglip": replace(V1, latent_channels=1152, latent_downsample=16, scale=8),
}
_V1_5 = {
    "flux1": V1_5,
    "flux2": replace(V1_5, latent_channels=128, latent_downsample=16, latent_unpatchify=2),
    "qwen": V1_5,
}
_UPSTREAM_SPACE = {"flux1": "flux", "qwen": "qwenimage"}  # where upstream's name differs from ours
_SHIFT_V1 = DynamicShift(base=4.0, reference=1024)
_SHIFT_V1_5 = DynamicShift(base=6.0, reference=2048)


def _v1_2k(space: str) -> Checkpoint:
    upstream, network = _UPSTREAM_SPACE.get(space, space), _V1[space]
    native = {"siglip": 256}.get(space, 512)
    return Checkpoint(
        name=f"{space}-2k",
        space=space,
        version="v1",
        network=network,
        upstream_path=_path(f"PiD_res2k_sr{network.scale}x_official_{upstream}_distill_4step"),
        native_sizes=(native, native),
    )


def _v1_2kto4k(space: str, *, withdrawn: bool = False, suffix: str = "") -> Checkpoint:
    upstream = _UPSTREAM_SPACE.get(space, space)
    return Checkpoint(
        name=f"{space}-2kto4k" + suffix.replace("_", "-"),
        space=space,
        version="v1",
        network=_V1[space],
        sampling=replace(STUDENT, dynamic_shift=_SHIFT_V1),
        upstream_path=_path(f"PiD_res2kto4k_sr4x_official_{upstream}_distill_4step{suffix}"),
        native_sizes=(512, 1024),
        withdrawn=withdrawn,
    )


def _v1_5(space: str) -> Checkpoint:
    upstream = _UPSTREAM_SPACE.get(space, space)
    return Checkpoint(
        name=f"{space}-2kto4k-v1.5",
        space=space,
        version="v1.5",
        network=_V1_5[space],
        sampling=replace(STUDENT, dynamic_shift=_SHIFT_V1_5),
        upstream_path=_path(f"PiD_v1pt5_res2kto4k_sr4x_official_{upstream}_distill_4step"),
        native_sizes=(512, 1024),
    )


def _v1_5_teacher(space: str) -> Checkpoint:
    upstream = _UPSTREAM_SPACE.get(space, space)
    return replace(
        _v1_5(space),
        name=f"{space}-2kto4k-v1.5-teacher",
        version="v1.5-teacher",
        network=replace(_V1_5[space], rgb_head=-1),
        sampling=replace(TEACHER, dynamic_shift=_SHIFT_V1_5),
        upstream_path=_path(f"PiD_v1pt5_res2kto4k_sr4x_official_{upstream}_undistilled"),
    )


_PIXELDIT = Checkpoint(
    name="pixeldit-2kto4k",
    space="",
    version="pixeldit",
    network=replace(PIXELDIT, scale=1),  # nothing is enlarged
    sampling=replace(TEXT, dynamic_shift=_SHIFT_V1_5),
    upstream_path=_path("PixelDiT_finetune_2kto4k"),
    native_sizes=(2048, 4096),
)

# Our own: small, caption-free, painting detail on top of a base decoder's picture; attention in windows of the trained
# grid.
FLUX2_TINY = NetworkConfig(
    latent_channels=128,
    latent_downsample=16,
    latent_unpatchify=2,
    image_channels=3,
    caption_width=0,
    width=256,
    heads=4,
    depth=4,
    rope_reference=None,
    attention_window=16,
    pixel_width=8,
    pixel_attention_width=128,
    pixel_heads=4,
    pixel_depth=1,
    latent_width=128,
    padding="replicate",
    pixel_gate=True,
    base_widths=(128, 96, 64, 64),
    base_blocks=(8, 5, 4, 3),
)
_TINY = Checkpoint(
    name="flux2-tiny",
    space="flux2",
    version="tiny",
    network=FLUX2_TINY,
    sampling=replace(STUDENT, prediction="x0"),
    license="Apache-2.0",
    native_sizes=(128, 1024),
)

_ROWS = (
    _TINY,
    *(_v1_2k(space) for space in ("flux1", "flux2", "sd3", "dinov2", "siglip")),
    *(_v1_2kto4k(space) for space in ("sd3", "sdxl")),
    *(_v1_5(space) for space in _V1_5),
    *(_v1_5_teacher(space) for space in _V1_5),
    _PIXELDIT,
    *(_v1_2kto4k(space, withdrawn=True) for space in ("flux1", "flux2", "qwen")),
    replace(_v1_2kto4k("flux2", withdrawn=True, suffix="_2606")),
)
CHECKPOINTS = {row.name: row for row in _ROWS}


def find(name: str) -> Checkpoint:
    """The row of a name.

    Raises:
        CheckpointError: no such row; the message lists names near it.
    """
    if name in CHECKPOINTS:
        return CHECKPOINTS[name]
    near = difflib.get_close_matches(name, CHECKPOINTS, n=4, cutoff=0.4) or list(CHECKPOINTS)
    raise CheckpointError(
        f'checkpoint "{name}" is neither a file nor in the registry. Did you mean {", ".join(near)}? '
        "`latpix checkpoints list` shows all."
    )


def advised(space: str) -> list[Checkpoint]:
    """The rows that are worth naming to somebody with latents of a space: released students."""
    return [row for row in rows_that_read(space) if not row.withdrawn and row.sampling.kind == "student"]


def rows_that_read(space: str) -> list[Checkpoint]:
    """The rows that decode latents of a space, those that are still released first."""
    return sorted((row for row in CHECKPOINTS.values() if row.space == space), key=lambda row: row.withdrawn)
