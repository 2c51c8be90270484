"""Captions of a batch as states of the text encoder: from the cache, else by the encoder, which then stays loaded.

A set of pictures may have more captions than a disk has room for their states (1.4 MB each), so nothing is stored
here; what `latpix caption` embedded before is found. Letters: b captions, l tokens, e width of a state.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from latpix.captions.encoder import CaptionEncoder
from latpix.captions.provide import are_known, embed


class CaptionStates:
    """The states of any captions, float32 on the device; an entry of the cache and the encoder give the same.

    Args:
        model: hub id or folder of the text encoder.
        device: where it runs, and where the states are wanted.
    """

    def __init__(self, model: str, device: torch.device) -> None:
        self.model, self.device = model, device
        self.encoder: CaptionEncoder | None = None

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "b l e"]:
        """Raises what ``CaptionEncoder.load`` does, where the encoder is needed and not here."""
        if are_known(texts, model=self.model):
            states = embed(texts, model=self.model)
        else:
            self.encoder = self.encoder or CaptionEncoder.load(self.model, device=self.device)
            states = self.encoder.encode(texts).bfloat16()  # in which the cache has them
        return states.to(self.device).float()
