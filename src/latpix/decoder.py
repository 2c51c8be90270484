"""Decoder: load once, decode often; the one class most users meet.

    latent -> (padded to 8 cells a side) -> condition, once per tile -> sampler -> pixels -> cropped, resized if asked

Letters: b batch, c latent channels, h and w latent cells, H and W output pixels.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from latpix.checkpoints.load import LoadedCheckpoint, load
from latpix.checkpoints.registry import Checkpoint
from latpix.devices import (
    free_memory,
    is_out_of_memory,
    keep_little,
    parse_bytes,
    pick_device,
    pick_dtype,
    resident_bytes,
)
from latpix.errors import CheckpointError, MemoryLimitError, MemoryWarning, OptionError
from latpix.files.latent_files import Latent
from latpix.latents.check import check_latent
from latpix.latents.spaces import LATENT_SPACES, LatentSpace
from latpix.network.layers import TIMESTEP_SCALE
from latpix.network.model import build
from latpix.network.precision import resting_dtypes
from latpix.per_picture import captions_of, seeds_of, sigmas_of
from latpix.plan import PROCESS_BYTES, CostModel, Job, Plan, Setting, operations_per_second
from latpix.sampling.guidance import guide
from latpix.sampling.noise import noise_field
from latpix.sampling.samplers import Denoise, OnStep, sample_multistep, sample_ode, sample_renoise
from latpix.sampling.schedules import Times, solver_times, student_times
from latpix.tiling import Tile, cut_tiles, tiled

LEAST_CELLS = 8  # a side; smaller latents are padded inside
SCALES = (0.5, 16.0)
PAGE = 4096  # bytes of a file that are read together
LESS = 0.15  # of what a decode takes: the least that a way to go on must save


class Decoder:
    """A checkpoint on a device, ready to decode latents of its space."""

    def __init__(self, loaded: LoadedCheckpoint, device: torch.device, dtype: torch.dtype) -> None:
        self.checkpoint: Checkpoint = loaded.row
        self.network = loaded.network
        self.sha256 = loaded.sha256
        self.device, self.dtype = device, dtype
        self.last_setting: Setting | None = None  # how the last decode was done

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        like: str | None = None,
    ) -> Self:
        """Load a checkpoint.

        Args:
            checkpoint: a name of the registry (``latpix checkpoints list``), or a file.
            device: ``auto`` takes an accelerator if there is one.
            dtype: ``float32``, ``bfloat16`` or ``float16`` (Linear and Conv weights rest in it, the rest is float32),
            or
                ``auto``: bfloat16 where the device multiplies it in hardware.
            like: the registry row that a bare file follows, for what a file cannot tell.

        Raises:
            CheckpointError: unknown name, a file that fits no row, or several rows and no ``like``.
            OptionError: no such device or dtype.
        """
        picked = pick_device(device)
        picked_dtype = pick_dtype(dtype, picked)
        loaded = load(checkpoint, like=like, device=picked, dtype=picked_dtype)
        if not loaded.row.space:
            raise CheckpointError(
                f'"{loaded.row.name}" paints from text alone: it reads no latent, so it cannot decode one. '
                "`latpix checkpoints list` shows the checkpoints that do."
            )
        return cls(loaded, picked, picked_dtype)

    @classmethod
    def without_weights(
        cls, row: Checkpoint, *, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto"
    ) -> Self:
        """What a checkpoint can be asked before it is loaded: ``plan`` works, and refuses what ``decode`` would."""
        picked = pick_device(device)
        network = build(row.network, device="meta")
        return cls(LoadedCheckpoint(row, network, "", Path()), picked, pick_dtype(dtype, picked))

    @property
    def space(self) -> LatentSpace:
        """The latent space it reads."""
        return LATENT_SPACES[self.checkpoint.space]

    def to(self, device: str | torch.device) -> Self:
        """Move the weights to another device."""
        self.device = pick_device(device)
        self.network.to(self.device)
        return self

    @torch.no_grad()
    def decode(
        self,
        latent: Latent | Float[Tensor, "b c h w"],
        *,
        latent_sigma: float | Sequence[float] | None = None,
        caption: str | Sequence[str] | Float[Tensor, "#b l k"] | None = None,
        null_caption: str | Float[Tensor, "1 m k"] | None = None,
        caption_model: str | Path | None = None,
        seed: int | Sequence[int] | None = None,
        steps: int | None = None,
        scale: float | None = None,
        size: tuple[int, int] | None = None,
        tile: int | str = "auto",
        memory_limit: str | int | None = None,
        on_step: OnStep | None = None,
    ) -> Float[Tensor, "b 3 H W"]:
        """Paint the pictures that latents stand for.

        Args:
            latent: normalized values of the checkpoint's space; a Latent brings its own sigma, caption and seed.
            latent_sigma: how noisy it is, in [0, 1]; default the Latent's, else 0. One number, or one per picture.
            caption: what the pictures show: a text, one for each, or states of the text encoder ``[b, 300, 2304]``;
                default the Latent's; "" paints without words. Texts are looked up in the cache, else encoded before
                anything else, beside the decoder's weights (``latpix.captions.provide.embed`` does it apart).
                Checkpoints without a caption stream ignore it.
            null_caption: what the guidance of undistilled checkpoints pushes away from; default the negative prompt
                that they were trained with. Others ignore it.
            caption_model: hub id or folder of the text encoder, instead of the one of all released decoders.
            seed: picture k uses ``seed + k``; or a list. Default the Latent's, else 0.
            steps: 1 up to what the checkpoint was made for; default the checkpoint's.
            scale: output side / native side; another than the trained one is resampled afterwards.
            size: (height, width) of the output in pixels, instead of ``scale``.
            tile: ``auto``, ``off``, or a side in latent cells.
            memory_limit: such as ``"6GiB"``, of the whole process on a CPU, else of the accelerator; what does not
                fit is done in smaller pieces, then in tiles, or refused (``plan`` tells).
            on_step: called as ``on_step(step, steps, x0)`` after each step; steps count those of the whole batch.

        Returns:
            Pixels in [-1, 1], float32, on the decoder's device.

        Raises:
            LatentError: the latent is not one of the checkpoint's space.
            OptionError, ScheduleError, CaptionError, MemoryLimitError: an argument outside what the checkpoint can do.

        Where memory runs out all the same, the rest is done in a way that takes less, with a warning; only once.
        """
        story = latent if isinstance(latent, Latent) else Latent(tensor=latent, space=self.checkpoint.space)
        self._check_space(story)
        batch, _, h, w = story.tensor.shape
        sigmas = sigmas_of(story.latent_sigma if latent_sigma is None else latent_sigma, batch, self.checkpoint)
        seeds = seeds_of((story.seed or 0) if seed is None else seed, batch)
        captions = captions_of(
            story.caption if caption is None else caption,
            null_caption,
            batch,
            self.checkpoint,
            model=caption_model,
            device=self.device,
        )
        count = len(self._times(steps, h, w)) - 1
        target = self._target(story, scale, size)
        job = self._job(h, w, batch=batch, steps=count, target=target)
        if self.device.type == "cpu":
            keep_little()
        self.last_setting = self._choose(job, tile, memory_limit, may_split=False)
        retried = False

        def picture(k: int) -> Tensor:
            assert self.last_setting is not None
            painted = self._paint(
                story.tensor[k : k + 1].to(self.device, torch.float32),
                latent_sigma=sigmas[k],
                captions=[None if c is None else c[k : k + 1] for c in captions],
                seed=seeds[k],
                steps=steps,
                setting=self.last_setting,
                on_step=_count_on(on_step, k * count, batch * count),
            )
            return self._fit(painted, story, target)

        pictures: Tensor | None = None
        for k in range(batch):  # one at a time: a picture's bits do not depend on its neighbours
            one: Tensor | None = None
            try:
                one = picture(k)
            except (RuntimeError, MemoryError) as error:
                if retried or not is_out_of_memory(error):
                    raise
            if one is None:  # not in the except clause: there the error holds what was alive when it was raised
                free_memory()
                self.last_setting, retried = self._following(job, self.last_setting, tile), True
                one = picture(k)
            if batch == 1:
                return one.contiguous()
            pictures = one.new_empty(batch, *one.shape[1:]) if pictures is None else pictures
            pictures[k] = one[0]
        assert pictures is not None
        return pictures

    def plan(
        self,
        *,
        height: int,
        width: int,
        batch: int = 1,
        steps: int | None = None,
        tile: int | str = "auto",
        memory_limit: str | int | None = None,
        scale: float | None = None,
        size: tuple[int, int] | None = None,
    ) -> Plan:
        """What decoding ``batch`` latents of ``height`` x ``width`` cells will cost, without running it.

        Other arguments as of ``decode``. The peak counts what the process holds already (on a CPU), all pictures of the
        batch, and resampling.

        Raises:
            MemoryLimitError: nothing fits into ``memory_limit``; the message names the smallest that would do.
        """
        h, w = max(height, LEAST_CELLS), max(width, LEAST_CELLS)
        cell, costs = self.space.downsample * self.checkpoint.scale, self._costs()
        native = Latent(tensor=torch.empty(1, 1, height, width, device="meta"), space=self.checkpoint.space)
        target = self._target(native, scale, size)
        job = self._job(h, w, batch=batch, steps=len(self._times(steps, h, w)) - 1, target=target)
        setting = self._choose(job, tile, memory_limit, may_split=True)
        operations = batch * costs.operations(h, w, setting.tile, job.steps)
        return Plan(
            height=height * cell if target is None else target[0],
            width=width * cell if target is None else target[1],
            peak_bytes=costs.peak_bytes(job, setting),
            seconds=operations / operations_per_second(self.device, self.dtype),
            setting=setting,
            tiles=len(cut_tiles(h, w, setting.tile)),
        )

    def _paint(
        self,
        latent: Float[Tensor, "1 c h w"],
        *,
        latent_sigma: float,
        captions: Sequence[Tensor | None],
        seed: int,
        steps: int | None,
        setting: Setting,
        on_step: OnStep,
    ) -> Float[Tensor, "1 3 H W"]:
        """One picture at the trained scale, not cropped."""
        _, _, h, w = latent.shape
        bottom, right = max(0, LEAST_CELLS - h), max(0, LEAST_CELLS - w)
        latent = F.pad(latent, (0, right, 0, bottom), mode="replicate")
        tiles = cut_tiles(latent.shape[2], latent.shape[3], setting.tile)
        cell = self.space.downsample * self.checkpoint.scale
        base = self.network.base_decoder
        image = None if base is None else base.paint(latent, torch.full((1,), latent_sigma, device=self.device))
        caption, null_caption = captions
        conditional = self._denoiser(latent, image, latent_sigma, caption, tiles, setting)
        defaults = self.checkpoint.sampling
        denoise = conditional
        if null_caption is not None:
            unconditional = self._denoiser(latent, image, latent_sigma, null_caption, tiles, setting)
            denoise = guide(conditional, unconditional, defaults.guidance_scale)
        noise = noise_field([seed], 3, latent.shape[2] * cell, latent.shape[3] * cell, device=self.device)
        sample = {"sde": sample_renoise, "ode": sample_ode}[defaults.sampler]
        if defaults.kind != "student":
            sample = sample_multistep
        times = self._times(steps, latent.shape[2], latent.shape[3])
        pixels = sample(denoise, noise, times, prediction=defaults.prediction, on_step=on_step)
        return pixels.clamp(-1, 1)[..., : h * cell, : w * cell]

    def _denoiser(
        self,
        latent: Float[Tensor, "1 c h w"],
        image: Float[Tensor, "1 3 H W"] | None,
        latent_sigma: float,
        caption: Tensor | None,
        tiles: Sequence[Tile],
        setting: Setting,
    ) -> Denoise:
        """The network with its condition bound, tile by tile."""
        cell = self.space.downsample * self.checkpoint.scale

        def bind(tile: Tile) -> Denoise:
            condition = self.network.condition(
                height=tile.height * cell,
                width=tile.width * cell,
                latent=tile.crop(latent),
                latent_sigma=torch.full((1,), latent_sigma, device=self.device),
                caption=caption,
                image=None if image is None else tile.crop(image, cell),
                pieces=setting.pieces,
            )
            return lambda x_t, t: self.network(x_t, TIMESTEP_SCALE * t, condition)

        return tiled([bind(tile) for tile in tiles], tiles, cell)

    def _times(self, steps: int | None, h: int, w: int) -> Times:
        """The schedule of a decode of ``h`` x ``w`` cells."""
        defaults = self.checkpoint.sampling
        if steps is not None and not (steps == int(steps) and 1 <= steps <= defaults.max_steps):
            raise OptionError(
                f'steps is {steps}, but "{self.checkpoint.name}" decodes in 1 to {defaults.max_steps} steps '
                f"(default {defaults.steps})."
            )
        if defaults.kind == "student":
            return student_times(defaults.times, steps or defaults.steps, trained_steps=defaults.max_steps)
        cell = self.space.downsample * self.checkpoint.scale
        shift = defaults.dynamic_shift.at(h * cell, w * cell) if defaults.dynamic_shift else defaults.shift
        return solver_times(steps or defaults.steps, shift)

    def _check_space(self, latent: Latent) -> None:
        check_latent(latent.tensor, self.checkpoint.space, given=latent.space, checkpoint=self.checkpoint.name)

    def _costs(self, held: int | None = None) -> CostModel:
        row, on_cpu = self.checkpoint, self.device.type == "cpu"
        return CostModel(row.network, self._held() if held is None else held, self.dtype, on_cpu, guided=row.guided)

    def _held(self) -> int:
        """Bytes that are there before a decode: weights, and on a CPU what else the process holds."""
        resting = resting_dtypes(self.network, self.dtype)
        weights = sum(p.numel() * resting[name].itemsize for name, p in self.network.named_parameters())
        if self.device.type != "cpu":
            return weights
        here = not any(p.is_meta for p in self.network.parameters())
        for p in self.network.parameters() if here else ():
            p.flatten()[:: PAGE // p.element_size()].sum()  # a mapped file's pages count once they were read
        resident = resident_bytes()
        return resident if here and resident else weights + (resident or PROCESS_BYTES)

    def _job(self, h: int, w: int, *, batch: int, steps: int, target: tuple[int, int] | None) -> Job:
        h, w = max(h, LEAST_CELLS), max(w, LEAST_CELLS)
        return Job(h, w, batch=batch, steps=steps, output=None if target is None else target[0] * target[1])

    def _choose(self, job: Job, tile: int | str, limit: str | int | None, *, may_split: bool) -> Setting:
        """The quickest way that fits the limit; ``may_split``: pictures of a batch may be handed over one by one."""
        bytes_limit, side = None if limit is None else parse_bytes(limit), self._side(job, tile)
        if bytes_limit is None:
            return next(self._costs(held=0).settings(job, tile=side))
        costs = self._costs()
        try:
            return costs.choose(job, bytes_limit, tile=side, may_split=may_split)
        except MemoryLimitError:
            if side is None:
                raise
            costs.choose(job, bytes_limit, may_split=may_split)  # says what would fit, if nothing does
            raise OptionError(
                f'tile {tile} does not fit into {limit}; leave tile at "auto" to have one chosen that does.'
            ) from None

    def _following(self, job: Job, failed: Setting, tile: int | str) -> Setting:
        """The next way that takes a good deal less memory than one that ran out of it, with a word on it.

        Raises:
            MemoryLimitError: there is none.
        """
        costs = self._costs()
        took = costs.peak_bytes(job, failed)
        peaks = {s: costs.peak_bytes(job, s) for s in costs.settings(job, tile=self._side(job, tile), may_split=False)}
        less = {setting: peak for setting, peak in peaks.items() if peak < took}
        if not less:
            raise MemoryLimitError(
                f"the device {self.device} has too little memory for this, and nothing takes less: decode a smaller "
                "latent."
            )
        most = took - LESS * (took - costs.held)
        chosen = next((setting for setting, peak in less.items() if peak <= most), min(less, key=less.__getitem__))
        warnings.warn(
            f"the device {self.device} ran out of memory; going on with {', '.join(chosen.levers)}.",
            MemoryWarning,
            stacklevel=3,
        )
        return chosen

    def _side(self, job: Job, tile: int | str) -> int | None:
        """The side of a tile that was asked for; None leaves it to the plan."""
        if tile == "auto":
            return None
        if tile != "off" and (not isinstance(tile, int) or tile < LEAST_CELLS):
            raise OptionError(
                f'tile is {tile!r}; expected "auto", "off" or a side of at least {LEAST_CELLS} latent cells.'
            )
        whole = max(job.height, job.width)
        return whole if isinstance(tile, str) else min(tile, whole)

    def _target(self, latent: Latent, scale: float | None, size: tuple[int, int] | None) -> tuple[int, int] | None:
        """Height and width to resample to; None keeps what the network paints."""
        if size is not None and scale is not None:
            raise OptionError("scale and size were both given; give one of them.")
        native = self._native_size(latent)
        if size is not None:
            least, most = ([round(bound * side) for side in native] for bound in SCALES)
            if not all(low <= side <= high for low, side, high in zip(least, size, most, strict=True)):
                raise OptionError(
                    f"size is {size[1]}x{size[0]} pixels; a native picture of {native[1]}x{native[0]} can become "
                    f"{least[1]}x{least[0]} to {most[1]}x{most[0]}."
                )
            return size
        if scale is None or scale == self.checkpoint.scale:
            return None
        if not SCALES[0] <= scale <= SCALES[1]:
            raise OptionError(f"scale is {scale}; expected {SCALES[0]} to {SCALES[1]}.")
        return round(native[0] * scale), round(native[1] * scale)

    def _native_size(self, latent: Latent) -> tuple[int, int]:
        """Height and width of the native picture, without the padding that encoding added."""
        h, w = (side * self.space.downsample for side in latent.tensor.shape[-2:])
        return min(latent.native_height or h, h), min(latent.native_width or w, w)

    def _fit(
        self, pixels: Float[Tensor, "1 3 y x"], latent: Latent, target: tuple[int, int] | None
    ) -> Float[Tensor, "1 3 H W"]:
        """Crop to the native picture, then resample if asked."""
        height, width = (side * self.checkpoint.scale for side in self._native_size(latent))
        pixels = pixels[..., :height, :width]
        if target is None or target == (height, width):
            return pixels
        return F.interpolate(pixels, size=target, mode="bicubic", antialias=True).clamp_(-1, 1)


def _count_on(on_step: OnStep | None, done: int, steps: int) -> Callable[[int, int, Tensor], None]:
    """Report a picture's steps as steps of the whole batch."""

    def report(step: int, _steps: int, x0: Tensor) -> None:
        if on_step is not None:
            on_step(done + step, steps, x0)

    return report
