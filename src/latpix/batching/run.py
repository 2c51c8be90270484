"""The three kinds of work: pictures to larger pictures, latents to pictures, pictures to latents.

Results come in the order of the inputs. What fails becomes a Failure in its place and the others go on; an interrupt
ends the run, and what was finished stays.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from latpix.backbones.encode import PictureCodec
from latpix.batching.inputs import Failure
from latpix.batching.outputs import Job, Output, Result, Work, make_folder
from latpix.batching.paint import Loaded, OnStep, Painter
from latpix.batching.painting import Painting
from latpix.batching.story import origin_of
from latpix.decoder import Decoder
from latpix.errors import LatentError, LatpixError
from latpix.files.latent_files import Latent, read_latent, save_latent
from latpix.files.picture_files import picture_info, read_picture
from latpix.latents.check import check_latent


def upscale(
    work: Work,
    *,
    decoder: Decoder,
    codec: PictureCodec | None,
    painting: Painting | None = None,
    batch: int = 1,
    overwrite: bool = False,
    dry_run: bool = False,
    on_step: OnStep | None = None,
) -> Iterator[Result | Failure]:
    """Enlarge pictures: encode, noise the latent where a sigma was asked for, decode.

    Args:
        work: of ``plan_work``, reading pictures.
        decoder, codec: of one latent space; a dry run needs no codec.
        painting: how to decode.
        batch: pictures decoded together.
        overwrite: replace outputs that are there.
        dry_run: give the rows that would come, with the seconds they are expected to take; make nothing.
        on_step: called as ``on_step(step, steps)``; steps count a whole batch.

    Raises:
        LatentError: the codec makes latents of another space than the decoder reads.
        OptionError: an option that the first of several inputs cannot be decoded with.
    """
    if codec is not None:
        check_codec(decoder, codec)

    def load(job: Job) -> Loaded:
        assert codec is not None
        path = job.item.path
        latent = encode_picture(path, codec)
        origin = origin_of(path, "picture", codec=codec, size=job.measure.shape[-2:])
        colours = codec_colours(latent, codec) if asked.colour_lock else None
        return Loaded(latent=latent, origin=origin, icc_profile=picture_info(path).icc_profile, colours=colours)

    asked = painting or Painting()
    painter = Painter(decoder, asked, load, renoises=True, overwrite=overwrite, on_step=on_step)
    return painter.preview(work) if dry_run else painter.run(work, batch)


def decode(
    work: Work,
    *,
    decoder: Decoder,
    painting: Painting | None = None,
    batch: int = 1,
    overwrite: bool = False,
    dry_run: bool = False,
    on_step: OnStep | None = None,
) -> Iterator[Result | Failure]:
    """Decode latent files to pictures; arguments as of ``upscale``.

    Raises:
        OptionError: an option that the first of several inputs cannot be decoded with.
    """

    def load(job: Job) -> Loaded:
        latent = read_latent(job.item.path, space=job.measure.space)
        row = decoder.checkpoint
        check_latent(latent.tensor, row.space, given=latent.space, checkpoint=row.name)
        return Loaded(latent=latent, origin=origin_of(job.item.path, "latent"))

    painter = Painter(decoder, painting or Painting(), load, overwrite=overwrite, on_step=on_step)
    return painter.preview(work) if dry_run else painter.run(work, batch)


def encode(
    work: Work,
    *,
    codec: PictureCodec | None,
    caption: str | None = None,
    seed: int | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Iterator[Result | Failure]:
    """Encode pictures to latent files, which remember their source, its size, and how to decode them.

    Args:
        work: of ``plan_work``, reading pictures and writing latents.
        codec: that encodes; None for a dry run.
        caption, seed: to decode with; a manifest's own come first.
        overwrite: replace outputs that are there.
        dry_run: give the rows that would come; make nothing.
    """
    for job in work.jobs:
        if isinstance(job, Failure):
            yield job
            continue
        item = job.item
        its_caption = caption if item.caption is None else item.caption
        its_seed = seed if item.seed is None else item.seed
        for output in job.outputs:
            start = time.perf_counter()
            try:
                if not dry_run:
                    assert codec is not None
                    make_folder(output.path)
                    latent = encode_picture(item.path, codec)
                    latent = replace(latent, caption=its_caption, seed=its_seed, source=str(item.path))
                    save_latent(latent, output.path, overwrite=overwrite)
            except LatpixError as error:
                yield Failure(input=item.name, error=error)
            else:
                seconds = time.perf_counter() - start
                side = None if codec is None else codec.native_side
                yield _encoded(job, output, native_side=side, seed=its_seed, seconds=seconds)


def _encoded(job: Job, output: Output, *, native_side: int | None, seed: int | None, seconds: float) -> Result:
    height, width = job.measure.shape[-2:] if native_side is None else (native_side, native_side)
    return Result(
        input=job.item.name,
        output=output.path,
        height=height,
        width=width,
        seed=seed,
        latent_sigma=0.0,
        seconds=seconds,
    )


def encode_picture(path: Path, codec: PictureCodec) -> Latent:
    """The latent of a picture file, which knows the picture's own size, or the one that it was stretched to."""
    pixels = read_picture(path)
    height, width = pixels.shape[-2:] if codec.native_side is None else (codec.native_side, codec.native_side)
    # In the layout that a file has: another one rounds differently, and the bits should not depend on the detour.
    tensor = codec.encode(pixels).cpu().contiguous()
    return Latent(tensor=tensor, space=codec.space, native_height=height, native_width=width)


def codec_colours(latent: Latent, codec: PictureCodec) -> Float[Tensor, "1 3 y x"]:
    """The codec's own decode of a latent, without the padding: what its colours may be held to."""
    return codec.decode(latent.tensor)[..., : latent.native_height, : latent.native_width].cpu()


def check_codec(decoder: Decoder, codec: PictureCodec) -> None:
    """Pictures can be encoded for this decoder.

    Raises:
        LatentError: they cannot.
    """
    row = decoder.checkpoint
    if codec.space != row.space:
        raise LatentError(
            f'checkpoint "{row.name}" reads latents of space "{row.space}", but the codec encodes to '
            f'"{codec.space}". Take load_codec("{row.space}"), or a checkpoint of "{codec.space}".'
        )
