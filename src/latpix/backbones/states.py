"""What a pipeline of diffusers holds between two steps, as a Latent; and the callback that takes it and ends the loop.

| state               | of                        | becomes a latent by                               |
| ------------------- | ------------------------- | ------------------------------------------------- |
| tokens [b,n,k]      | FLUX, FLUX.2, Qwen-Image  | unpacking, for which the picture's size is needed |
| cells [b,c,h,w]     | SD3, Z-Image              | nothing                                           |
| cells, at sigma     | SDXL                      | division by sqrt(sigma^2 + 1)                     |
| raw [b,32,h,w]      | FLUX.2 klein's own output | normalization with the VAE's statistics           |
| cells [b,c,1,h,w]   | Qwen-Image, unpacked      | dropping the frame axis                           |

Letters: b batch, n tokens, k values of a token, c channels, h and w cells, K steps done.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from latpix.backbones.registry import BACKBONES, Backbone, find_backbone
from latpix.backbones.vae import normalize_with
from latpix.errors import LatentError, ScheduleError, UsageError
from latpix.files.latent_files import Latent
from latpix.latents.noising import edm_to_vp
from latpix.latents.packing import unpack
from latpix.latents.spaces import find_space

Callback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]

# The first backbone of each class; those of one class share space and packing.
PIPELINES = {row.generator.class_name: row for row in reversed(BACKBONES.values()) if row.generator is not None}


class StopAt:
    """Ends a pipeline's loop after some steps and keeps its state as a Latent: a ``callback_on_step_end``.

        stop = latpix.StopAt(24, height=1024, width=1024)
        pipe("a cat", height=1024, width=1024, callback_on_step_end=stop, output_type="latent")
        pixels = decoder.decode(stop.latent)

    It serves any number of calls of any pipeline that is known, one after the other.

    Attributes:
        latents: the last call's, by the number of steps done.
    """

    def __init__(
        self, step: int | Sequence[int], *, height: int | None = None, width: int | None = None, stop: bool = True
    ) -> None:
        """Say when.

        Args:
            step: how many steps are to be done, 1 or more; several for several latents of one run.
            height: of the picture in pixels, as the pipeline is called with; needed where its state is packed (FLUX,
                FLUX.2, Qwen-Image).
            width: the same across.
            stop: leave out the steps after the last one asked for; False lets the pipeline run to its end.

        Raises:
            ScheduleError: no step, or one before the first.
        """
        self.steps = _checked(step if isinstance(step, Sequence) else [step])
        self.height, self.width = height, width
        self.stop = stop
        self.latents: dict[int, Latent] = {}

    @property
    def latent(self) -> Latent:
        """The latent of the last step taken.

        Raises:
            UsageError: no run has come that far.
        """
        if not self.latents:
            raise UsageError("nothing was taken yet: call the pipeline with callback_on_step_end=... first.")
        return self.latents[max(self.latents)]

    @property
    def latent_sigma(self) -> float:
        """How noisy ``latent`` is."""
        return self.latent.latent_sigma

    def __call__(self, pipe: Any, step_index: int, timestep: Any, callback_kwargs: dict[str, Any]) -> dict[str, Any]:
        """What diffusers calls after each step.

        Raises:
            UsageError: the pipeline is none that is known, or it needs a size that was not given.
            ScheduleError: the run has fewer steps than were asked for.
            LatentError: the state does not fit the size that was given.
        """
        try:
            if step_index == 0:
                self._begin(pipe, callback_kwargs)
            if step_index + 1 in self.steps:
                self._take(pipe, step_index + 1, callback_kwargs["latents"])
        except Exception:
            pipe.maybe_free_model_hooks()  # an offloaded model goes back; the pipeline does not come to its end
            raise
        if self.stop and step_index + 1 >= self.steps[-1]:
            pipe._interrupt = True  # each call of a pipeline resets it
        return callback_kwargs

    def _begin(self, pipe: Any, callback_kwargs: dict[str, Any]) -> None:
        """Find what is wrong while no more than a step is lost."""
        self.latents = {}
        row, total = row_of_pipeline(pipe), pipe.num_timesteps
        if "latents" not in callback_kwargs:
            raise UsageError(
                'StopAt was not handed the state: put "latents" into callback_on_step_end_tensor_inputs, or leave that '
                "argument out."
            )
        if callback_kwargs["latents"].ndim == 3 and (self.height is None or self.width is None):
            raise UsageError(
                f"{type(pipe).__name__} packs its state, which then does not say how high and wide it is. Write "
                f"StopAt({_spelled(self.steps)}, height=..., width=...) with the size that the pipeline is called with."
            )
        if self.steps[-1] > total:
            raise ScheduleError(
                f"stopping after step {self.steps[-1]} was asked for, but this run has {total} steps: "
                f"give 1 to {total}, or more num_inference_steps."
            )
        _sigma(pipe, row, self.steps[0])

    def _take(self, pipe: Any, step: int, state: Tensor) -> None:
        row = row_of_pipeline(pipe)
        latent = state_to_latent(
            state,
            row.name,
            sigma=_sigma(pipe, row, step),
            height=self.height,
            width=self.width,
            vae=getattr(pipe, "vae", None),
        )
        self.latents[step] = replace(latent, source=f"{type(pipe).__name__}, step {step} of {pipe.num_timesteps}")


def run_until(pipe: Any, step: int, **call: Any) -> Latent:
    """Call a pipeline, end it after some steps, and give its state.

    Args:
        pipe: a pipeline of diffusers, of a class that generates for one of the backbones.
        step: how many steps are to be done, from 1 to the run's.
        call: what the pipeline is called with: ``prompt``, ``height``, ``width``, ``num_inference_steps``,
            ``generator``, a ``callback_on_step_end`` of your own, ... ``output_type`` does not matter.

    Returns:
        The latent, of all pictures of the batch; with the prompt as its caption where that is one text, and with the
        generator's seed.

    Raises:
        UsageError: the pipeline is none that is known, or the size cannot be told.
        ScheduleError: the run has fewer steps.
    """
    height, width = _size(pipe, row_of_pipeline(pipe), call)
    prompt = call.get("prompt")
    caption = prompt[0] if isinstance(prompt, list | tuple) and len(prompt) == 1 else prompt
    stop = StopAt(step, height=height, width=width)
    run_with(pipe, stop, call)
    return replace(stop.latent, caption=caption if isinstance(caption, str) else None, seed=_seed(call))


def run_with(pipe: Any, stop: StopAt, call: Mapping[str, Any]) -> None:
    """Call a pipeline for its states alone; whatever ends it early, an offloaded model goes back."""
    own = call.get("callback_on_step_end")
    inputs = getattr(own, "tensor_inputs", None) or call.get("callback_on_step_end_tensor_inputs") or []
    with warnings.catch_warnings():
        # numpy's, of how SDXL's scheduler makes an array of a tensor
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        try:
            pipe(
                **{
                    **call,
                    "output_type": "latent",
                    "callback_on_step_end": stop if own is None else _both(own, stop),
                    "callback_on_step_end_tensor_inputs": list(dict.fromkeys(["latents", *inputs])),
                }
            )
        except BaseException:
            pipe.maybe_free_model_hooks()
            raise


@torch.no_grad()
def state_to_latent(
    state: Tensor,
    backbone: str,
    *,
    sigma: float = 0.0,
    height: int | None = None,
    width: int | None = None,
    vae: nn.Module | None = None,
) -> Latent:
    """A pipeline's state, or what it returned with ``output_type="latent"``, as a Latent.

    Args:
        state: in any of the forms of the module's table.
        backbone: its name (flux), or the pipeline's class (FluxPipeline).
        sigma: the scheduler's, at which the state is now: ``scheduler.sigmas[K]`` after K steps.
        height: of the picture in pixels, as the pipeline was called with; needed for tokens.
        width: the same across.
        vae: the pipeline's; needed for a raw state.

    Returns:
        The latent on the CPU, widened to float32 (which is exact).

    Raises:
        UsageError: no such backbone, or a size or a VAE is missing.
        LatentError: the state is none of the backbone's, or does not fit the size.
    """
    row = PIPELINES.get(backbone) or find_backbone(backbone)
    space = find_space(row.space)
    cells = state.detach().to("cpu", torch.float32)
    if cells.ndim == 3:
        if height is None or width is None:
            raise UsageError("packed tokens do not say their picture's size: give height=... and width=....")
        cells = unpack(cells, space, height=height, width=width)
    if cells.ndim == 5 and cells.shape[2] == 1:
        cells = cells[:, :, 0]
    if cells.ndim == 4 and cells.shape[1] == space.raw_channels != space.channels:
        if vae is None:
            raise UsageError(f"the state has {cells.shape[1]} channels, so it is raw: give the pipeline's vae=....")
        cells = normalize_with(cells, vae, space)
    if cells.ndim != 4 or cells.shape[1] != space.channels:
        raise LatentError(
            f'the state has shape {list(state.shape)}, but that of "{row.name}" is [b, {space.channels}, h, w], or '
            "packed."
        )
    if space.noising == "vp":
        cells, sigma = edm_to_vp(cells, sigma)
    if not 0 <= sigma <= 1:
        raise ScheduleError(f'a state of "{row.name}" at sigma {sigma:g} is no mixture of latent and noise.')
    rows, columns = cells.shape[-2:]
    return Latent(
        tensor=cells,
        space=space.name,
        latent_sigma=sigma,
        native_height=rows * space.downsample,
        native_width=columns * space.downsample,
    )


def row_of_pipeline(pipe: Any) -> Backbone:
    """The first backbone that a pipeline's class generates for.

    Raises:
        UsageError: it generates for none; the message lists the classes that do.
    """
    for base in type(pipe).__mro__:
        if base.__name__ in PIPELINES:
            return PIPELINES[base.__name__]
    raise UsageError(
        f"{type(pipe).__name__} is no pipeline that is known here; those are {', '.join(sorted(PIPELINES))}."
    )


def _sigma(pipe: Any, row: Backbone, step: int) -> float:
    """The noise level after some steps, as the pipeline's own scheduler has it."""
    scheduler = pipe.scheduler
    levels, vp = getattr(scheduler, "sigmas", None), find_space(row.space).noising == "vp"
    # Of SDXL's, only Euler's family holds latent + sigma * noise, and says so by starting from more than unit noise.
    strange = vp and float(getattr(scheduler, "init_noise_sigma", 1)) <= 1
    if levels is None or strange or scheduler.order != 1:
        name = "EulerDiscreteScheduler" if vp else "FlowMatchEulerDiscreteScheduler"
        raise ScheduleError(
            f"the states of {type(scheduler).__name__} cannot be read here. Set "
            f"pipe.scheduler = {name}.from_config(pipe.scheduler.config)."
        )
    return float(levels[min(step, len(levels) - 1)])


