"""The text encoder: Gemma 2's decoder stack, read after its last norm; the language head is never built.

    prefix + caption --tokenizer--> ids [l] --layers--> states [l, e] --select--> embedding [m, e]

Attention is causal, padding is no key, and logits are not capped: Gemma 2 asks for 50 * tanh(x / 50), but the decoders
were trained on states of a library version that ignored it.

Letters: n captions, l tokens of a padded prompt, m states of an embedding, e their width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latpix.captions.model_files import MODEL, first_line, local_folder, ways_on
from latpix.captions.prompt_prefix import PREFIX
from latpix.captions.selection import LENGTH, fit, padded_length, select
from latpix.devices import free_memory, pick_device, pick_dtype
from latpix.errors import CaptionError, LatpixError, MemoryLimitError, MissingExtraError
from latpix.libraries import quiet

_HEAD = {"lm_head.weight"}  # in some files, though it is the input embedding once more


@dataclass(frozen=True)
class Tokens:
    """Prompts as the encoder reads them."""

    ids: Int[Tensor, "n l"]
    mask: Int[Tensor, "n l"]  # 1 where they are the prompt's own
    prefix_tokens: int
    kept: list[int]  # positions of the embedding


class CaptionEncoder:
    """A text encoder on a device; ``close`` it before something large is loaded."""

    def __init__(self, model: Any, tokenizer: Any, device: torch.device, dtype: torch.dtype) -> None:
        self._model, self._tokenizer = model, tokenizer
        self.device, self.dtype = device, dtype

    @classmethod
    def load(
        cls,
        model: str | Path = MODEL,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
    ) -> Self:
        """Load a Gemma 2; the released decoders' has 2.6 billion parameters, 5.2 GB in bfloat16.

        Args:
            model: a hub id, downloaded at its first use, or a folder as transformers saves it.
            device: ``auto`` takes an accelerator if there is one.
            dtype: ``auto`` is bfloat16 where the device multiplies it in hardware, else float32.

        Raises:
            MissingExtraError: transformers is not installed.
            DownloadError: the hub did not give it.
            CaptionError: the folder holds no Gemma 2, or not all of it.
            MemoryLimitError: the device is too small for it.
            OptionError: no such device or dtype.
        """
        picked = pick_device(device)
        picked_dtype = pick_dtype(dtype, picked)
        try:
            import transformers
        except ImportError as error:
            raise MissingExtraError.of("captions", "transformers") from error
        folder = local_folder(model)
        try:
            with quiet(transformers):
                network, tokenizer = _open(transformers, folder, picked_dtype)
            return cls(network.to(picked), tokenizer, picked, picked_dtype)
        except LatpixError:
            raise
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise MemoryLimitError(
                f"the device {picked} has too little memory for the text encoder: use another device, or embed the "
                "captions elsewhere (`latpix caption`) and bring them as a caption file."
            ) from error
        except Exception as error:  # a damaged folder can fail anywhere in the library
            raise CaptionError(
                f'"{folder}" holds no text encoder that can be loaded: {first_line(error)}. {ways_on(model)}'
            ) from error

    @torch.no_grad()
    def encode(self, texts: Sequence[str], *, prefix: str = PREFIX, length: int = LENGTH) -> Float[Tensor, "n m e"]:
        """The embeddings of captions, each encoded by itself: its bits do not depend on its neighbours.

        Args:
            texts: what pictures show; the first ``length - 1`` tokens of each are read.
            prefix, length: those of the released decoders.
        """
        assert self._model is not None, "the encoder is closed"
        prompts = self.tokens(texts, prefix=prefix, length=length)
        embeddings = []
        for ids, mask in zip(prompts.ids.to(self.device), prompts.mask.to(self.device), strict=True):
            states = self._model(input_ids=ids[None], attention_mask=mask[None], use_cache=False).last_hidden_state
            embeddings.append(states[0, prompts.kept])  # [m, e]
        return torch.stack(embeddings)

    def tokens(self, texts: Sequence[str], *, prefix: str = PREFIX, length: int = LENGTH) -> Tokens:
        """Prompts as ids, cut or padded on the right to one length."""
        prefix_tokens = len(self._ids(prefix)) if prefix else 0
        padded, padding = padded_length(prefix_tokens, length), self._tokenizer.pad_token_id or 0
        ids, mask = zip(*(fit(self._ids(prefix + text), padded, padding) for text in texts), strict=True)
        return Tokens(torch.tensor(ids), torch.tensor(mask), prefix_tokens, select(prefix_tokens, length))

    def double(self) -> Self:
        """In float64 from here on: what float32 loses is measured against it."""
        self._model.double()
        self.dtype = torch.float64
        return self

    def close(self) -> None:
        """Give its memory back; it cannot be used afterwards."""
        self._model = self._tokenizer = None
        free_memory()

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text)["input_ids"]
        return ids


def _open(transformers: Any, folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The decoder stack straight in its type, and its tokenizer; nothing is missing and nothing is left over."""
    here = {"local_files_only": True, "trust_remote_code": False}
    config = transformers.AutoConfig.from_pretrained(folder, **here)
    if config.model_type != "gemma2":
        raise CaptionError(
            f'"{folder}" holds a "{config.model_type}" model, but captions are embedded by Gemma 2 ({MODEL}).'
        )
    config.attn_logit_softcapping = None
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **here)
    network, report = transformers.Gemma2Model.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        attn_implementation="eager",  # its softmax is float32; the faster kinds are refused for this class
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    lacking, strange = sorted(report["missing_keys"]), sorted(set(report["unexpected_keys"]) - _HEAD)
    if lacking or strange:
        raise CaptionError(
            f'"{folder}" is not a whole Gemma 2: it lacks {_listed(lacking)} and has {_listed(strange)} too much. '
            "Get it again."
        )
    return network.eval().requires_grad_(False), tokenizer


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown or "nothing"
