"""Decoder: load once, decode often; the one class most users meet.

    latent -> (padded to 8 cells a side) -> ``one_decode``, in tiles if large -> cropped, colours held, resized

Letters: b batch, c latent channels, h and w latent cells, H and W output pixels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from latpix.checkpoints.load import LoadedCheckpoint, load
from latpix.checkpoints.registry import Checkpoint
from latpix.colours import freedom_of, lock_colours
from latpix.devices import parse_bytes, pick_device, pick_dtype
from latpix.errors import CheckpointError, OptionError
from latpix.files.latent_files import Latent
from latpix.files.tiled_tiff import check_tiff_output, room_beside, save_tiff
from latpix.latents.check import check_latent
from latpix.latents.spaces import LATENT_SPACES, LatentSpace
from latpix.network.model import build
from latpix.one_decode import OneDecode
from latpix.per_picture import captions_of, seeds_of, sigmas_of
from latpix.plan import CostModel, Plan, operations_per_second
from latpix.sampling.samplers import OnStep
from latpix.sampling.schedules import Times, solver_times, student_times
from latpix.tiling import cut_tiles, overlap_of

LEAST_CELLS = 8  # a side; smaller latents are padded inside
SCALES = (0.5, 16.0)


class Decoder:
    """A checkpoint on a device, ready to decode latents of its space."""

    def __init__(self, loaded: LoadedCheckpoint, device: torch.device, dtype: torch.dtype) -> None:
        self.checkpoint: Checkpoint = loaded.row
        self.network = loaded.network
        self.sha256 = loaded.sha256
        self.device, self.dtype = device, dtype

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
            memory_limit: such as ``"6GiB"``; a decode that does not fit is cut into tiles, or refused.
            on_step: called as ``on_step(step, steps, x0)`` after each step; steps count those of the whole batch. In
                tiles x0 is valid during the call only.

        Returns:
            Pixels in [-1, 1], float32, on the decoder's device.

        Raises:
            LatentError: the latent is not one of the checkpoint's space.
            OptionError, ScheduleError, CaptionError, MemoryLimitError: an argument outside what the checkpoint can do.
        """
        story = self._story(latent)
        side = self._tile(*self._padded(story), tile, memory_limit)[0]
        target = self._target(story, scale, size)
        reference = self._reference(colour_lock)
        pictures = []
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
        for k, one in enumerate(ones):  # one at a time: a picture's bits do not depend on its neighbours
            report = _count_on(on_step, k, len(ones))
            whole = side >= max(one.latent.shape[2:])
            painted = one.whole(report).clamp(-1, 1) if whole else one.tiled(side, report).whole().clamp_(-1, 1)
            height, width = (length * self.checkpoint.scale for length in self._native_size(story))
            painted = painted[..., :height, :width]
            if colour_lock is not False:
                held = (
                    one.base_at_native_size() if reference is None else reference[k if len(reference) > 1 else 0][None]
                )
                painted = lock_colours(painted, held.to(painted), scale=self.checkpoint.scale)
            pictures.append(_resampled(painted, target))
        return torch.cat(pictures)

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
        metadata: Mapping[str, Any] | None = None,
        icc_profile: bytes | None = None,
        overwrite: bool = False,
    ) -> None:
        """Paint one picture of any size straight into a tiled TIFF file, at the trained scale.

        What is between steps lies in files beside the picture, 24 to 36 bytes per pixel of it, which go when it is
        done. Bits are those of ``decode`` with the same tiles to rounding.

        Args:
            path: ends in .tif or .tiff.
            metadata, icc_profile, overwrite: as of ``save_picture``.
            on_step: its picture is a mapping of a file, and valid during the call only.
            latent, latent_sigma, caption, null_caption, caption_model, seed, steps, detail_map, tile, memory_limit:
                as of ``decode``.

        Raises:
            OutputError: the file cannot be written.
            LatentError, OptionError, ScheduleError, CaptionError, MemoryLimitError: as of ``decode``.
        """
        path, story = Path(path), self._story(latent)
        check_tiff_output(path, overwrite=overwrite)
        side = self._tile(*self._padded(story), tile, memory_limit, in_files=True)[0]
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
        height, width = (length * self.checkpoint.scale for length in self._native_size(story))
        with room_beside(path, one.bytes_in_files) as folder:
            canvas = one.tiled(side, _count_on(on_step, 0, 1), folder)
            save_tiff(
                canvas.read,
                height,
                width,
                path,
                metadata=metadata,
                icc_profile=icc_profile,
                overwrite=overwrite,
            )

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
        in_files: bool = False,
    ) -> Plan:
        """What decoding ``batch`` latents of ``height`` x ``width`` cells will cost, without running it.

        ``in_files``: by ``decode_to_tiff``.

        Raises:
            MemoryLimitError: nothing fits into ``memory_limit``.
        """
        h, w = max(height, LEAST_CELLS), max(width, LEAST_CELLS)
        side, levers = self._tile(h, w, tile, memory_limit, in_files=in_files)
        cell, costs = self.space.downsample * self.checkpoint.scale, self._costs()
        operations = batch * costs.operations(h, w, side, len(self._times(steps, h, w)) - 1)
        return Plan(
            height=height * cell,
            width=width * cell,
            peak_bytes=costs.peak_bytes(h, w, side, in_files=in_files) + (batch - 1) * 12 * h * w * cell * cell,
            seconds=operations / operations_per_second(self.device, self.dtype),
            levers=levers,
            tiles=len(cut_tiles(h, w, side)),
            tile=side,
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
        )
        if detail_map is None:
            return one
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

    def _reference(self, colour_lock: bool | Tensor) -> Tensor | None:
        """The pictures that colours are held to; None is the base decoder's."""
        if colour_lock is True and self.network.base_decoder is None:
            raise OptionError(
                f'"{self.checkpoint.name}" has no base decoder to hold its colours to: give the codec\'s decode '
                "(colour_lock=pixels in Python), or enlarge a picture (latpix upscale --colour-lock)."
            )
        return colour_lock if isinstance(colour_lock, Tensor) else None

    def _costs(self) -> CostModel:
        weights = sum(p.numel() * p.element_size() for p in self.network.parameters())
        return CostModel(self.checkpoint.network, weights, self.dtype, self.device.type == "cpu")

    def _tile(
        self, h: int, w: int, tile: int | str, limit: str | int | None, *, in_files: bool = False
    ) -> tuple[int, tuple[str, ...]]:
        """The side of a tile in cells, and what was done to fit the trained sizes and the limit."""
        whole, costs = max(h, w), self._costs()
        bytes_limit = None if limit is None else parse_bytes(limit)
        if tile == "auto":
            side, levers = costs.choose_tile(h, w, bytes_limit, in_files=in_files)
            trained = max(LEAST_CELLS, self.checkpoint.native_sizes[1] // self.space.downsample)
            if side <= trained or (
                side == whole and self.checkpoint.knows(*(n * self.space.downsample for n in (h, w)))
            ):
                return side, levers
            return trained, (f"tiles of {trained} latent cells, the trained size, {overlap_of(trained)} shared",)
        if tile != "off" and (not isinstance(tile, int) or tile < LEAST_CELLS):
            raise OptionError(
                f'tile is {tile!r}; expected "auto", "off" or a side of at least {LEAST_CELLS} latent cells.'
            )
        side = whole if isinstance(tile, str) else min(tile, whole)
        if bytes_limit is not None and costs.peak_bytes(h, w, side, in_files=in_files) > bytes_limit:
            costs.choose_tile(h, w, bytes_limit, in_files=in_files)  # says what would fit, if nothing does
            raise OptionError(
                f'tile {tile} does not fit into {limit}; leave tile at "auto" to have one chosen that does.'
            )
        return side, ()

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


def _resampled(pixels: Float[Tensor, "1 3 y x"], target: tuple[int, int] | None) -> Float[Tensor, "1 3 H W"]:
    """At (height, width), where that is another size."""
    if target is None or target == tuple(pixels.shape[2:]):
        return pixels
    return F.interpolate(pixels, size=target, mode="bicubic", antialias=True).clamp(-1, 1)


def _count_on(on_step: OnStep | None, k: int, batch: int) -> OnStep:
    """Report the steps of picture ``k`` as steps of the whole batch."""

    def report(step: int, steps: int, x0: Tensor) -> None:
        if on_step is not None:
            on_step(k * steps + step, batch * steps, x0)

    return report
