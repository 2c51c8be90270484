"""Which weights of a denoiser learn; the others stay as they are, bit for bit.

The last patch block's caption tokens are read by nobody, so what makes them (its attention output, second norm and
feed-forward) never learns: it is in the files all the same. Source: the releases' training.
"""

from collections.abc import Callable

from latpix.network.model import Denoiser
from latpix.network.patch_block import PatchBlock

Learn = Callable[[Denoiser], None]  # marks a network's weights

ADAPTER = ("latent_projection.", "gates.", "pixel_gate.")  # what a decoder has more than a text-to-image network
UNREAD = ("out.", "norm2.", "mlp.")  # of the last patch block's caption stream


def everything(network: Denoiser) -> None:
    """All that is read."""
    network.requires_grad_(True)
    last = network.patch_blocks[-1]
    assert isinstance(last, PatchBlock)
    if last.caption is not None:
        for name, weight in last.caption.named_parameters():
            weight.requires_grad_(not name.startswith(UNREAD))


def adapter(network: Denoiser) -> None:
    """Latent projection with its RGB head, and gates: the backbone paints as it did."""
    for name, weight in network.named_parameters():
        weight.requires_grad_(name.startswith(ADAPTER))


def nothing(network: Denoiser) -> None:
    """A network that is only asked."""
    network.requires_grad_(False)
