"""The denoiser, assembled:  noisy pixels, time and what is known of the picture -> a prediction per pixel.

    condition = network.condition(latent, latent_sigma, caption, ...)     once per decode: nothing in it depends on time
    out       = network(x_t, timestep, condition)                         once per step

Source: PixelDiT with PiD's latent conditioning, arXiv 2605.23902.
Letters: b batch, n patches, p pixels of a patch, d width, e pixel width, l caption tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from latpix.network.attention import Scope, make_scopes
from latpix.network.base_decoder import BaseDecoder
from latpix.network.config import NetworkConfig
from latpix.network.gates import Gate
from latpix.network.latent_projection import LatentFeatures, LatentProjection
from latpix.network.layers import CaptionEmbedding, TimeEmbedding, positions_of
from latpix.network.patch_block import PatchBlock
from latpix.network.patches import from_patches, to_patches
from latpix.network.pieces import Pieces, add, cut, join
from latpix.network.pixel_block import PixelBlock
from latpix.network.precision import Linear, RMSNorm
from latpix.network.rope import Rotation, sequence_rotation
from latpix.network.time_table import Steer, TimeTable


@dataclass(frozen=True)
class Condition:
    """All that a decode knows before the first step: caption tokens, latent features, tables of positions and time."""

    rows: int  # of patches
    columns: int
    caption: Float[Tensor, "b l d"] | None
    caption_rotation: Rotation | None
    features: LatentFeatures | None  # None: plain text-to-image
    latent_sigma: Float[Tensor, "b #n 1"] | None  # of the picture, or of each patch
    patch_scopes: tuple[Scope, Scope]
    pixel_scopes: tuple[Scope, Scope]
    row_positions: Float[Tensor, "h half"]
    column_positions: Float[Tensor, "w half"]
    pieces: Pieces
    base: Float[Tensor, "b 3 h w"] | None = None
    times: TimeTable | None = None  # None: each call computes its own time's


class Denoiser(nn.Module):
    """The network of every checkpoint; what it is, is in its config."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        assert not (config.attention_window and config.caption_width), "captions are not windowed"
        self.base_decoder = BaseDecoder(config) if config.base_widths else None
        d, patch = config.width, config.patch_size
        self.time_embedding = TimeEmbedding(d)
        self.caption_embedding = (
            CaptionEmbedding(config.caption_width, d, config.caption_length) if config.caption_width else None
        )
        self.patch_embedding = Linear(3 * patch * patch, d)
        if config.latent_channels:
            self.latent_projection = LatentProjection(config)
            self.gates = nn.ModuleList(Gate(d, config.gate) for _ in range(config.latent_outputs))
            self.pixel_gate = Gate(d, config.gate) if config.pixel_gate else None
        self.patch_blocks = nn.ModuleList(
            PatchBlock(
                d, config.heads, config.mlp_width, caption=bool(config.caption_width), last=i == config.depth - 1
            )
            for i in range(config.depth)
        )
        e = config.pixel_width
        self.pixel_embedding = Linear(3, e)
        self.pixel_blocks = nn.ModuleList(
            PixelBlock(e, patch * patch, d, config.pixel_attention_width, config.pixel_heads)
            for _ in range(config.pixel_depth)
        )
        self.final_norm = RMSNorm(e)
        self.final_proj = Linear(e, 3)
        nn.init.xavier_uniform_(self.patch_embedding.weight)
        for parameter in (self.patch_embedding.bias, self.final_proj.weight, self.final_proj.bias):
            nn.init.zeros_(parameter)

    def condition(
        self,
        *,
        height: int,
        width: int,
        latent: Float[Tensor, "b c zh zw"] | None = None,
        latent_sigma: Float[Tensor, " b"] | Float[Tensor, "b rows columns"] | None = None,
        caption: Float[Tensor, "b l k"] | None = None,
        image: Float[Tensor, "b 3 y x"] | None = None,
        keep: Float[Tensor, " b"] | None = None,
        pieces: Pieces | None = None,
        projected: Float[Tensor, "b g rows columns"] | None = None,
        tokens: Float[Tensor, "b m d"] | None = None,
        times: TimeTable | None = None,
        origin: tuple[int, int] = (0, 0),
    ) -> Condition:
        """Compute what every step shares.

        Args:
            height, width: of the output in pixels, multiples of the patch size.
            latent: normalized values; None together with ``image`` None is a plain text-to-image call.
            latent_sigma: noise level of each latent in [0, 1], or of each of its patches; needed wherever a gate runs.
            caption: states of the caption encoder; None only for networks without a caption stream.
            image: a picture in [-1, 1] for networks that read one: at native size, or, of networks with a base
                decoder, what ``base_decoder.paint`` made of the whole latent, at output size.
            keep: 1 keeps, 0 drops the latent's features of a sample (training).
            pieces: how much is worked on at a time; default what is quick.
            projected: this part of the whole picture's ``latent_projection.project``, instead of ``latent``.
            tokens: the caption's, of ``caption_embedding``, instead of ``caption``.
            times: ``time_table`` of the schedule, for calls at its times only; default for any time.
            origin: row and column of its first patch, where it is a part of a picture. Networks with windows go on
                from there, so that inside a part they paint what they paint in the whole; others place a part like a
                whole picture.
        """
        config, device = self.config, self.final_norm.weight.device
        pieces = pieces or default_pieces(config)
        rows, columns = height // config.patch_size, width // config.patch_size
        assert (rows * config.patch_size, columns * config.patch_size) == (height, width), "size is not whole patches"
        assert image is not None or not config.base_widths, "there is no picture to paint on"
        if self.caption_embedding is not None and caption is not None:
            tokens = self.caption_embedding(caption)
        reads = self.caption_embedding is not None
        assert (tokens is not None, caption is not None and not reads) == (reads, False), "caption missing, or not read"

        base, features = None, None
        if config.base_widths and image is not None:
            base, image = image.float(), F.avg_pool2d(image.float(), config.scale)
        if projected is not None:
            features = self.latent_projection.features_of(projected, features=pieces.keep_features)
        elif latent is not None or image is not None:
            features = self.latent_projection(latent, image, rows, columns, keep, features=pieces.keep_features)
        assert features is None or latent_sigma is not None, "a gate needs latent_sigma"
        if config.attention_window is None:
            origin = (0, 0)
        top, left = (start * config.patch_size for start in origin)
        scopes = [
            make_scopes(
                rows,
                columns,
                head_width,
                reference=self._rope_reference(),
                window=config.attention_window,
                origin=origin,
                device=device,
            )
            for head_width in (config.width // config.heads, config.pixel_attention_width // config.pixel_heads)
        ]
        condition = Condition(
            rows=rows,
            columns=columns,
            caption=None,
            caption_rotation=None,
            features=features,
            latent_sigma=None if latent_sigma is None else latent_sigma.float().view(len(latent_sigma), -1, 1),
            patch_scopes=scopes[0],
            pixel_scopes=scopes[1],
            row_positions=positions_of(top, top + height, config.pixel_width, device=device),
            column_positions=positions_of(left, left + width, config.pixel_width, device=device),
            base=base,
            pieces=pieces,
            times=times,
        )
        return condition if tokens is None else self.retold(condition, tokens)

    def retold(self, condition: Condition, tokens: Float[Tensor, "b m d"]) -> Condition:
        """The same with another caption's tokens: guidance shares all else."""
        return replace(condition, caption=tokens, caption_rotation=self._caption_rotation(tokens))

    def time_table(self, timesteps: Float[Tensor, " s"]) -> TimeTable:
        """All that blocks need to know of time at a schedule's timesteps, each 1000 t in [0, 1000]."""
        time = self.time_embedding(timesteps)  # [s, 1, d]
        steering = F.silu(time)
        steers: list[Tensor] = []
        for block in self.patch_blocks:
            assert isinstance(block, PatchBlock)
            steers += [stream.modulation(steering) for stream in block.streams]
        return TimeTable(timesteps, time, torch.cat(steers, dim=1))

    def forward(
        self, x_t: Float[Tensor, "b 3 h w"], timestep: Float[Tensor, " b"], condition: Condition
    ) -> Float[Tensor, "b 3 h w"]:
        """One prediction: the velocity ``noise - x0``, or ``x0`` itself; which, the checkpoint says.

        Args:
            x_t: noisy pixels; 1 is pure noise, 0 the picture in [-1, 1].
            timestep: 1000 t, in [0, 1000].
            condition: of ``self.condition``, for pictures of this size and batch.
        """
        told: list[Tensor] | list[list[Steer]]
        if condition.times is None:
            time = self.time_embedding(timestep)
            told = [F.silu(time)] * self.config.depth
        else:
            time, steers = condition.times.at(timestep)
            each = len(steers) // self.config.depth
            told = [steers[i : i + each] for i in range(0, len(steers), each)]
        patches = self._patch_path(x_t, told, condition)
        patches = F.silu(add(patches, time), inplace=not torch.is_grad_enabled())  # the embedding itself, not its silu
        if condition.features is not None and self.config.pixel_gate:
            patches = self._enter(patches, None, condition)
        out = self._pixel_path(x_t, patches, condition)
        return out if condition.base is None else out + condition.base

    def features(
        self, x_t: Float[Tensor, "b 3 h w"], timestep: Float[Tensor, " b"], condition: Condition, after: tuple[int, ...]
    ) -> list[Float[Tensor, "b d rows columns"]]:
        """Patch tokens as maps, after the patch blocks ``after`` (from 0, rising); what follows the last does not run.

        Other arguments as of ``forward``.
        """
        time, found = F.silu(self.time_embedding(timestep)), []
        patches, caption = self._embed_patches(x_t), condition.caption
        for i in range(after[-1] + 1):
            patches = self._entered(i, patches, condition)
            patches, caption = self._patch_block(i, patches, caption, time, condition)
            if i in after:
                kept = patches if torch.is_grad_enabled() else patches.clone()  # the next block works in place
                found.append(kept.transpose(1, 2).unflatten(2, (condition.rows, condition.columns)))
        return found

    def _patch_path(
        self, x_t: Float[Tensor, "b 3 h w"], told: Sequence[Float[Tensor, "b 1 d"] | list[Steer]], condition: Condition
    ) -> Float[Tensor, "b n d"]:
        patches, caption = self._embed_patches(x_t), condition.caption
        for i in range(self.config.depth):
            patches = self._entered(i, patches, condition)
            patches, caption = self._patch_block(i, patches, caption, told[i], condition)
        return patches

    def _embed_patches(self, x_t: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        return self.patch_embedding(to_patches(x_t, self.config.patch_size).flatten(2))

    def _patch_block(
        self,
        i: int,
        patches: Float[Tensor, "b n d"],
        caption: Float[Tensor, "b l d"] | None,
        time: Float[Tensor, "b 1 d"] | list[Steer],
        condition: Condition,
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b l d"] | None]:
        scope, rotation = condition.patch_scopes[i % 2], condition.caption_rotation
        return self.patch_blocks[i](patches, caption, time, scope, rotation, condition.pieces)

    def _entered(self, i: int, patches: Float[Tensor, "b n d"], condition: Condition) -> Float[Tensor, "b n d"]:
        """The patch tokens with the latent features that enter before block ``i``, where there are any."""
        if condition.features is None or i % self.config.gate_interval:
            return patches
        return self._enter(patches, i // self.config.gate_interval, condition)

    def _enter(self, patches: Float[Tensor, "b n d"], k: int | None, condition: Condition) -> Float[Tensor, "b n d"]:
        """Through gate ``k``, or the one before the pixel blocks; without gradients in place, where the type allows."""
        gate = self.pixel_gate if k is None else self.gates[k]
        features, sigma = condition.features, condition.latent_sigma
        assert gate is not None
        assert features is not None
        assert sigma is not None

        def entered(rows: slice) -> Tensor:
            noise = sigma if sigma.shape[1] == 1 else sigma[:, rows]
            return gate(patches[:, rows], self.latent_projection.feature(features, k, rows), noise)

        pieces = cut(patches.shape[1], condition.pieces.tokens // len(patches))
        if torch.is_grad_enabled() or patches.dtype != torch.float32:
            return join(((entered(rows),) for rows in pieces), patches.shape[1])[0]
        for rows in pieces:
            patches[:, rows] = entered(rows)
        return patches

    def _pixel_path(
        self, x_t: Float[Tensor, "b 3 h w"], patches: Float[Tensor, "b n d"], condition: Condition
    ) -> Float[Tensor, "b 3 h w"]:
        pixels = self._embed_pixels(x_t, condition)
        for j, block in enumerate(self.pixel_blocks):
            pixels = block(pixels, patches, condition.pixel_scopes[j % 2], condition.pieces)
        tokens = pixels.unflatten(0, (len(patches), condition.rows, condition.columns))  # [b, rows, columns, p, e]

        def band(some: slice) -> Tensor:
            values = self.final_proj(self.final_norm(tokens[:, some].flatten(1, 2)))  # [b, m, p, 3]
            return from_patches(values, some.stop - some.start, condition.columns)

        return join(((band(some),) for some in self._bands(condition, len(x_t))), x_t.shape[2], dim=2)[0]

    def _embed_pixels(self, x_t: Float[Tensor, "b 3 h w"], condition: Condition) -> Float[Tensor, "bn p e"]:
        half, patch = self.config.pixel_width // 2, self.config.patch_size
        columns = F.pad(condition.column_positions.to(x_t.dtype), (0, half))  # [w, e]
        rows = F.pad(condition.row_positions.to(x_t.dtype), (half, 0))[:, None]  # [h, 1, e]

        def band(bands: slice) -> Tensor:
            """Some rows of patches; the table of a whole picture would be as large as its pixel tokens."""
            here = slice(bands.start * patch, bands.stop * patch)
            pixels = self.pixel_embedding(x_t[:, :, here].permute(0, 2, 3, 1))  # [b, h, w, e]
            pixels = (pixels + (columns + rows[here])).permute(0, 3, 1, 2)
            return to_patches(pixels, patch).transpose(2, 3)  # [b, m, p, e]

        parts = ((band(some),) for some in self._bands(condition, len(x_t)))
        return join(parts, condition.rows * condition.columns)[0].flatten(0, 1)

    def _bands(self, condition: Condition, batch: int) -> list[slice]:
        """Rows of patches that the pixel path's ends work on at a time."""
        return cut(condition.rows, condition.pieces.patches // (batch * condition.columns))

    def _rope_reference(self) -> tuple[int, int] | None:
        """The rotary reference in patches."""
        reference = self.config.rope_reference
        return reference and (reference[0] // self.config.patch_size, reference[1] // self.config.patch_size)

    def _caption_rotation(self, caption: Float[Tensor, "b l d"] | None) -> Rotation | None:
        theta = self.config.caption_rope_theta
        if caption is None or theta is None:
            return None
        head_width = self.config.width // self.config.heads
        return sequence_rotation(caption.shape[1], head_width, theta=theta, device=caption.device)


def default_pieces(config: NetworkConfig) -> Pieces:
    """What is quick. The modulators are 6 e p numbers per patch, more than all else together: narrow networks like
    pieces that stay in a CPU's cache, wide ones must reread a large weight for every piece."""
    return Pieces(patches=128, pixels=config.patch_size**2) if config.width <= 384 else Pieces()


def build(config: NetworkConfig, *, device: torch.device | str | None = None) -> Denoiser:
    """A network with fresh weights, ready for inference, on any device; on ``meta`` it costs nothing."""
    with torch.device(device or torch.get_default_device()):
        return Denoiser(config).eval().requires_grad_(False)
