"""One picture's decode at the trained scale: whole, or in tiles, or in tiles with its state in files.

    latent -> base picture (where the network paints on one) -> latent projection, both of the whole picture
           -> at every step: whole, or a tile at a time with its part of both -> pixels

Whole is what a network of the trained size does. Tiles whose picture fits into memory share a base picture and a
projection made at once; with files those are made in parts too, so that what the process holds does not grow with the
picture, but for the latent itself. Several processes share the rows of a whole, or the tiles.
Letters: c latent channels, h w latent cells, H W output pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from latpix.base_bands import coarse_in_bands
from latpix.canvas import Canvas, bytes_of
from latpix.checkpoints.registry import Checkpoint
from latpix.latent_bands import project_in_bands
from latpix.network.layers import TIMESTEP_SCALE
from latpix.network.model import Condition, Denoiser, default_pieces
from latpix.network.pieces import Pieces
from latpix.network.time_table import TimeTable
from latpix.sampling.guidance import guide
from latpix.sampling.noise import normals
from latpix.sampling.paths import Pixels
from latpix.sampling.samplers import Denoise, OnStep, Step, sample, step_multistep, step_ode, step_renoise
from latpix.sampling.schedules import Times
from latpix.team import Band, Team
from latpix.tiling import BLOCK, Tile, cut_tiles, sample_in_tiles


@dataclass(frozen=True)
class Told:
    """What the network is told at every step and in every tile."""

    tokens: Float[Tensor, "1 l d"] | None  # the caption's
    null_tokens: Float[Tensor, "1 m d"] | None  # those of what guidance pushes away from
    times: TimeTable


@dataclass(frozen=True, kw_only=True)
class OneDecode:
    """A latent, and all that its picture depends on."""

    network: Denoiser
    row: Checkpoint
    latent: Float[Tensor, "1 c h w"]  # on the network's device
    latent_sigma: float
    sigma_map: Float[Tensor, "1 rows columns"] | None = None  # of each patch, for the gates, instead of one for all
    captions: Sequence[Tensor | None] = (None, None)  # the caption's states, and what guidance pushes away from
    seed: int
    times: Times
    pieces: Pieces | None = None  # how much is worked on at a time; None is what is quick
    team: Team | None = None  # of the processes that all paint this picture

    def whole(self, on_step: OnStep) -> Pixels:
        """The picture in one piece, not clamped."""
        base, sigma = self.network.base_decoder, self._sigma
        image = None if base is None else base.paint(self.latent, sigma)
        height, width = self.size
        told, band = self._told(), None
        pieces = self.pieces or default_pieces(self.row.network)
        condition = self.network.condition(
            height=height,
            width=width,
            latent=self.latent,
            latent_sigma=sigma if self.sigma_map is None else self.sigma_map,
            tokens=told.tokens,
            image=image,
            times=told.times,
            pieces=pieces if self.team is None else replace(pieces, keep_features=False),
        )
        if self.team is not None:
            band = Band(self.team, condition.rows)
            condition = self._of_band(band.condition(condition), pieces)
        return sample(
            self._step,
            self._guided(condition, told, band),
            lambda draw: self._noise(draw, Tile(0, 0, height, width)),
            self.times,
            prediction=self.row.sampling.prediction,
            on_step=on_step,
        )

    def _of_band(self, condition: Condition, pieces: Pieces) -> Condition:
        """A band's, whose features are made, and kept, of the band alone."""
        features = condition.features
        if pieces.keep_features and features is not None:
            features = self.network.latent_projection.made(features)
        return replace(condition, pieces=pieces, features=features)

    def tiled(self, side: int, on_step: OnStep, folder: Path | None = None) -> Canvas:
        """The picture in tiles of ``side`` cells, not clamped; its state between steps in ``folder``, if given."""
        h, w = self.latent.shape[2:]
        base, projected = self._prepare(folder)
        patches = self._cell // self.row.network.patch_size  # along a cell's side
        told = self._told()

        def bind(tile: Tile) -> Denoise:
            part, grid = tile.times(self._cell), tile.times(patches)
            sigma = self._sigma if self.sigma_map is None else self.sigma_map[:, grid.rows, grid.columns]
            condition = self.network.condition(
                height=part.height,
                width=part.width,
                latent_sigma=sigma,
                tokens=told.tokens,
                image=None if base is None else base.read(part.rows, part.columns),
                projected=projected.read(grid.rows, grid.columns),
                origin=(grid.top, grid.left),
                times=told.times,
                pieces=self.pieces,
            )
            return self._guided(condition, told)

        tiles, team = cut_tiles(h, w, side), self.team
        return sample_in_tiles(
            self._step,
            bind,
            self._noise,
            self.times,
            tiles,
            self._cell,
            lambda: self._canvas(folder),
            prediction=self.row.sampling.prediction,
            on_step=on_step,
            own=None if team is None else team.share(tiles),
            add_up=None if team is None else team.sum,
        )

    def base_at_native_size(self) -> Float[Tensor, "1 3 y x"]:
        """What the base decoder paints, at native size."""
        assert self.network.base_decoder is not None, "no base decoder"
        return F.avg_pool2d(self.network.base_decoder.paint(self.latent, self._sigma), self.row.scale)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture in pixels."""
        h, w = self.latent.shape[2:]
        return h * self._cell, w * self._cell

    @property
    def bytes_in_files(self) -> int:
        """What lies in files while it is painted ``tiled`` with a folder, at most."""
        config, pictures = self.row.network, 2 + (self._step is step_multistep) + bool(self.row.network.base_widths)
        maps = 7 if config.image_channels else 3  # of the projection, each layer's
        return pictures * bytes_of(*self.size) + maps * bytes_of(*self._grid, config.latent_width)

    @property
    def _grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.size
        return height // self.row.network.patch_size, width // self.row.network.patch_size

    @property
    def _cell(self) -> int:
        return self.row.network.latent_downsample * self.row.scale

    @property
    def _sigma(self) -> Float[Tensor, "1"]:
        return torch.full((1,), self.latent_sigma, device=self.latent.device)

    @property
    def _step(self) -> Step:
        if self.row.sampling.kind != "student":
            return step_multistep
        return {"sde": step_renoise, "ode": step_ode}[self.row.sampling.sampler]

    def _canvas(self, folder: Path | None) -> Canvas:
        return Canvas(*self.size, device=self.latent.device, folder=folder)

    def _noise(self, draw: int, part: Tile) -> Pixels:
        return normals(
            self.seed, draw, 3, part.height, part.width, top=part.top, left=part.left, device=self.latent.device
        )[None]

    def _told(self) -> "Told":
        """What every tile shares."""
        embed = self.network.caption_embedding
        tokens, null_tokens = (None if c is None or embed is None else embed(c) for c in self.captions)
        timesteps = TIMESTEP_SCALE * self.times[:-1].to(self.latent.device)
        return Told(tokens, null_tokens, self.network.time_table(timesteps))

    def _guided(self, condition: Condition, told: "Told", band: Band | None = None) -> Denoise:
        """The network with its condition bound, and with the null caption's too where the checkpoint is guided."""

        def bind(condition: Condition) -> Denoise:
            if band is not None:
                shared = band.predict(self.network, condition)
                return lambda x_t, t: shared(x_t, TIMESTEP_SCALE * t)
            return lambda x_t, t: self.network(x_t, TIMESTEP_SCALE * t, condition)

        if told.null_tokens is None:
            return bind(condition)
        null = bind(self.network.retold(condition, told.null_tokens))
        return guide(bind(condition), null, self.row.sampling.guidance_scale)

    def _prepare(self, folder: Path | None) -> tuple[Canvas | None, Canvas]:
        """The base picture, where the network paints on one, and the latent projection's map."""
        if folder is not None:
            return self._prepare_in_files(folder)
        base, painted = self.network.base_decoder, None
        if base is not None:
            painted = base.paint(self.latent, self._sigma)
        native = None if painted is None else F.avg_pool2d(painted, self.row.scale)
        projected, _ = self.network.latent_projection.project(self.latent, native, *self._grid)
        return None if painted is None else Canvas.holding(painted), Canvas.holding(projected)

    def _prepare_in_files(self, folder: Path) -> tuple[Canvas | None, Canvas]:
        """The same, in blocks and in bands."""
        base, scale = None, self.row.scale
        if self.network.base_decoder is not None:
            base = self._canvas(folder)
            self._paint_base(base, folder)

        def native(top: int, end: int) -> Pixels:
            assert base is not None
            return F.avg_pool2d(base.read(slice(top * scale, end * scale)), scale)

        projection = self.network.latent_projection
        projected = project_in_bands(projection, self.latent, None if base is None else native, *self._grid, folder)
        return base, projected

    def _paint_base(self, canvas: Canvas, folder: Path) -> None:
        """Paint the base picture: its coarse level in bands, then blocks, each cut from a part larger by what the finer
        levels see."""
        base, sigma = self.network.base_decoder, self._sigma
        assert base is not None, "no base decoder"
        h, w = self.latent.shape[2:]
        told, coarse = base.tell(sigma), coarse_in_bands(base, self.latent, sigma, folder)
        for top in range(0, h, BLOCK):
            for left in range(0, w, BLOCK):
                block = Tile(top, left, min(BLOCK, h - top), min(BLOCK, w - left))
                around = block.grown(base.reach, h, w)
                inside = Tile(block.top - around.top, block.left - around.left, block.height, block.width)
                given = around.times(base.unpatchify)
                painted = base.finish(coarse.read(given.rows, given.columns), told)
                part = block.times(self._cell)
                canvas.write(part.rows, part.columns, inside.crop(painted, self._cell))
