"""Operations of a network call, counted: a multiply-add is two, everything but matrix products is left out.

They are those of the plain algorithm, in which every call computes everything anew, so that work which is skipped shows
as a higher rate; a base decoder's picture, painted once in a decode, is apart. Exact: torch's counter gives the same
integers (tests/test_operations.py). Not in it: training's RGB head.
Letters: n patches, l caption tokens, d width, e pixel width, p pixels of a patch, a pixel attention width, g latent
width.
"""

from dataclasses import dataclass, fields
from itertools import pairwise

from latpix.network.base_decoder import EXPANSION, TOLD_WIDTH
from latpix.network.config import NetworkConfig
from latpix.network.latent_projection import patches_per_cell
from latpix.network.layers import TIMESTEP_WIDTH


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Of one call for one picture, by where they are."""

    patch_linears: int  # queries to values, output, SwiGLU of the patches
    caption_linears: int  # the same of the caption's tokens
    patch_attention: int
    gates: int
    latent_stack: int  # all convolutions of the latent projection
    heads: int
    pixel_modulators: int
    compress_expand: int
    pixel_linears: int  # queries to values, output
    pixel_attention: int
    pixel_mlp: int
    caption_embedding: int
    rest: int  # patch and pixel embeddings, final layer, time embedding and what it steers

    @property
    def total(self) -> int:
        """All of them."""
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def once(self) -> int:
        """Those that do not depend on time: a decode needs them once, however many steps it takes."""
        return self.latent_stack + self.heads + self.caption_embedding


def call_operations(config: NetworkConfig, rows: int, columns: int, *, caption_tokens: int | None = None) -> Operations:
    """Operations of one call for a grid of ``rows`` x ``columns`` patches.

    Args:
        config: of the network.
        rows, columns: of the output, in patches.
        caption_tokens: states of the caption; default as many as the network reads.
    """
    n, d, e, p = rows * columns, config.width, config.pixel_width, config.patch_size**2
    a, g = config.pixel_attention_width, config.latent_width
    asked = config.caption_length if caption_tokens is None else caption_tokens
    l = min(asked, config.caption_length) if config.caption_width else 0  # noqa: E741
    token = 2 * (4 * d**2 + 3 * d * config.mlp_width)  # of a patch block, for each of its tokens
    gates = (config.latent_outputs + config.pixel_gate) if config.latent_channels else 0
    streams = 2 if config.caption_width else 1
    return Operations(
        patch_linears=config.depth * n * token,
        caption_linears=config.depth * l * token,
        patch_attention=sum(4 * d * _pairs(config, rows, columns, l, i) for i in range(config.depth)),
        gates=gates * 4 * n * d * (d if config.gate == "channel" else 1),
        latent_stack=_latent_stack(config, n) if config.latent_channels else 0,
        heads=gates * 2 * n * g * d,
        pixel_modulators=config.pixel_depth * 12 * n * d * e * p,
        compress_expand=config.pixel_depth * 4 * n * p * e * a,
        pixel_linears=config.pixel_depth * 8 * n * a**2,
        pixel_attention=sum(4 * a * _pairs(config, rows, columns, 0, j) for j in range(config.pixel_depth)),
        pixel_mlp=config.pixel_depth * 16 * n * p * e**2,
        caption_embedding=2 * l * config.caption_width * d,
        rest=2 * n * p * (3 * d + 2 * 3 * e) + 2 * d * (TIMESTEP_WIDTH + d) + streams * config.depth * 12 * d**2,
    )


def base_operations(config: NetworkConfig, height: int, width: int, *, finer: int | None = None) -> int:
    """Operations of a base decoder's picture; 0 for networks without.

    Args:
        config: of the network.
        height, width: of the latent, in cells.
        finer: cells whose finer levels are painted, those counted twice that are painted twice; default each once.
    """
    if not config.base_widths:
        return 0
    widths, levels = config.base_widths, list(zip(config.base_widths, config.base_blocks, strict=True))
    per_place = [36 * blocks * d**2 for d, blocks in levels]
    per_place[0] += 18 * (config.latent_channels // config.latent_unpatchify**2) * widths[0]  # enter
    per_place[0] += 4 * config.base_blocks[0] * EXPANSION * widths[0] ** 2  # side branches
    for level, (coarse, fine) in enumerate(pairwise(widths), start=1):
        per_place[level] += 2 * coarse * fine  # up
    per_place[-1] += 18 * widths[-1] * 3 * (1 + config.scale**2)  # native picture and detail
    told = 2 * TOLD_WIDTH * (1 + 2 * widths[0] + sum(2 * d * blocks for d, blocks in levels))
    cells = height * width
    return told + sum(
        per * (cells if level == 0 or finer is None else finer) * (config.latent_unpatchify << level) ** 2
        for level, per in enumerate(per_place)
    )


def _pairs(config: NetworkConfig, rows: int, columns: int, caption: int, block: int) -> int:
    """Pairs of a query and a key that a block's attention compares; windows count what lies in the picture."""
    side = config.attention_window
    if side is None:
        return (rows * columns + caption) ** 2
    shift = side // 2 if block % 2 else 0

    def squares(length: int) -> int:
        starts = range(-shift, length, side)
        return sum((min(start + side, length) - max(start, 0)) ** 2 for start in starts)

    return squares(rows) * squares(columns)


def _latent_stack(config: NetworkConfig, n: int) -> int:
    g, depth = config.latent_width, config.latent_depth
    patches, cells = patches_per_cell(config)
    fold = max(cells // patches, 1)

    def stack(channels: int) -> int:
        return 18 * n * (channels * g + (1 + 2 * depth) * g**2)

    total = stack(config.latent_channels * fold**2 // config.latent_unpatchify**2)
    if config.image_channels:
        native = config.patch_size // config.scale
        total += stack(config.image_channels * native**2) + 4 * n * g**2 + 18 * n * 2 * depth * g**2
    return total
