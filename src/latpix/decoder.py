"""Decoder: load once, decode often; the one class most users meet.

    latent -> (padded to 8 cells a side) -> ``one_decode``, in tiles if large -> cropped, colours held, resized

Letters: b batch, c latent channels, h and w latent cells, H and W output pixels.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from latpix.arithmetic import sound
from latpix.checkpoints.load import LoadedCheckpoint, load, outline
from latpix.checkpoints.registry import Checkpoint
from latpix.colours import freedom_of, lock_colours
from latpix.compiling import compile_blocks
from latpix.devices import (
    free_memory,
    has_fp8,
    is_out_of_memory,
    keep_little,
    parse_bytes,
    pick_device,
    pick_dtype,
    reserved_bytes,
    resident_bytes,
)
from latpix.errors import CheckpointError, MemoryLimitError, MemoryWarning, OptionError, OutputError
from latpix.files.latent_files import Latent
from latpix.files.tiled_tiff import check_room, check_tiff_output, room_beside, save_tiff
from latpix.latents.check import check_latent
from latpix.latents.spaces import LATENT_SPACES, LatentSpace
from latpix.network.precision import QuantizedLinear, resting_dtypes
from latpix.one_decode import OneDecode
from latpix.per_picture import captions_of, seeds_of, sigmas_of
from latpix.plan import LOADING_BYTES, PROCESS_BYTES, CostModel, Job, Plan, Setting, operations_per_second
from latpix.sampling.samplers import OnStep
from latpix.sampling.schedules import Times, solver_times, student_times
from latpix.team import Team, all_or_none, alone
from latpix.tiling import count_tiles

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
        self.last_settings: tuple[Setting, ...] = ()  # how each picture of the last decode was painted
        self.compiled = False
        # Set, every decode is shared among its processes, which all must call it with the same arguments, and ``plan``
        # too; each gets the picture, which is that of one process to rounding.
        self.team: Team | None = None

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
                or ``auto``: bfloat16 where the device multiplies it in hardware.
            like: the registry row that a bare file follows, for what a file cannot tell.

        Raises:
            CheckpointError: unknown name, a file that fits no row, or several rows and no ``like``.
            OptionError: no such device or dtype.
        """
        picked = pick_device(device)
        picked_dtype = pick_dtype(dtype, picked)
        loaded = load(checkpoint, like=like, device=picked, dtype=picked_dtype)
        _check_decodes(loaded, picked)
        return cls(loaded, picked, picked_dtype)

    @classmethod
    def without_weights(
        cls,
        checkpoint: str | Path,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        like: str | None = None,
    ) -> Self:
        """What a checkpoint can be asked before it is loaded: ``plan`` works, and refuses what ``decode`` would.

        Arguments and errors are those of ``load``, but that a name of the registry need not be fetched.
        """
        picked = pick_device(device)
        picked_dtype = pick_dtype(dtype, picked)
        loaded = outline(checkpoint, like=like, dtype=picked_dtype)
        _check_decodes(loaded, picked)
        return cls(loaded, picked, picked_dtype)

    @property
    def space(self) -> LatentSpace:
        """The latent space it reads."""
        return LATENT_SPACES[self.checkpoint.space]

    def to(self, device: str | torch.device) -> Self:
        """Move the weights to another device."""
        self.device = pick_device(device)
        self.network.to(self.device)
        return self

    def compile(self) -> Self:
        """Compile the network's blocks when they run first: the first decodes take longer, the later ones less.

        Raises:
            OptionError: nothing can be compiled on this machine.
        """
        compile_blocks(self.network, self.device)
        self.compiled = True
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
        detail_map: Float[Tensor, "1 3 y x"] | None = None,
        colour_lock: bool | Float[Tensor, "#b 3 y x"] = False,
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
            detail_map: a picture in [-1, 1], stretched over the output: where it is white the gates are told that the
                latent is as noisy as they ever saw, and the network paints freely; where it is black they are told
                ``latent_sigma``, and it stays close.
            colour_lock: hold the colours, that is all that is coarser than 16 native pixels, to a picture of them,
                such as the codec's decode; True takes what the network's base decoder paints.
            tile: ``auto`` (whole inside the trained sizes, else tiles of the largest of them), ``off``, or a side in
                latent cells.
            memory_limit: such as ``"6GiB"``, of the whole process on a CPU, else of the accelerator; what does not
                fit is done in smaller pieces, then in tiles, or refused (``plan`` tells).
            on_step: called as ``on_step(step, steps, x0)`` after each step; steps count those of the whole batch. In
                tiles x0 is valid during the call only.

        Returns:
            Pixels in [-1, 1], float32, on the decoder's device.

        Raises:
            LatentError: the latent is not one of the checkpoint's space.
            OptionError, ScheduleError, CaptionError: an argument outside what the checkpoint can do.
            MemoryLimitError: nothing fits into ``memory_limit``, or memory ran out a second time.
            TeamError: one of several processes that share the picture failed.

        Where memory runs out all the same, the rest is done in a way that takes less, with a warning; only once, and
        not by several processes, which would no longer do the same. ``last_settings`` tells how each picture was
        painted.
        """
        with all_or_none(self.team):
            story = self._story(latent)
            batch, _, h, w = story.tensor.shape
            target = self._target(story, scale, size)
            reference = self._reference(colour_lock, batch)
            ones = self._ones(
                story,
                latent_sigma=latent_sigma,
                caption=caption,
                null_caption=null_caption,
                caption_model=caption_model,
                seed=seed,
                steps=steps,
                detail_map=detail_map,
            )
        count = len(ones[0].times) - 1
        job = self._job(h, w, batch=batch, steps=count, target=target)
        first = self._begin(job, tile, memory_limit)
        pictures: Tensor | None = None

        def paint(k: int, setting: Setting) -> None:
            nonlocal pictures
            one, report = replace(ones[k], pieces=setting.pieces), _count_on(on_step, k * count, batch * count)
            whole = setting.tile >= max(one.latent.shape[2:])
            painted = one.whole(report).clamp(-1, 1) if whole else one.tiled(setting.tile, report).whole().clamp_(-1, 1)
            (rows, columns), factor = self._native_size(story), self.checkpoint.scale
            painted = painted[..., : rows * factor, : columns * factor]
            if colour_lock is not False:
                held = one.base_at_native_size()[..., :rows, :columns] if reference is None else reference[k : k + 1]
                painted = lock_colours(painted, held.to(painted), scale=factor)
            painted = _resampled(painted, target).contiguous()
            if pictures is None:
                pictures = painted if batch == 1 else painted.new_empty(batch, *painted.shape[1:])
            if batch > 1:
                pictures[k] = painted[0]

        for k in range(batch):  # one at a time: a picture's bits do not depend on its neighbours
            self._with_enough_memory(partial(paint, k), job, tile, first)
        assert pictures is not None
        return pictures

    @torch.no_grad()
    def decode_to_tiff(
        self,
        latent: Latent | Float[Tensor, "1 c h w"],
        path: str | Path,
        *,
        latent_sigma: float | None = None,
        caption: str | Float[Tensor, "1 l k"] | None = None,
        null_caption: str | Float[Tensor, "1 m k"] | None = None,
        caption_model: str | Path | None = None,
        seed: int | None = None,
        steps: int | None = None,
        detail_map: Float[Tensor, "1 3 y x"] | None = None,
        tile: int | str = "auto",
        memory_limit: str | int | None = None,
        on_step: OnStep | None = None,
        metadata: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
        icc_profile: bytes | None = None,
        overwrite: bool = False,
    ) -> None:
        """Paint one picture of any size straight into a tiled TIFF file, at the trained scale.

        What is between steps lies in files beside the picture, 24 to 36 bytes per pixel of it, which go when it is
        done. Bits are those of ``decode`` with the same tiles to rounding.

        Args:
            path: ends in .tif or .tiff.
            metadata: as of ``save_picture``, or what gives it, called when the picture is painted.
            icc_profile, overwrite: as of ``save_picture``.
            on_step: its picture is a mapping of a file, and valid during the call only.
            latent, latent_sigma, caption, null_caption, caption_model, seed, steps, detail_map, tile, memory_limit:
                as of ``decode``.

        Raises:
            OutputError: the file cannot be written.
            LatentError, OptionError, ScheduleError, CaptionError, MemoryLimitError: as of ``decode``.

        Where memory runs out all the same, the picture is painted anew in a way that takes less, as by ``decode``.
        """
        path = Path(path)
        with all_or_none(self.team):
            check_tiff_output(path, overwrite=overwrite)
            story = self._story(latent)
            (one,) = self._ones(
                story,
                latent_sigma=latent_sigma,
                caption=caption,
                null_caption=null_caption,
                caption_model=caption_model,
                seed=seed,
                steps=steps,
                detail_map=detail_map,
            )
            check_room(path, one.bytes_in_files * (self.team.here if self.team else 1))  # each has files of its own
        height, width = (side * self.checkpoint.scale for side in self._native_size(story))
        job = self._job(*story.tensor.shape[2:], batch=1, steps=len(one.times) - 1, target=None, in_files=True)
        first = self._begin(job, tile, memory_limit)

        def paint(setting: Setting) -> None:
            with room_beside(path) as folder:
                painting = replace(one, pieces=setting.pieces)
                canvas = painting.tiled(setting.tile, _count_on(on_step, 0, len(one.times) - 1), folder)
                if self.team is not None and self.team.rank > 0:
                    return
                save_tiff(
                    canvas.read,
                    height,
                    width,
                    path,
                    metadata=metadata() if callable(metadata) else metadata,
                    icc_profile=icc_profile,
                    overwrite=overwrite,
                )

        self._with_enough_memory(paint, job, tile, first)

    def _begin(self, job: Job, tile: int | str, limit: str | int | None) -> Setting:
        """How to decode."""
        self.last_settings = ()
        if self.device.type == "cpu":
            keep_little(frugal=limit is not None)
        return self._choose(job, tile, limit)

    def _with_enough_memory(self, paint: Callable[[Setting], None], job: Job, tile: int | str, first: Setting) -> None:
        """Paint a picture as the one before it; where memory runs out in the ``first`` setting, in one that takes less.

        Raises:
            MemoryLimitError: it ran out again, or nothing takes less.
        """
        setting = self.last_settings[-1] if self.last_settings else first
        with sound(self.device, self.dtype, self.checkpoint.network.head_widths):
            if self._fits(paint, setting):
                return
            free_memory()
            if setting is first and self._fits(paint, self._following(job, first, tile)):
                return
        free_memory()
        raise MemoryLimitError(
            f"the device {self.device} ran out of memory again, in a decode that takes less: set a memory limit below "
            "what is free there, take a smaller tile, or decode a smaller latent."
        )

    def _fits(self, paint: Callable[[Setting], None], setting: Setting) -> bool:
        """Paint, and whether memory was enough; what was alive when it was not is gone.

        Raises:
            TeamError: this process cannot go on, and others wait for it.
        """
        before = self.last_settings
        self.last_settings = (*before, setting)  # a file's metadata, written while it is painted, tell it
        try:
            paint(setting)
        except (RuntimeError, MemoryError, OutputError) as error:
            if self.team is not None and (is_out_of_memory(error) or isinstance(error, OutputError)):
                raise alone(self.team, error) from error
            if not is_out_of_memory(error):
                raise
            self.last_settings = before
            return False
        return True

    def _ones(
        self,
        story: Latent,
        *,
        latent_sigma: float | Sequence[float] | None,
        caption: str | Sequence[str] | Tensor | None,
        null_caption: str | Tensor | None,
        caption_model: str | Path | None,
        seed: int | Sequence[int] | None,
        steps: int | None,
        detail_map: Tensor | None,
    ) -> list[OneDecode]:
        """Each picture of a batch, with all that it depends on; arguments as of ``decode``."""
        batch = len(story.tensor)
        sigmas = sigmas_of(story.latent_sigma if latent_sigma is None else latent_sigma, batch, self.checkpoint)
        seeds = seeds_of((story.seed or 0) if seed is None else seed, batch)
        self._times(steps, *self._padded(story))  # a number of steps fails before captions are embedded
        captions = captions_of(
            story.caption if caption is None else caption,
            null_caption,
            batch,
            self.checkpoint,
            model=caption_model,
            device=self.device,
        )
        return [
            self._one(
                story.tensor[k : k + 1],
                latent_sigma=sigmas[k],
                detail_map=detail_map,
                native=self._native_size(story),
                captions=[None if c is None else c[k : k + 1] for c in captions],
                seed=seeds[k],
                steps=steps,
            )
            for k in range(batch)
        ]

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
        in_files: bool = False,
        one_by_one: bool = False,
    ) -> Plan:
        """What decoding ``batch`` latents of ``height`` x ``width`` cells will cost, without running it.

        The peak counts what the process holds already, or on an accelerator what is reserved there; all pictures of the
        batch, which ``decode`` gives together; and resampling.

        Args:
            height, width: in latent cells.
            batch: latents handed over together.
            in_files: by ``decode_to_tiff``.
            one_by_one: pictures that do not fit together may be handed over one after another, as
                ``latpix decode --batch`` does.
            steps, tile, memory_limit, scale, size: as of ``decode``.

        Raises:
            OptionError: a size or a batch below 1; others as of ``decode``.
            MemoryLimitError: nothing fits into ``memory_limit``; the message names one that would do.
        """
        for name, number in (("height", height), ("width", width), ("batch", batch)):
            if number < 1:
                raise OptionError(f"{name} is {number}; expected 1 or more.")
        h, w = max(height, LEAST_CELLS), max(width, LEAST_CELLS)
        cell, costs = self.space.downsample * self.checkpoint.scale, self._costs(frugal=memory_limit is not None)
        native = Latent(tensor=torch.empty(1, 1, height, width, device="meta"), space=self.checkpoint.space)
        target = self._target(native, scale, size)
        count, together = len(self._times(steps, h, w)) - 1, 1 if in_files else batch
        job = self._job(h, w, batch=together, steps=count, target=target, in_files=in_files)
        setting = self._choose(job, tile, memory_limit, may_split=one_by_one)
        operations = batch * costs.operations(job, setting)
        return Plan(
            height=height * cell if target is None else target[0],
            width=width * cell if target is None else target[1],
            peak_bytes=costs.peak_bytes(job, setting),
            seconds=operations / operations_per_second(self.device, self.dtype),
            setting=setting,
            tiles=count_tiles(h, w, setting.tile),
        )

    def _one(
        self,
        latent: Float[Tensor, "1 c h w"],
        *,
        latent_sigma: float,
        detail_map: Float[Tensor, "1 3 y x"] | None,
        native: tuple[int, int],
        captions: Sequence[Tensor | None],
        seed: int,
        steps: int | None,
    ) -> OneDecode:
        """One picture of a batch; its latent is padded to ``LEAST_CELLS``."""
        _, _, h, w = latent.shape
        bottom, right = max(0, LEAST_CELLS - h), max(0, LEAST_CELLS - w)
        latent = F.pad(latent.to(self.device, torch.float32), (0, right, 0, bottom), mode="replicate")
        times = self._times(steps, latent.shape[2], latent.shape[3])
        one = OneDecode(
            network=self.network,
            row=self.checkpoint,
            latent=latent,
            latent_sigma=latent_sigma,
            captions=captions,
            seed=seed,
            times=times,
            team=self.team,
        )
        if detail_map is None:
            return one
        if detail_map.ndim != 4 or detail_map.shape[:2] != (1, 3):
            raise OptionError(f"detail_map has shape {list(detail_map.shape)}; expected [1, 3, height, width].")
        rows, columns = (side // self.checkpoint.network.patch_size for side in one.size)
        most = self.checkpoint.sampling.max_latent_sigma
        native_patch = self.checkpoint.network.patch_size / self.checkpoint.scale
        free = freedom_of(detail_map.to(self.device), *(math.ceil(side / native_patch) for side in native))
        free = F.pad(free[None], (0, columns - free.shape[2], 0, rows - free.shape[1]), mode="replicate")[0]
        return replace(one, sigma_map=latent_sigma + free * max(0.0, most - latent_sigma))

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

    def _story(self, latent: Latent | Tensor) -> Latent:
        """The latent, checked, with what it brings."""
        story = latent if isinstance(latent, Latent) else Latent(tensor=latent, space=self.checkpoint.space)
        check_latent(story.tensor, self.checkpoint.space, given=story.space, checkpoint=self.checkpoint.name)
        return story

    def _padded(self, story: Latent) -> tuple[int, int]:
        """Height and width in cells that are decoded."""
        h, w = story.tensor.shape[2:]
        return max(h, LEAST_CELLS), max(w, LEAST_CELLS)

    def _reference(self, colour_lock: bool | Tensor, batch: int) -> Float[Tensor, "b 3 y x"] | None:
        """The pictures that colours are held to; None is the base decoder's."""
        if not isinstance(colour_lock, Tensor):
            if colour_lock:
                check_colour_lock(self.checkpoint)
            return None
        if colour_lock.ndim != 4 or colour_lock.shape[1] != 3 or colour_lock.shape[0] not in (1, batch):
            raise OptionError(
                f"colour_lock has shape {list(colour_lock.shape)}; expected [1 or {batch}, 3, height, width] for "
                f"{batch} latents."
            )
        return colour_lock.expand(batch, -1, -1, -1)

    def _costs(self, held: int | None = None, *, frugal: bool = False) -> CostModel:
        return CostModel(
            self.checkpoint.network,
            self._held() if held is None else held,
            self.dtype,
            on_cpu=self.device.type == "cpu",
            guided=self.checkpoint.guided,
            frugal=frugal,
            quantized=any(isinstance(module, QuantizedLinear) for module in self.network.modules()),
            ranks=self.team.size if self.team else 1,
        )

    def _held(self) -> int:
        """Bytes that are there before a decode: weights, and what else the process holds or has reserved; in a team the
        most that one of its processes has, so that all plan alike."""
        held = self._held_here()
        return held if self.team is None else max(self.team.gather(held))

    def _held_here(self) -> int:
        """The same of this process."""
        resting = resting_dtypes(self.network, self.dtype)
        weights = sum(p.numel() * resting[name].itemsize for name, p in self.network.named_parameters())
        here = not any(p.is_meta for p in self.network.parameters())
        if self.device.type != "cpu":
            reserved = reserved_bytes(self.device)
            return max(weights, reserved) if here else weights + reserved
        for p in self.network.parameters() if here else ():
            p.flatten()[:: PAGE // p.element_size()].sum()  # a mapped file's pages count once they were read
        resident = resident_bytes()
        if here and resident:
            return resident
        return weights + (resident + LOADING_BYTES if resident else PROCESS_BYTES)

    def _job(
        self, h: int, w: int, *, batch: int, steps: int, target: tuple[int, int] | None, in_files: bool = False
    ) -> Job:
        h, w, cell = max(h, LEAST_CELLS), max(w, LEAST_CELLS), self.space.downsample
        trained = max(LEAST_CELLS, self.checkpoint.native_sizes[1] // cell)
        known = max(h, w) <= trained or self.checkpoint.knows(h * cell, w * cell)
        return Job(
            h,
            w,
            batch=batch,
            steps=steps,
            output=None if target is None else target[0] * target[1],
            largest=None if known else trained,
            in_files=in_files,
        )

    def _choose(self, job: Job, tile: int | str, limit: str | int | None, *, may_split: bool = False) -> Setting:
        """The quickest way that fits the limit; ``may_split``: pictures of a batch may be handed over one by one."""
        bytes_limit, side = None if limit is None else parse_bytes(limit), self._side(job, tile)
        if bytes_limit is None:
            return next(self._costs(held=0).settings(job, tile=side))
        costs = self._costs(frugal=True)
        try:
            return costs.choose(job, bytes_limit, tile=side, may_split=may_split)
        except MemoryLimitError as refusal:
            if side is None:
                raise
            costs.choose(job, bytes_limit, may_split=may_split)  # says what would fit, if nothing does
            raise MemoryLimitError(f'{refusal} Or leave tile at "auto": then one is chosen that fits.') from None

    def _following(self, job: Job, failed: Setting, tile: int | str) -> Setting:
        """The next way that takes a good deal less memory than one that ran out of it, with a word on it.

        Raises:
            MemoryLimitError: there is none.
        """
        costs = self._costs()
        took = costs.peak_bytes(job, failed)
        peaks = {s: costs.peak_bytes(job, s) for s in costs.settings(job, tile=self._side(job, tile))}
        less = {setting: peak for setting, peak in peaks.items() if peak < took}
        if not less:
            raise MemoryLimitError(
                f"the device {self.device} has too little memory for this, and nothing takes less: decode a smaller "
                "latent."
            )
        most = took - LESS * (took - costs.held)
        chosen = next((setting for setting, peak in less.items() if peak <= most), min(less, key=less.__getitem__))
        warnings.warn(
            f"the device {self.device} ran out of memory; going on with {', '.join(map(str, chosen.levers))}.",
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


def check_colour_lock(row: Checkpoint) -> None:
    """Whether a checkpoint can hold its pictures to its own colours.

    Raises:
        OptionError: it has no base decoder.
    """
    if not row.network.base_widths:
        raise OptionError(
            f'"{row.name}" has no base decoder to hold its colours to: give the codec\'s decode '
            "(colour_lock=pixels in Python), or enlarge a picture (latpix upscale --colour-lock)."
        )


def _check_decodes(loaded: LoadedCheckpoint, device: torch.device) -> None:
    """It reads latents, and the device can compute with its weights."""
    if not loaded.row.space:
        raise CheckpointError(
            f'"{loaded.row.name}" paints from text alone: it reads no latent, so it cannot decode one. '
            "`latpix checkpoints list` shows the checkpoints that do."
        )
    if "fp8" in loaded.kinds and not has_fp8(device):
        raise OptionError(
            f'"{loaded.path}" holds fp8 weights, which are for NVIDIA H100 and newer, and this is {device}. '
            "Quantize to int8, which is as small and more exact: latpix quantize CHECKPOINT -o FILE --to int8."
        )


def _resampled(pixels: Float[Tensor, "1 3 y x"], target: tuple[int, int] | None) -> Float[Tensor, "1 3 H W"]:
    """At (height, width), where that is another size."""
    if target is None or target == tuple(pixels.shape[2:]):
        return pixels
    return F.interpolate(pixels, size=target, mode="bicubic", antialias=True).clamp_(-1, 1)


def _count_on(on_step: OnStep | None, done: int, steps: int) -> Callable[[int, int, Tensor], None]:
    """Report a picture's steps as steps of the whole batch."""

    def report(step: int, _steps: int, x0: Tensor) -> None:
        if on_step is not None:
            on_step(done + step, steps, x0)

    return report