def _checked(steps: Sequence[int]) -> tuple[int, ...]:
    found = tuple(sorted(set(steps)))
    if not found or found[0] < 1:
        raise ScheduleError(f"step is {_spelled(steps)}; expected how many steps are to be done, 1 or more.")
    return found


def _spelled(steps: Sequence[int]) -> str:
    return str(steps[0]) if len(steps) == 1 else str(list(steps))


def _size(pipe: Any, row: Backbone, call: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Height and width of a call, as the pipeline will read them."""
    assert row.generator is not None
    sides = call.get("height"), call.get("width")
    if not row.generator.packed or all(sides):
        return sides
    if call.get("image") is not None:
        raise UsageError("with image=... the pipeline takes its size from there: give height=... and width=..., too.")
    default = pipe.default_sample_size * pipe.vae_scale_factor
    return sides[0] or default, sides[1] or default


def _seed(call: Mapping[str, Any]) -> int | None:
    """The seed that the pictures' noise came from; of a list one, if picture k has that + k."""
    given = call.get("generator")
    generators = given if isinstance(given, list | tuple) else [given] if given is not None else []
    seeds = [generator.initial_seed() for generator in generators]
    return seeds[0] if seeds and seeds == [seeds[0] + k for k in range(len(seeds))] else None


def _both(own: Callback, stop: StopAt) -> Callback:
    """The caller's callback first: what it makes of the state is what the loop goes on with."""

    def callback(pipe: Any, step_index: int, timestep: Any, callback_kwargs: dict[str, Any]) -> dict[str, Any]:
        changed = own(pipe, step_index, timestep, {**callback_kwargs})
        stop(pipe, step_index, timestep, {**callback_kwargs, **changed})
        return changed

    return callback
