"""All that is needed to build the network.

A release is its difference to the one before: ``replace(V1, gate="token", ...)``. Letters as in docs/glossary.md.
Upstream's own configuration names are mapped in ``checkpoints/convert.py``.
"""

from dataclasses import dataclass
from typing import Literal

Padding = Literal["zeros", "replicate", "reflect"]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Shapes and rules of one network; stored in the checkpoint, next to its weights.

    Sizes of pictures and of the rotary reference are in pixels, all others in channels, tokens or blocks.
    """

    # What is read
    latent_channels: int  # of the latent space, as delivered; 0 is a plain text-to-image network
    latent_downsample: int = 8  # native pixels per side of a latent cell
    scale: int = 4  # output side / native side
    image_channels: int = 0  # of a picture at native size read beside the latent; 0 is none
    caption_width: int = 2304  # of a caption embedding's states; 0 is a network without a caption stream
    caption_length: int = 300  # learned positions; longer captions are cut
    caption_rope_theta: float | None = 10000.0  # None leaves caption queries and keys unrotated

    # Patch path
    patch_size: int = 16
    width: int = 1536  # d, of patch and caption tokens
    heads: int = 24
    depth: int = 14
    rope_reference: tuple[int, int] | None = (1024, 1024)  # height, width where theta is 10000; None never adapts it
    attention_window: int | None = None  # side in patches that attention sees; None is the whole picture

    # Pixel path
    pixel_width: int = 16  # of one pixel token
    pixel_attention_width: int = 1152
    pixel_heads: int = 16
    pixel_depth: int = 2

    # Latent projection
    latent_width: int = 512  # g, of its convolutions
    latent_depth: int = 4  # residual blocks
    latent_unpatchify: int = 1  # side of the depth-to-space that opens a patchified latent
    padding: Padding = "zeros"
    gate: Literal["channel", "token"] = "channel"  # v1: a trust value per channel; v1.5: per token
    gate_interval: int = 2  # latent features enter before every n-th patch block
    pixel_gate: bool = False  # v1.5: they enter before the pixel blocks too
    rgb_head: int | None = None  # training's RGB head reads this residual block's output (1-based); -1 the last tokens

    # Base decoder: paints a picture from the latent alone, which the output is added to
    base_widths: tuple[int, ...] = ()  # of its levels, from the latent's cells to the native size; empty is none
    base_blocks: tuple[int, ...] = ()  # residual blocks of each level

    @property
    def latent_outputs(self) -> int:
        """Patch blocks that latent features enter."""
        return -(-self.depth // self.gate_interval)

    @property
    def head_widths(self) -> tuple[int, int]:
        """Channels of an attention head: of the patch path, of the pixel path."""
        return self.width // self.heads, self.pixel_attention_width // self.pixel_heads

    @property
    def mlp_width(self) -> int:
        """Hidden width of the patch path's SwiGLU: two thirds of four times the width, truncated twice."""
        return int(2 * int(4 * self.width) / 3)


V1 = NetworkConfig(latent_channels=16)
V1_5 = NetworkConfig(
    latent_channels=16,
    latent_width=1024,
    padding="replicate",
    gate="token",
    rope_reference=(2048, 2048),
    pixel_gate=True,
)
PIXELDIT = NetworkConfig(latent_channels=0, rope_reference=(2048, 2048))
