"""The network call written out step by step: slow, obvious, and the oracle of the tests.

Everything is float32 (or what autocast makes of it) and computed anew at every call; nothing is hoisted, cut in chunks,
or shared with the network package except the configuration and the names of the parameters. A line here can be read
beside the paper it states.

Source: PiD's published description: MMDiT blocks (Esser et al. 2024) over patches, pixel blocks with a modulation per
pixel (Yu et al. 2025, PixelDiT), DPM-Solver++ 2M (Lu et al. 2022) and renoising (Yin et al. 2024, DMD2). Letters:
b batch, n patches of a rows x columns grid, p*p pixels of a patch, d width, e pixel width, l caption tokens, g latent
width.
"""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from latpix.network.config import NetworkConfig

Parameters = Mapping[str, Tensor]
Grid = tuple[int, int]  # rows and columns of patches


# Building blocks ------------------------------------------------------------------------------------------------------


def linear(p: Parameters, name: str, x: Tensor) -> Tensor:
    """x W^T + b; b where there is one."""
    return F.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))


def rms_norm(p: Parameters, name: str, x: Tensor) -> Tensor:
    """x / root mean square of the last axis, times the learned weight."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * p[f"{name}.weight"]


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, heads merged; q, k and v are [b, n, heads, d]. Torch's own: the scores of a large
    picture fit nowhere."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each adjacent pair of channels of x [b, n, heads, d] by its token's angle [n, d/2]."""
    re, im = x[..., 0::2], x[..., 1::2]
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]  # [n, 1, d/2]
    return torch.stack([re * cos - im * sin, re * sin + im * cos], dim=-1).flatten(-2)


