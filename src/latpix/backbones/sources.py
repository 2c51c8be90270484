"""Where latents come from in a run: a pipeline of diffusers, or a generator of another package behind an adapter.

An adapter is a function of yours, named ``package.module:function``, that runs the other package:

    def sample(*, prompt, class_id, steps, stops, seed, device):
        ...                                        # load the generator at the first call, and keep it
        yield step, state, t                       # for each of `stops`: steps done, state [1,c,h,w], its noise level

States are latents of the backbone's space, normalized, clean at t = 0 and noise at t = 1. RAE's (dinov2) are what its
sampler holds; its last point has t = 0.0137 (``rae.rae_times``).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from latpix.backbones.encode import PictureCodec
from latpix.backbones.generate import generate_latents
from latpix.backbones.rae import latent_of_rae_state
from latpix.backbones.registry import Backbone
from latpix.backbones.vae import Vae
from latpix.errors import ScheduleError, UsageError
from latpix.files.latent_files import Latent

OnStep = Callable[[int, int], None]
Adapter = Callable[..., Iterable[tuple[int, Tensor, float]]]


@runtime_checkable
class Source(Protocol):
    """What a run asks for latents, and for the backbone's own pictures of them."""

    def latents(
        self, *, prompt: str | None, class_id: int | None, seed: int, stops: Sequence[int], on_step: OnStep | None
    ) -> dict[int, Latent]:
        """One run of the backbone: the latent after each of ``stops`` steps."""

    def native(self) -> PictureCodec:
        """What decodes a latent at native size."""


@dataclass(frozen=True, kw_only=True)
class PipelineSource:
    """A pipeline of ``generate.load_pipeline``, and how it is called."""

    pipe: Any
    row: Backbone
    height: int  # native, in pixels
    width: int
    steps: int  # of a whole run
    guidance: float | None = None
    memory_limit: str | int | None = None  # of its own decode
    codec: Callable[[], PictureCodec] | None = None  # that decodes in place of the pipeline's VAE

    def latents(
        self, *, prompt: str | None, class_id: int | None, seed: int, stops: Sequence[int], on_step: OnStep | None
    ) -> dict[int, Latent]:
        if class_id is not None:
            raise UsageError(f'"{self.row.name}" generates from text, not from classes; give a prompt.')
        return generate_latents(
            self.pipe,
            self.row,
            prompt=prompt,
            steps=self.steps,
            guidance=self.guidance,
            height=self.height,
            width=self.width,
            seed=seed,
            stop_at=[stop for stop in stops if stop < self.steps],
            final=self.steps in stops,
            on_step=on_step,
        )

    def native(self) -> PictureCodec:
        if self.codec is not None:
            return self.codec()
        return Vae.of(self.pipe.vae, self.row.space, memory_limit=self.memory_limit)


@dataclass(frozen=True, kw_only=True)
class AdapterSource:
    """A generator outside diffusers."""

    sample: Adapter
    row: Backbone
    steps: int
    device: str | torch.device
    codec: Callable[[], PictureCodec]

    def latents(
        self, *, prompt: str | None, class_id: int | None, seed: int, stops: Sequence[int], on_step: OnStep | None
    ) -> dict[int, Latent]:
        asked = {"prompt": prompt, "class_id": class_id, "steps": self.steps, "stops": sorted(stops), "seed": seed}
        found = {}
        for step, state, t in self.sample(**asked, device=self.device):
            source = f"{self.row.name}, step {step} of {self.steps}"
            found[step] = latent_of_rae_state(
                state.cpu(), t, space=self.row.space, caption=prompt, seed=seed, source=source
            )
            if on_step is not None:
                on_step(step, self.steps)
        missing = sorted(set(stops) - found.keys())
        if missing:
            raise ScheduleError(f"the adapter gave no state after {missing} of {self.steps} steps.")
        return found

    def native(self) -> PictureCodec:
        return self.codec()


def find_adapter(name: str) -> Adapter:
    """The function of a name ``package.module:function``.

    Raises:
        UsageError: there is none.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f'no adapter "{name}": {error}. Name a function as package.module:function, of a package that is installed.'
        ) from error
    adapter: Adapter = found
    return adapter
