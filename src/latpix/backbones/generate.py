"""Text to latent: a pipeline of diffusers, loaded by its row of the table, run once for several latents, stopped early.

    prompt --pipeline, N steps--> states after K1 < K2 < ... steps, and after N --states--> Latents

Nothing of it depends on the device but rounding: the noise is drawn on the CPU. Letters: N steps of a run, K of them.
"""

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from logging import ERROR
from pathlib import Path
from typing import Any

import torch

from latpix.backbones.hub import hub_file, is_hub_id, why
from latpix.backbones.registry import BACKBONES, Backbone, Generator
from latpix.backbones.schedules import schedule, scheduler_of
from latpix.backbones.states import StopAt, row_of_pipeline, run_with
from latpix.backbones.vae_files import read_config
from latpix.devices import is_out_of_memory, pick_device, pick_dtype
from latpix.errors import (
    CheckpointError,
    DownloadError,
    LatentError,
    MemoryLimitError,
    MissingExtraError,
    OptionError,
    ScheduleError,
    UsageError,
)
from latpix.files.latent_files import Latent

MULTIPLE = 16  # pixels: what every pipeline's tokens, or two cells of a latent, cover
INDEX = "model_index.json"  # says which class a folder's pipeline is


def generate_latents(
    pipe: Any,
    backbone: Backbone,
    *,
    prompt: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    height: int,
    width: int,
    seed: int,
    stop_at: Sequence[int] = (),
    final: bool = True,
    on_step: Callable[[int, int], None] | None = None,
) -> dict[int, Latent]:
    """Run a pipeline once and keep what it holds after some of its steps.

    Args:
        pipe: of ``load_pipeline``.
        backbone: its row.
        prompt: what to generate.
        steps: of a whole run; default the backbone's.
        guidance: how strongly the prompt is followed; default the backbone's.
        height: of the native picture in pixels.
        width: the same across.
        seed: of the pipeline's noise, which is drawn on the CPU.
        stop_at: steps after which a latent is taken, 1 to ``steps``.
        final: also take the last one; without, the steps after the last of ``stop_at`` are left out.
        on_step: told (step, steps) after each step.

    Returns:
        Latents of one picture by the number of steps done, with prompt, seed and source.

    Raises:
        OptionError: a size that the backbone does not make.
        ScheduleError: a stop outside the run.
        UsageError: no prompt, nothing to take, a pipeline of another backbone, or one outside diffusers.
    """
    row = generator_of(backbone)
    if prompt is None:
        raise UsageError(f'"{backbone.name}" generates from text: give a prompt.')
    if generator_of(row_of_pipeline(pipe)).class_name != row.class_name:
        raise UsageError(f'"{backbone.name}" is run by {row.class_name}, but this pipeline is a {type(pipe).__name__}.')
    total = row.steps if steps is None else steps
    check_native_size(backbone, height, width)
    _check_range(backbone, stop_at, total)
    taken = sorted({*stop_at, *([total] if final else [])})
    if not taken:
        raise UsageError("nothing is to be taken of the run: give stop_at, or final=True.")

    def report(_pipe: Any, step_index: int, _timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        if on_step is not None:
            on_step(step_index + 1, total)
        return given

    stop = StopAt(taken, height=height, width=width)
    call = {
        **row.arguments,
        row.guidance_argument: row.guidance if guidance is None else guidance,
        "prompt": prompt,
        "height": height,
        "width": width,
        "num_inference_steps": total,
        "generator": torch.Generator("cpu").manual_seed(seed),
        "callback_on_step_end": report,
    }
    try:
        run_with(pipe, stop, call)
    except (RuntimeError, ValueError, TypeError, LookupError, MemoryError) as error:  # of libraries; ours are others
        if is_out_of_memory(error):
            raise MemoryLimitError(_too_large(row.class_name)) from error
        raise LatentError(f"the {row.class_name} failed on this prompt: {type(error).__name__} {error}") from error
    return {
        step: replace(latent, caption=prompt, seed=seed, source=f"{backbone.name}, step {step} of {total}")
        for step, latent in stop.latents.items()
    }


def check_native_size(backbone: Backbone, height: int, width: int) -> None:
    """Raise unless a backbone makes pictures of that size.

    Raises:
        OptionError: a side is no multiple of 16; the message names the nearest that are.
    """
    if min(height, width) >= MULTIPLE and height % MULTIPLE == width % MULTIPLE == 0:
        return
    below = [max(side // MULTIPLE, 1) * MULTIPLE for side in (width, height)]
    above = [max(-(-side // MULTIPLE), 1) * MULTIPLE for side in (width, height)]
    sizes = " or ".join(dict.fromkeys("x".join(map(str, size)) for size in (below, above)))
    raise OptionError(
        f'"{backbone.name}" makes pictures whose sides are multiples of {MULTIPLE} pixels, not {width}x{height}. '
        f"The nearest: {sizes}."
    )


def check_stops(
    backbone: Backbone,
    stops: Sequence[int],
    *,
    steps: int,
    height: int,
    width: int,
    max_latent_sigma: float = 1.0,
    model: str | Path | None = None,
) -> None:
    """Raise unless each stop lies in the run and leaves a latent that its decoder can read; loads no weights.

    Args:
        backbone: that generates.
        stops: steps after which it is stopped.
        steps: of a whole run.
        height: of the native picture in pixels.
        width: the same across.
        max_latent_sigma: the noisiest latent that the decoder was trained on.
        model: a pipeline's folder, whose scheduler is asked in place of the published one.

    Raises:
        ScheduleError: a stop outside the run.
        OptionError: a stop that leaves too much noise; the message names the first step that is clean enough.
    """
    _check_range(backbone, stops, steps)
    if not stops or max_latent_sigma >= 1 or backbone.generator is None:
        return
    levels = schedule(
        backbone, steps, height=height, width=width, scheduler=scheduler_of(backbone, model)
    ).latent_sigmas
    for stop in stops:
        if levels[stop] > max_latent_sigma:
            enough = next(step for step, level in enumerate(levels) if step and level <= max_latent_sigma)
            raise OptionError(
                f'after {stop} of {steps} steps, latents of "{backbone.name}" still have latent_sigma '
                f"{levels[stop]:.3f}, but the decoder was trained up to {max_latent_sigma}. "
                f"The first step that is clean enough is {enough} ({levels[enough]:.3f})."
            )


def load_pipeline(
    backbone: Backbone,
    *,
    model: str | Path | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    offload: bool = False,
) -> Any:
    """Load a backbone's pipeline; from the hub at its first use.

    Args:
        backbone: a row of the table.
        model: other weights: a folder as ``save_pretrained`` writes it, or a hub id.
        device: "auto" (an accelerator where there is one), or a torch device.
        dtype: "auto" (bfloat16 on accelerators and on CPUs with bf16 units, else float32), or its name.
        offload: keep on the accelerator only the part that works, the others in main memory.

    Raises:
        UsageError: the backbone generates outside diffusers, or the folder holds another one's pipeline, or none.
        CheckpointError: the pipeline is damaged, or lacks weights.
        DownloadError: the hub did not give it; the message says what to do by hand.
        MissingExtraError: diffusers or transformers is not installed, or too old.
        OptionError: no such device or dtype, or nothing to offload from.
    """
    row, where = generator_of(backbone), pick_device(device)
    kind = pick_dtype(dtype, where)
    made = _pipeline_class(row)
    if offload and where.type == "cpu":
        raise OptionError("offloading keeps weights off an accelerator, but the device is the CPU; leave it out.")
    if offload and find_spec("accelerate") is None:
        raise OptionError("offloading needs accelerate: pip install accelerate, or leave it out.")
    folder = _folder(backbone, row, row.model if model is None else str(model), made)
    with _quiet(), warnings.catch_warnings():
        # Its new name, `dtype`, is ignored by diffusers before 0.42.
        warnings.filterwarnings("ignore", message="`torch_dtype` is deprecated", category=FutureWarning)
        try:
            pipe = made.from_pretrained(folder, torch_dtype=kind)
        except (OSError, ValueError, LookupError, RuntimeError, TypeError) as error:
            raise CheckpointError(f'"{folder}" cannot be loaded as a {row.class_name}: {why(error)}.') from error
    _check_whole(pipe, folder)
    pipe.set_progress_bar_config(disable=True)  # ours is drawn by whoever asked for `on_step`
    try:
        if offload:
            pipe.enable_model_cpu_offload(device=where)
        else:
            pipe.to(where)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryLimitError(_too_large(row.class_name)) from error
    return pipe


def _too_large(class_name: str) -> str:
    return (
        f"the device has too little memory for this {class_name}: keep only its working part there (--offload), ask "
        "for a smaller --size, or for --dtype bfloat16."
    )


def generator_of(backbone: Backbone) -> Generator:
    """How a backbone generates.

    Raises:
        UsageError: outside diffusers.
    """
    if backbone.generator is None:
        raise UsageError(
            f'"{backbone.name}" generates in a package of its own, not in diffusers: save its latents with '
            "latpix.save_latent, then decode them. docs/guide/rae.md shows how."
        )
    return backbone.generator


def _check_range(backbone: Backbone, stops: Sequence[int], steps: int) -> None:
    if steps < 1:
        raise ScheduleError(f'"{backbone.name}" cannot run {steps} steps; give 1 or more.')
    for stop in stops:
        if not 1 <= stop <= steps:
            raise ScheduleError(
                f'"{backbone.name}" runs {steps} steps, so it cannot stop after {stop}: give 1 to {steps}.'
            )


def _pipeline_class(row: Generator) -> Any:
    for library in ("diffusers", "transformers"):
        if find_spec(library) is None:
            raise MissingExtraError.of("backbones", library)
    import diffusers
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(ERROR)  # it would miss torchvision, for encoders of pictures that nobody asked for
    try:
        return getattr(diffusers, row.class_name)
    except AttributeError as error:
        raise MissingExtraError(
            f"diffusers {diffusers.__version__} has no {row.class_name}; get a newer one: pip install -U diffusers"
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def _folder(backbone: Backbone, row: Generator, name: str, made: Any) -> Path:
    """Where the pipeline's files are, after what class it is was checked; from the hub if need be."""
    by_hand = (
        f"By hand: `hf download {row.model} --local-dir DIR` where there is a connection (accept the model's license "
        f"at https://huggingface.co/{row.model} and set HF_TOKEN if it asks), copy DIR here, and name it: --model DIR."
    )
    folder = Path(name)
    if not folder.is_dir():
        if folder.exists() or not is_hub_id(name):
            raise UsageError(
                f'"{name}" is no pipeline: expected a folder with {INDEX} in it, or a hub id such as {row.model}.'
            )
        _check_class(backbone, row, name, hub_file(name, INDEX, instead=by_hand))
        try:
            return Path(made.download(name))
        except Exception as error:  # the hub's library raises many kinds, its network library more
            raise DownloadError(f'"{name}" did not come from the hub: {why(error)}.\n{by_hand}') from error
    if not (folder / INDEX).is_file():
        raise UsageError(f'"{name}" holds no pipeline: there is no {INDEX} in it, as `save_pretrained` writes it.')
    _check_class(backbone, row, name, folder / INDEX)
    return folder


def _check_class(backbone: Backbone, row: Generator, name: str, index: Path) -> None:
    found = read_config(index).get("_class_name")
    if found == row.class_name:
        return
    fitting = [one.name for one in BACKBONES.values() if one.generator and one.generator.class_name == found]
    advice = f"Take --backbone {' or '.join(fitting)}." if fitting else "No backbone is run by that."
    raise UsageError(f'"{name}" holds a {found}, but backbone "{backbone.name}" is run by {row.class_name}. {advice}')


def _check_whole(pipe: Any, folder: Path) -> None:
    """diffusers leaves weights that it did not find without values."""
    missing = [
        f"{part}.{name}"
        for part, module in pipe.components.items()
        if isinstance(module, torch.nn.Module)
        for name, parameter in module.named_parameters()
        if parameter.is_meta
    ]
    if missing:
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        raise CheckpointError(f'"{folder}" lacks {", ".join(missing[:4])}{more}; it was not copied whole.')


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of other libraries within, unless a person watches."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    shown = [] if sys.stderr.isatty() else [of_diffusers, of_transformers]
    shown = [logging for logging in shown if logging.is_progress_bar_enabled()]
    for logging in shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging in shown:
            logging.enable_progress_bar()