def picture_angles(c: NetworkConfig, grid: Grid, d: int, device: torch.device | None = None) -> Tensor:
    """Angles [n, d/2] of a grid's tokens: positions always span 0 to 16, columns and rows alternate, columns first."""
    theta = [10000.0, 10000.0]  # of rows, of columns
    if c.rope_reference is not None and d // 2 > 2:  # "ntk_aware"
        power = (d // 2) / (d // 2 - 2)
        theta = [10000.0 * (g / (r // c.patch_size)) ** power for g, r in zip(grid, c.rope_reference, strict=True)]
    angles = torch.empty(*grid, d // 4, 2, device=device)
    rows, columns = (torch.linspace(0, 16, count, device=device)[:, None] for count in grid)
    rows, columns = rows[:, None], columns[None]
    k = torch.arange(d // 4, device=device).float()
    angles[..., 0] = columns * theta[1] ** (-4 * k / d)
    angles[..., 1] = rows * theta[0] ** (-4 * k / d)
    return angles.view(grid[0] * grid[1], d // 2)


def caption_angles(c: NetworkConfig, length: int, d: int, device: torch.device | None = None) -> Tensor:
    """Angles [l, d/2] of a caption's tokens; zero where the configuration leaves them unrotated."""
    if c.caption_rope_theta is None:
        return torch.zeros(length, d // 2, device=device)
    frequencies = c.caption_rope_theta ** (-2 * torch.arange(d // 2, device=device).float() / d)
    return torch.arange(length, device=device).float()[:, None] * frequencies


def windows(c: NetworkConfig, grid: Grid, block: int) -> list[tuple[list[int], list[int]]]:
    """Of each attention window, its tokens' numbers in the whole grid and in a full window x window grid."""
    side, found = c.attention_window, []
    if side is None:
        return [(list(range(grid[0] * grid[1])), list(range(grid[0] * grid[1])))]
    start = 0 if block % 2 == 0 else -(side // 2)  # odd blocks: half a window above and left
    for top in range(start, grid[0], side):
        for left in range(start, grid[1], side):
            cells = [(r, k) for r in range(side) for k in range(side)]
            cells = [(r, k) for r, k in cells if 0 <= top + r < grid[0] and 0 <= left + k < grid[1]]
            found.append(([(top + r) * grid[1] + left + k for r, k in cells], [r * side + k for r, k in cells]))
    return [pair for pair in found if pair[0]]


def picture_attention(c: NetworkConfig, q: Tensor, k: Tensor, v: Tensor, grid: Grid, block: int) -> Tensor:
    """Self-attention of a grid's tokens, window by window where there are windows."""
    side = c.attention_window
    table = picture_angles(c, grid if side is None else (side, side), q.shape[-1], q.device)
    if side is None:
        return attend(rotate(q, table), rotate(k, table), v)
    out = torch.full_like(v.flatten(2), math.nan)
    for here, inside in windows(c, grid, block):
        out[:, here] = attend(rotate(q[:, here], table[inside]), rotate(k[:, here], table[inside]), v[:, here])
    return out


def queries_keys_values(p: Parameters, name: str, x: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Project x [b, n, d] to q, k, v [b, n, heads, d/heads], q and k normalised per head."""
    q, k, v = linear(p, f"{name}.qkv", x).unflatten(-1, (3, heads, -1)).unbind(2)
    return rms_norm(p, f"{name}.q_norm", q), rms_norm(p, f"{name}.k_norm", k), v


def time_embedding(p: Parameters, timestep: Tensor) -> Tensor:
    """[b, 1, d] of timesteps [b] in 0..1000; the longest period's constant is 10, cosines stand first."""
    places = torch.arange(128).float()
    frequencies = torch.exp((-math.log(10) * places / 128).double()).float()  # rounded once, whatever the processor
    frequencies[48] = torch.nextafter(frequencies[48], torch.tensor(1.0))  # next to a tie: as upstream has it
    angles = timestep.float()[:, None] * frequencies.to(timestep.device)
    wave = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return linear(p, "time_embedding.down", F.silu(linear(p, "time_embedding.up", wave)))[:, None]


# Latent projection and gates ------------------------------------------------------------------------------------------


def conv(c: NetworkConfig, p: Parameters, name: str, x: Tensor) -> Tensor:
    """3x3 convolution with one ring of padding."""
    padded = F.pad(x, (1, 1, 1, 1), mode="constant" if c.padding == "zeros" else c.padding)
    return F.conv2d(padded, p[f"{name}.weight"], p[f"{name}.bias"])


def residual(c: NetworkConfig, p: Parameters, name: str, x: Tensor) -> Tensor:
    """x + conv(silu(norm(conv(silu(norm(x))))))."""
    hidden = x
    for i in ("1", "2"):
        hidden = F.group_norm(hidden, 4, p[f"{name}.norm{i}.weight"], p[f"{name}.norm{i}.bias"], eps=1e-5)
        hidden = conv(c, p, f"{name}.conv{i}", F.silu(hidden))
    return x + hidden


def stack(c: NetworkConfig, p: Parameters, name: str, x: Tensor) -> list[Tensor]:
    """Two convolutions, then the residual blocks; the result after the convolutions and after each block."""
    x = conv(c, p, f"{name}.conv_mid", F.silu(conv(c, p, f"{name}.conv_in", x)))
    results = [x]
    for n in range(c.latent_depth):
        results.append(residual(c, p, f"{name}.blocks.{n}", results[-1]))
    return results


def bilinear(x: Tensor, rows: int, columns: int) -> Tensor:
    """Resize if it is not that size already."""
    if x.shape[-2:] == (rows, columns):
        return x
    return F.interpolate(x, size=(rows, columns), mode="bilinear", align_corners=False)


def nearest(x: Tensor, rows: int, columns: int) -> Tensor:
    """Cell min(in - 1, floor(out_index * in/out)), the product in float32 because some sizes depend on it."""
    for axis, size in ((2, rows), (3, columns)):
        step = torch.tensor(x.shape[axis] / size, dtype=torch.float32)
        cell = (torch.arange(size, dtype=torch.float32) * step).floor().long().to(x.device)
        x = x.index_select(axis, cell.clamp(max=x.shape[axis] - 1))
    return x


def align(c: NetworkConfig, latent: Tensor, grid: Grid) -> Tensor:
    """Bring the latent to the patch grid, before the first convolution."""
    u = c.latent_unpatchify
    latent = F.pixel_shuffle(latent, u)
    ratio = Fraction(c.scale * (c.latent_downsample // u), c.patch_size)  # patches per cell, one axis
    if ratio > 1:
        return nearest(latent, *grid)
    cells = int(1 / ratio)
    return F.pixel_unshuffle(bilinear(latent, grid[0] * cells, grid[1] * cells), cells)


def latent_tokens(
    c: NetworkConfig, p: Parameters, latent: Tensor | None, image: Tensor | None, grid: Grid
) -> tuple[Tensor, Tensor]:
    """Tokens [b, n, g] that the heads read, and those that the RGB head reads."""
    name, results = "latent_projection", []
    if image is not None:
        side = c.patch_size // c.scale
        image = F.pixel_unshuffle(bilinear(image, grid[0] * side, grid[1] * side), side)
        results.append(stack(c, p, f"{name}.image_stack", image))
    if latent is not None:
        results.append(stack(c, p, f"{name}.latent_stack", align(c, latent, grid)))
    last = results[-1][-1]
    if len(results) == 2:
        both = torch.cat([results[0][-1], results[1][-1]], dim=1)
        last = F.silu(F.conv2d(both, p[f"{name}.merge_in.weight"], p[f"{name}.merge_in.bias"]))
        for n in range(c.latent_depth):
            last = residual(c, p, f"{name}.merge_blocks.{n}", last)
    tapped = last if c.rgb_head in (None, -1) else results[-1][c.rgb_head]
    return last.flatten(2).mT, tapped.flatten(2).mT


def rgb_head(c: NetworkConfig, p: Parameters, tokens: Tensor, grid: Grid) -> Tensor:
    """Training's picture [b, 3, H/scale, W/scale] out of latent tokens."""
    name = "latent_projection.rgb_head"
    hidden = F.layer_norm(tokens, tokens.shape[-1:], p[f"{name}.norm.weight"], p[f"{name}.norm.bias"], eps=1e-5)
    cells = linear(p, f"{name}.down", F.silu(linear(p, f"{name}.up", hidden)))  # [b, n, 3*f*f]
    return F.pixel_shuffle(cells.mT.unflatten(-1, grid), c.patch_size // c.scale)


def gated(p: Parameters, name: str, tokens: Tensor, features: Tensor, latent_sigma: Tensor) -> Tensor:
    """tokens + sigmoid(trust) * features, trusted less the noisier the latent."""
    logit = linear(p, f"{name}.proj", torch.cat([tokens, features], dim=-1))
    logit = logit - p[f"{name}.log_alpha"].exp() * latent_sigma.view(-1, 1, 1)
    return tokens + torch.sigmoid(logit) * features


# Blocks ---------------------------------------------------------------------------------------------------------------


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift."""
    return x * (1 + scale) + shift


def patch_block(
    c: NetworkConfig, p: Parameters, i: int, tokens: Tensor, caption: Tensor | None, condition: Tensor, grid: Grid
) -> tuple[Tensor, Tensor | None]:
    """Attention of picture and caption together, then a SwiGLU of each; every part steered by the time."""
    streams = {"image": tokens} if caption is None else {"caption": caption, "image": tokens}  # captions stand first
    block, d = f"patch_blocks.{i}", c.width // c.heads
    steer = {s: linear(p, f"{block}.{s}.modulation", condition).chunk(6, dim=-1) for s in streams}
    q, k, v = {}, {}, {}
    for s, x in streams.items():
        x = modulated(rms_norm(p, f"{block}.{s}.norm1", x), steer[s][0], steer[s][1])
        q[s], k[s], v[s] = queries_keys_values(p, f"{block}.{s}", x, c.heads)
    if caption is None:
        mixed = {"image": picture_attention(c, q["image"], k["image"], v["image"], grid, i)}
    else:
        assert c.attention_window is None, "windows are for networks without captions"
        angles = caption_angles(c, caption.shape[1], d, tokens.device), picture_angles(c, grid, d, tokens.device)
        table = torch.cat(angles)
        q_all, k_all, v_all = (torch.cat([x["caption"], x["image"]], dim=1) for x in (q, k, v))
        out = attend(rotate(q_all, table), rotate(k_all, table), v_all)
        mixed = {"caption": out[:, : caption.shape[1]], "image": out[:, caption.shape[1] :]}
    for s, x in streams.items():
        _, _, gate1, shift2, scale2, gate2 = steer[s]
        x = x + gate1 * linear(p, f"{block}.{s}.out", mixed[s])
        hidden = modulated(rms_norm(p, f"{block}.{s}.norm2", x), shift2, scale2)
        hidden = F.silu(linear(p, f"{block}.{s}.mlp.gate", hidden)) * linear(p, f"{block}.{s}.mlp.up", hidden)
        streams[s] = x + gate2 * linear(p, f"{block}.{s}.mlp.down", hidden)
    return streams["image"], streams.get("caption")


def cut(x: Tensor, side: int) -> Tensor:
    """Cut [b, c, H, W] into patches [b, n, p*p, c], both row-major."""
    b, channels, height, width = x.shape
    x = x.view(b, channels, height // side, side, width // side, side)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, side * side, channels)


def join(patches: Tensor, grid: Grid) -> Tensor:
    """The inverse of ``cut``."""
    b, _, area, channels = patches.shape
    x = patches.view(b, *grid, math.isqrt(area), math.isqrt(area), channels)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(b, channels, grid[0] * x.shape[3], grid[1] * x.shape[4])


def pixel_positions(e: int, height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Sines and cosines [1, e, H, W] of every pixel's column, then of its row; float64 until done."""
    quarter = torch.arange(e // 4, dtype=torch.float64, device=device)
    frequencies = 10000.0 ** (-quarter / (e // 4))[:, None, None]
    column = (torch.arange(width, device=device).double()[None, :] * frequencies).expand(-1, height, -1)
    row = (torch.arange(height, device=device).double()[:, None] * frequencies).expand(-1, -1, width)
    return torch.cat([column.sin(), column.cos(), row.sin(), row.cos()])[None].float()


def pixel_block(c: NetworkConfig, p: Parameters, j: int, pixels: Tensor, condition: Tensor, grid: Grid) -> Tensor:
    """Attention of whole patches, then an MLP of each pixel; pixels [b, n, p*p, e], condition [b, n, d]."""
    block = f"pixel_blocks.{j}"
    steer: Tensor = linear(p, f"{block}.modulation", condition).unflatten(-1, (c.patch_size**2, 6, c.pixel_width))
    shift1, scale1, gate1, shift2, scale2, gate2 = steer.unbind(-2)  # [b, n, p*p, e] each
    hidden = modulated(rms_norm(p, f"{block}.norm1", pixels), shift1, scale1)
    hidden = linear(p, f"{block}.compress", hidden.flatten(2))  # [b, n, a]
    hidden = picture_attention(c, *queries_keys_values(p, block, hidden, c.pixel_heads), grid, j)
    hidden = linear(p, f"{block}.expand", linear(p, f"{block}.out", hidden)).view_as(pixels)
    pixels = pixels + gate1 * hidden
    hidden = modulated(rms_norm(p, f"{block}.norm2", pixels), shift2, scale2)
    return pixels + gate2 * linear(p, f"{block}.mlp.down", F.gelu(linear(p, f"{block}.mlp.up", hidden)))


# The network ----------------------------------------------------------------------------------------------------------


def quietly(name: str, value: Tensor) -> None:
    """Look at nothing."""


@torch.no_grad()
def predict(
    config: NetworkConfig,
    parameters: Parameters,
    x_t: Float[Tensor, "b 3 H W"],
    timestep: Float[Tensor, " b"],
    *,
    latent: Float[Tensor, "b c h w"] | None = None,
    latent_sigma: Float[Tensor, " b"] | None = None,
    caption: Float[Tensor, "b l e"] | None = None,
    image: Float[Tensor, "b ci hi wi"] | None = None,
    keep: Tensor | None = None,
    see: Callable[[str, Tensor], None] = quietly,
) -> Float[Tensor, "b 3 H W"]:
    """One network call: velocity or x0, whichever the network was trained for.

    Args:
        config: of the network.
        parameters: by the names of ``Denoiser.named_parameters()``; anything but float32 is widened first.
        x_t: pixels at time t; sides are multiples of the patch.
        timestep: what the time embedding is fed, 1000 t.
        latent: in its space's normalized values; without any latent or image no gate runs.
        latent_sigma: how noisy that latent is, in [0, 1].
        caption: its embedding; longer than the learned positions, it is cut.
        image: a picture at native size, for a network that reads one; at output size, for one that adds to it.
        keep: multiplies every latent feature of a sample.
        see: told by name of everything worth a look, in order of computation; the last is "output".
    """
    c, p = config, {name: value.float() for name, value in parameters.items()}
    grid = (x_t.shape[2] // c.patch_size, x_t.shape[3] // c.patch_size)

    base, features = None, list[Tensor]()
    if c.base_widths:
        assert image is not None
        base, image = image, F.avg_pool2d(image, c.scale)
    if latent is not None or image is not None:
        tokens, tapped = latent_tokens(c, p, latent, image, grid)
        see("tokens", tokens)
        for head in [f"heads.{k}" for k in range(c.latent_outputs)] + ["pixel_head"] * c.pixel_gate:
            feature = linear(p, f"latent_projection.{head}", tokens)
            if keep is not None:
                feature = keep.float().view(-1, 1, 1) * feature
            see(f"features.{len(features)}", feature)
            features.append(feature)
        if c.rgb_head is not None and "latent_projection.rgb_head.up.weight" in p:
            see("rgb", rgb_head(c, p, tapped, grid) * (1.0 if keep is None else keep.float().view(-1, 1, 1, 1)))

    time = time_embedding(p, timestep)  # [b, 1, d]
    see("time", time)
    words = None
    if c.caption_width and caption is not None:
        words = rms_norm(
            p, "caption_embedding.norm", linear(p, "caption_embedding.proj", caption[:, : c.caption_length])
        )
        words = words + p["caption_embedding.positions"][:, : words.shape[1]]  # [b, l, d]

    patches = cut(x_t, c.patch_size).mT.flatten(2)  # [b, n, 3*p*p], channels slowest
    hidden = linear(p, "patch_embedding", patches)  # [b, n, d]
    see("patches", hidden)
    for i in range(c.depth):
        if features and i % c.gate_interval == 0:
            assert latent_sigma is not None
            k = i // c.gate_interval
            hidden = gated(p, f"gates.{k}", hidden, features[k], latent_sigma)
        see(f"patch_block.{i}.in", hidden)
        hidden, words = patch_block(c, p, i, hidden, words, F.silu(time), grid)
        see(f"patch_block.{i}", hidden)

    condition = F.silu(time + hidden)
    if features and c.pixel_gate:
        assert latent_sigma is not None
        condition = gated(p, "pixel_gate", condition, features[-1], latent_sigma)
    see("condition", condition)

    positions = pixel_positions(c.pixel_width, x_t.shape[2], x_t.shape[3], x_t.device)
    pixels = linear(p, "pixel_embedding", x_t.movedim(1, -1)).movedim(-1, 1) + positions  # [b, e, H, W]
    pixels = cut(pixels, c.patch_size)  # [b, n, p*p, e]
    see("pixels", pixels)
    for j in range(c.pixel_depth):
        pixels = pixel_block(c, p, j, pixels, condition, grid)
        see(f"pixel_block.{j}", pixels)

    painted = linear(p, "final_proj", rms_norm(p, "final_norm", pixels))  # [b, n, p*p, 3]
    out = join(painted, grid)
    if base is not None:
        out = out + base
    see("output", out)
    return out


def steps_of_call(
    config: NetworkConfig,
    parameters: Parameters,
    x_t: Float[Tensor, "b 3 H W"],
    timestep: Float[Tensor, " b"],
    **inputs: Any,
) -> dict[str, Tensor]:
    """Everything that ``predict`` shows, by name; arguments as there."""
    seen: dict[str, Tensor] = {}
    predict(config, parameters, x_t, timestep, **inputs, see=seen.__setitem__)
    return seen
