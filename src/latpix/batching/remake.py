"""Make one of our pictures again, from what it says of itself, and compare.

The latent or the picture that it was made from is looked for where it was, then beside the picture, and so is a
caption file; their sha256 must agree. A caption without a file comes from the cache, else it is embedded again. One
device gives the same bits again; another one, as several processes, compiled blocks or smaller pieces do, gives them to
rounding, which may move a level here and there.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from latpix.backbones.encode import load_codec
from latpix.batching.captions import Captions, embed_captions
from latpix.batching.paint import renoise
from latpix.batching.run import codec_colours, encode_picture
from latpix.batching.story import file_sha256, rounding_of
from latpix.decoder import Decoder
from latpix.errors import CaptionError, CheckpointError, LatentError, LatpixError, PictureError
from latpix.files.latent_files import Latent, read_latent
from latpix.files.picture_files import read_metadata, read_picture, save_picture

_NO_BUDGET = 2**62  # what we made, we may read
ROUNDING, ROUNDING_OF_FEW_BITS = 2, 16  # levels of 255; the second in bfloat16, and in files that lose some
LOSSLESS = (".png", ".tif", ".tiff")
_NEEDED = (
    *("made_by", "checkpoint", "sha256", "seed", "steps", "latent_sigma", "height", "width", "tile"),
    *("dtype", "source", "encoder_sha256"),
)


@dataclass(frozen=True, kw_only=True)
class Remade:
    """What a picture says of itself, and whether the same bits came out again."""

    story: dict[str, Any]
    same_bits: bool | None = None  # None: it could not be made again
    to_rounding: bool = False  # other bits, as close as another way to make it comes: it is the picture
    reason: str | None = None  # why not, or where it differs
    largest_difference: int | None = None  # in levels of 255


def remake(
    path: str | Path,
    *,
    checkpoint: str | Path | None = None,
    vae: str | Path | None = None,
    model: str | Path | None = None,
    like: str | None = None,
    space: str | None = None,
    device: str = "auto",
) -> Remade:
    """Read how a picture was made, make it again, and compare the levels of the two files.

    Args:
        path: one of our pictures.
        checkpoint: file of the weights, where they are not those of its name.
        vae, model: of ``load_codec``, where the picture that it was made from was not encoded by its space's own.
        like: the registry row that a bare checkpoint file follows.
        space: of a latent file that does not say it.
        device: where to decode.

    Raises:
        PictureError: the picture does not say how it was made.
    """
    path = Path(path)
    story = read_metadata(path)
    lacking = [key for key in _NEEDED if key not in story]
    if lacking:
        raise PictureError(f'"{path}" does not say its {", ".join(lacking)}: another version of latpix made it.')
    try:
        decoder = _decoder(story, checkpoint, like, device)
        latent, colours = _latent(story, path, vae, model, space, decoder)
        captions = _captions(story, path, decoder)
        how: dict[str, Any] = {
            "caption": captions.embedding(story["caption"]) if captions else None,
            "null_caption": captions.negative if captions else None,
            "seed": story["seed"],
            "steps": story["steps"],
            "tile": story["tile"],
            "detail_map": _detail_map(story, path),
        }
        with tempfile.TemporaryDirectory() as folder:
            again = Path(folder) / f"again{path.suffix}"  # in its format, so that a lossy one loses the same
            if story.get("in_files"):
                decoder.decode_to_tiff(latent, again, **how)
            else:
                lock = colours if story.get("colour_lock") == "codec" else bool(story.get("colour_lock"))
                size = (story["height"], story["width"])
                save_picture(decoder.decode(latent, colour_lock=lock, size=size, **how), again)
            return _compared(story, path, again, decoder)
    except LatpixError as error:
        return Remade(story=story, reason=str(error))


def _decoder(story: dict[str, Any], checkpoint: str | Path | None, like: str | None, device: str) -> Decoder:
    """The decoder that painted the picture: its weights are the same."""
    decoder = Decoder.load(checkpoint or story["checkpoint"], device=device, dtype=story["dtype"], like=like)
    _check_weights(f'checkpoint "{checkpoint or story["checkpoint"]}"', decoder.sha256, story["sha256"])
    return decoder


def _latent(
    story: dict[str, Any],
    path: Path,
    vae: str | Path | None,
    model: str | Path | None,
    space: str | None,
    decoder: Decoder,
) -> tuple[Latent, Tensor | bool]:
    """What the picture was decoded from, and the codec's decode of it where the colours were held to that."""
    source, sigma = story["source"], story["latent_sigma"]
    file = _find(source, path)
    if source["kind"] == "latent":
        latent = read_latent(file, space=space or (decoder.checkpoint.space if file.suffix != ".safetensors" else None))
        index = source["index"]
        if index >= len(latent.tensor):
            raise LatentError(f'"{file}" holds {len(latent.tensor)} latents; the picture was number {index}.')
        return replace(latent, tensor=latent.tensor[index : index + 1], latent_sigma=sigma), False
    # A limit that nothing fits into: cut into tiles, as then.
    limit = 1 if story.get("encoder_tiled") else None
    encoder = load_codec(
        decoder.checkpoint.space,
        vae=vae,
        model=model,
        device=decoder.device,
        dtype=decoder.dtype,
        memory_limit=limit,
    )
    _check_weights("the encoder", encoder.sha256, story["encoder_sha256"])
    clean = encode_picture(file, encoder)
    colours = codec_colours(clean, encoder) if story.get("colour_lock") == "codec" else False
    return renoise(clean, latent_sigma=sigma, seed=story["seed"]), colours


