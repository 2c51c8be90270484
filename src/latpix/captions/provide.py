"""Captions to embeddings: from the disk where they are known, else by the text encoder, which is gone afterwards."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import BFloat16
from torch import Tensor

from latpix.captions import cache as shelf
from latpix.captions.encoder import CaptionEncoder
from latpix.captions.model_files import MODEL, null_file, weight_bytes
from latpix.captions.prompt_prefix import VERSION
from latpix.devices import pick_dtype
from latpix.errors import CaptionError, MemoryLimitError
from latpix.files.caption_files import CaptionFile, read_captions

Caption = str | Sequence[str] | Tensor
OnCaption = Callable[[int, int], None]


def embed(
    texts: str | Sequence[str],
    *,
    model: str | Path | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    cache: bool = True,
    on_caption: OnCaption | None = None,
) -> BFloat16[Tensor, "n l e"]:
    """The embeddings of captions, ``[n, 300, 2304]`` of bfloat16 on the CPU, as decoders read them.

    The text encoder is loaded once if any of them is not in the cache, and freed before this returns.

    Args:
        texts: captions; the empty one is the null caption. One text is a list of one.
        model: hub id or folder of the text encoder; None is the one of all released decoders.
        device, dtype: where and in what the encoder runs.
        cache: read and fill the cache under ``LATPIX_HOME``.
        on_caption: called as ``on_caption(done, captions)`` after each that had to be encoded.

    Raises:
        CaptionError: no caption, one that is no text, or an encoder that cannot be loaded.
        DownloadError, MissingExtraError, MemoryLimitError, OptionError: as of ``CaptionEncoder.load``.
    """
    asked = [texts] if isinstance(texts, str) else list(texts)
    _check(asked)
    found = {text: known for text in dict.fromkeys(asked) if cache and (known := _known(text, model)) is not None}
    missing = [text for text in dict.fromkeys(asked) if text not in found]
    if missing:
        encoder = CaptionEncoder.load(model or MODEL, device=device, dtype=dtype)
        try:
            for done, (text, embedding) in enumerate(_encoded(encoder, missing), start=1):
                found[text] = embedding
                if cache:  # each at once: an interrupt loses none
                    shelf.store(model or MODEL, text, embedding)
                if on_caption is not None:
                    on_caption(done, len(missing))
        finally:
            encoder.close()
    return torch.stack([found[text] for text in asked])


def null_embedding(
    *,
    model: str | Path | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    cache: bool = True,
) -> BFloat16[Tensor, "1 l e"]:
    """The embedding of the empty caption, with which decoders paint from the latent alone.

    It comes from the cache, from ``LATPIX_HOME/captions/null.safetensors`` (made elsewhere by ``latpix caption ""``),
    or from the text encoder; arguments as of ``embed``.
    """
    return embed([""], model=model, device=device, dtype=dtype, cache=cache)


def are_known(texts: Sequence[str], *, model: str | Path | None = None) -> bool:
    """Whether the embeddings of all captions are here, so that ``embed`` will not load the encoder."""
    return all(_known(text, model) is not None for text in texts)


def as_states(
    given: Sequence[Caption | None], *, model: str | Path | None, device: torch.device, room: int | None = None
) -> list[Tensor | None]:
    """Captions in any form as states of the encoder: all texts are embedded together, tensors and None stay.

    Raises:
        MemoryLimitError: the encoder must be loaded, and takes more than ``room`` bytes.
    """
    texts = [one for caption in given for one in _texts(caption)]
    if room is not None and not are_known(texts, model=model):
        needed = weight_bytes(model or MODEL, pick_dtype("auto", device).itemsize)
        if needed > room:
            raise MemoryLimitError(
                f"the text encoder takes {needed / 2**20:.0f} MiB, and {max(0, room) / 2**20:.0f} MiB of the memory "
                "limit are left beside the decoder: embed the captions before the decoder is loaded "
                "(latpix.captions.provide.embed, or `latpix caption`), which keeps them, or raise the limit by "
                f"{(needed - room) / 2**20:.0f} MiB."
            )
    states = iter(embed(texts, model=model, device=device) if texts else ())
    return [
        torch.stack([next(states) for _ in _texts(one)]) if one is not None and not isinstance(one, Tensor) else one
        for one in given
    ]


def check_version(captions: CaptionFile, path: str | Path) -> None:
    """A caption file is of this version's prompt prefix.

    Raises:
        CaptionError: it is not.
    """
    if captions.prefix != VERSION:
        raise CaptionError(
            f'"{path}" was made with prompt prefix "{captions.prefix}", but the decoders here read "{VERSION}"; make '
            "it again with this version's `latpix caption`."
        )


def _texts(caption: Caption | None) -> list[str]:
    if caption is None or isinstance(caption, Tensor):
        return []
    return [caption] if isinstance(caption, str) else list(caption)


def _encoded(encoder: CaptionEncoder, texts: Sequence[str]) -> Iterator[tuple[str, BFloat16[Tensor, "l e"]]]:
    for text in texts:
        (embedding,) = encoder.encode([text]).cpu()
        if not torch.isfinite(embedding).all():
            kind = str(encoder.dtype).removeprefix("torch.")
            raise CaptionError(f"the text encoder overflowed in {kind}; run it in bfloat16 or float32.")
        yield text, embedding.bfloat16()


def _known(text: str, model: str | Path | None) -> BFloat16[Tensor, "l e"] | None:
    """An embedding that is here already."""
    found = shelf.lookup(model or MODEL, text)
    if found is None and not text and (model or MODEL) == MODEL and null_file().is_file():
        captions = read_captions(null_file())
        check_version(captions, null_file())
        if "" in captions.texts:
            found = captions.embedding[captions.texts.index("")]
    return found


def _check(texts: Sequence[str]) -> None:
    if not texts:
        raise CaptionError("no caption was given.")
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise CaptionError(f"the caption {text!r} is not text in UTF-8.") from error
