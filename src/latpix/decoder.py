"""Decoder: load once, decode often; the one class most users meet.

    latent -> (padded to 8 cells a side) -> ``one_decode``, in tiles if large -> cropped, colours held, resized

Letters: b batch, c latent channels, h and w latent cells, H and W output pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from latpix.checkpoints.load import LoadedCheckpoint, load, outline
from latpix.checkpoints.registry import Checkpoint
from latpix.colours import lock_colours
from latpix.compiling import compile_blocks
from latpix.devices import has_fp8, pick_device, pick_dtype
from latpix.errors import CheckpointError, OptionError
from latpix.files.latent_files import Latent
from latpix.files.tiled_tiff import check_room, check_tiff_output, room_beside, save_tiff
from latpix.fitting import Fitting
from latpix.latents.check import check_latent
from latpix.latents.spaces import LATENT_SPACES, LatentSpace
from latpix.one_decode import OneDecode
from latpix.output_sizes import native_size, padded_size, painted_size, resampled, target_size
from latpix.per_picture import captions_of, reference_of, seeds_of, sigma_map_of, sigmas_of, times_of
from latpix.plan import Plan, Setting
from latpix.sampling.samplers import OnStep
from latpix.team import Team, all_or_none


class Decoder:
    """A checkpoint on a device, ready to decode latents of its space."""

    def __init__(self, loaded: LoadedCheckpoint, device: torch.device, dtype: torch.dtype) -> None:
        self.checkpoint: Checkpoint = loaded.row
        self.network = loaded.network
        self.sha256 = loaded.sha256
        self.device, self.dtype = device, dtype
        self._settings: list[Setting] = []
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

    @property
    def last_settings(self) -> tuple[Setting, ...]:
        """How each picture of the last decode was painted."""
        return tuple(self._settings)

    @property
    def _fitting(self) -> Fitting:
        return Fitting(network=self.network, row=self.checkpoint, device=self.device, dtype=self.dtype, team=self.team)

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
            MemoryLimitError: nothing fits into ``memory_limit``, or not the text encoder that a caption needs; or
                memory ran out a second time.
            TeamError: one of several processes that share the picture failed.

        Where memory runs out all the same, the rest is done in a way that takes less, with a warning; only once, and
        not by several processes, which would no longer do the same. ``last_settings`` tells how each picture was
        painted.
        """
        with all_or_none(self.team):
            story = self._story(latent)
            batch = len(story.tensor)
            target = target_size(story, self.checkpoint, scale, size)
            reference = reference_of(colour_lock, batch, self.checkpoint)
            ones = self._ones(
                story,
                latent_sigma=latent_sigma,
                caption=caption,
                null_caption=null_caption,
                caption_model=caption_model,
                seed=seed,
                steps=steps,
                detail_map=detail_map,
                memory_limit=memory_limit,
            )
        count, fitting = len(ones[0].times) - 1, self._fitting
        self._settings = []
        job = fitting.job(*ones[0].latent.shape[2:], batch=batch, steps=count, target=target)
        first = fitting.begin(job, tile, memory_limit)
        pictures: Tensor | None = None

        def paint(k: int, setting: Setting) -> None:
            nonlocal pictures
            one, report = replace(ones[k], pieces=setting.pieces), _count_on(on_step, k * count, batch * count)
            whole = setting.tile >= max(one.latent.shape[2:])
            painted = one.whole(report).clamp(-1, 1) if whole else one.tiled(setting.tile, report).whole().clamp_(-1, 1)
            (rows, columns), factor = native_size(story, self.checkpoint), self.checkpoint.scale
            painted = painted[..., : rows * factor, : columns * factor]
            if colour_lock is not False:
                held = one.base_at_native_size()[..., :rows, :columns] if reference is None else reference[k : k + 1]
                painted = lock_colours(painted, held.to(painted), scale=factor)
            painted = resampled(painted, target).contiguous()
            if pictures is None:
                pictures = painted if batch == 1 else painted.new_empty(batch, *painted.shape[1:])
            if batch > 1:
                pictures[k] = painted[0]

        for k in range(batch):  # one at a time: a picture's bits do not depend on its neighbours
            fitting.paint(partial(paint, k), job, tile, first, self._settings)
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
                memory_limit=memory_limit,
            )
            check_room(path, one.bytes_in_files * (self.team.here if self.team else 1))  # each has files of its own
        (height, width), count = painted_size(story, self.checkpoint), len(one.times) - 1
        fitting = self._fitting
        self._settings = []
        job = fitting.job(*one.latent.shape[2:], batch=1, steps=count, target=None, in_files=True)
        first = fitting.begin(job, tile, memory_limit)

        def paint(setting: Setting) -> None:
            with room_beside(path) as folder:
                painting = replace(one, pieces=setting.pieces)
                canvas = painting.tiled(setting.tile, _count_on(on_step, 0, count), folder)
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

        fitting.paint(paint, job, tile, first, self._settings)

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
        memory_limit: str | int | None,
    ) -> list[OneDecode]:
        """Each picture of a batch, with all that it depends on; arguments as of ``decode``."""
        batch = len(story.tensor)
        sigmas = sigmas_of(story.latent_sigma if latent_sigma is None else latent_sigma, batch, self.checkpoint)
        seeds = seeds_of((story.seed or 0) if seed is None else seed, batch)
        h, w = padded_size(*story.tensor.shape[2:])
        times = times_of(steps, h, w, self.checkpoint)  # a number of steps fails before captions are embedded
        maps: list[Tensor | None] = [None] * batch
        if detail_map is not None:
            free, native = detail_map.to(self.device), native_size(story, self.checkpoint)
            maps = [sigma_map_of(free, sigma, native, (h, w), self.checkpoint) for sigma in sigmas]
        captions = captions_of(
            story.caption if caption is None else caption,
            null_caption,
            batch,
            self.checkpoint,
            model=caption_model,
            device=self.device,
            room=self._fitting.room(memory_limit) if self.checkpoint.network.caption_width else None,
        )
        below, right = h - story.tensor.shape[2], w - story.tensor.shape[3]
        latents = F.pad(story.tensor.to(self.device, torch.float32), (0, right, 0, below), mode="replicate")
        return [
            OneDecode(
                network=self.network,
                row=self.checkpoint,
                latent=latents[k : k + 1],
                latent_sigma=sigmas[k],
                sigma_map=maps[k],
                captions=[None if c is None else c[k : k + 1] for c in captions],
                seed=seeds[k],
                times=times,
                team=self.team,
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
        h, w = padded_size(height, width)
        native = Latent(tensor=torch.empty(1, 1, height, width, device="meta"), space=self.checkpoint.space)
        target = target_size(native, self.checkpoint, scale, size)
        count, together = len(times_of(steps, h, w, self.checkpoint)) - 1, 1 if in_files else batch
        job = self._fitting.job(h, w, batch=together, steps=count, target=target, in_files=in_files)
        painted = target or painted_size(native, self.checkpoint)
        return self._fitting.plan(job, tile, memory_limit, size=painted, pictures=batch, may_split=one_by_one)

    def _story(self, latent: Latent | Tensor) -> Latent:
        """The latent, checked, with what it brings."""
        story = latent if isinstance(latent, Latent) else Latent(tensor=latent, space=self.checkpoint.space)
        check_latent(story.tensor, self.checkpoint.space, given=story.space, checkpoint=self.checkpoint.name)
        return story


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


def _count_on(on_step: OnStep | None, done: int, steps: int) -> Callable[[int, int, Tensor], None]:
    """Report a picture's steps as steps of the whole batch."""

    def report(step: int, _steps: int, x0: Tensor) -> None:
        if on_step is not None:
            on_step(done + step, steps, x0)

    return report