def _detail_map(story: dict[str, Any], path: Path) -> Tensor | None:
    """The detail map that the picture was made with."""
    found = story.get("detail_map")
    return None if found is None else read_picture(_find({"kind": "detail map", **found}, path))


def _captions(story: dict[str, Any], path: Path, decoder: Decoder) -> Captions | None:
    """The caption as it was embedded; None for checkpoints that read none."""
    if not decoder.checkpoint.network.caption_width:
        return None
    text, how = story["caption"], story.get("caption_embedding")
    if how is None:
        raise PictureError(f'"{path}" does not say how its caption was embedded: another version of latpix made it.')
    file = None
    if how["from"] == "file":
        file = _find({"kind": "caption file", "path": how["path"], "sha256": how["file_sha256"]}, path)
    again = embed_captions([text], decoder.checkpoint, file=file, model=how.get("encoder"), device=decoder.device)
    differing = [key for key, value in (again.story(text) or {}).items() if "sha256" in key and value != how[key]]
    if differing:
        raise CaptionError(
            f'the caption "{text}" was embedded to other numbers ({", ".join(differing)} differ): by other weights, or '
            "on another device. Bring the embedding that the picture was made with as a caption file."
        )
    return again


def _find(source: dict[str, Any], path: Path) -> Path:
    """The file that the picture was made from, unchanged."""
    named = Path(source["path"])
    places = [named, path.parent / named, path.parent / named.name]
    there = [place for place in places if place.is_file()]
    for place in there:
        if file_sha256(place) == source["sha256"]:
            return place
    if there:
        raise PictureError(f'"{there[0]}" is not what it was when the picture was made: its sha256 differs.')
    raise PictureError(f'the {source["kind"]} "{named}" that it was made from is not there any more.')


def _check_weights(name: str, found: str, expected: str | None) -> None:
    if found != expected:
        raise CheckpointError(
            f"{name} has other weights (sha256 {found[:12]}) than the picture was made with "
            f"({str(expected)[:12]}); name the file of those."
        )


def _compared(story: dict[str, Any], path: Path, again: Path, decoder: Decoder) -> Remade:
    """The levels of the picture and of the one made again."""
    ours, theirs = (read_picture(one, pixel_budget=_NO_BUDGET) for one in (again, path))
    if ours.shape != theirs.shape:
        return Remade(story=story, same_bits=False, reason="the picture was resized or cropped since.")
    largest = round(float((ours - theirs).abs().max()) * 127.5)
    if not largest:
        return Remade(story=story, same_bits=True, largest_difference=0)
    now = rounding_of(decoder, decoder.last_settings[0])
    other = [f"{key} {story[key]} (now {now[key]})" for key in now if key in story and story[key] != now[key]]
    reason = f"levels differ by up to {largest} of 255."
    if other:
        reason += f" It was made otherwise, which agrees to rounding only: {', '.join(other)}."
    most = ROUNDING if story["dtype"] == "float32" and path.suffix.lower() in LOSSLESS else ROUNDING_OF_FEW_BITS
    return Remade(
        story=story,
        same_bits=False,
        to_rounding=bool(other) and largest <= most,
        reason=reason,
        largest_difference=largest,
    )
