"""Mean colour difference:  max over channels of |mean(a) - mean(b)|, in levels of 255.

A decoder must not shift the colours of the latent it is given. Letters: b batch, H W and y x pixels.
"""

from jaxtyping import Float
from torch import Tensor


def mean_colour_difference(a: Float[Tensor, "b 3 H W"], b: Float[Tensor, "b 3 y x"]) -> Float[Tensor, " b"]:
    """Of the worst channel of each picture; the two may differ in size."""
    return (a.mean((2, 3)) - b.mean((2, 3))).abs().amax(1) * 127.5  # [b]
