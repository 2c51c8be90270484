"""flux2-lite, encoder and decoder at once, by imitating TAEF2.

    latpix train flux2_lite --assets DIR [--set start=flux2-lite] [--set key=value ...]

    encoder:  10 mean(e^2)  +  40 mean(mean2(e)^2)  +  4 far(T(E(x)))  +  far(D(E(x))) / 2
    decoder:  4 far(D(z))  +  2 far(D(E(x)))
              e = (E(x) - z) / std_c          far(y) = |y - x|  +  2 (y - x)^2  +  |mean16(y - x)|

z is TAEF2's latent of x, T its decoder, frozen and used on one square of a sample; |e| is sqrt(e^2 + 0.01^2).
Every square is a picture of its own (training/squares.py), encoded by TAEF2 as a whole, so nothing at its border is
false. Squares of 128 pixels alone teach both halves to lean on borders (Kodak in tiles of 128 came through at 28.2 dB,
of 512 at 26.1), so some are larger.
Both halves learn together: a decoder that only ever saw TAEF2's latents was 5 dB worse on ours. The weights follow the
gradients: with the first of the encoder's terms at 1 and the last at 2, its gradient is a tenth of theirs and the
latents drift (to 27 % of the variance in 17 minutes). The mean over 2x2 cells stands apart because TAEF2's decoder
turns an error there into a wrong colour: right means over 4x4 cells alone would bring it from 24 to 28 dB.

Hardware: two CPU cores with AVX-512 bf16, about a second a step; the same command on a GPU, with a larger ``batch``.
What to expect: docs/benchmarks/flux2-lite.md. RUN/flux2-lite.safetensors is a codec: `--vae FILE`, `Codec.load(FILE)`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from latpix import resources
from latpix.backbones.lite import Lite, channels_last
from latpix.backbones.lite_file import NAME, load_lite, save_lite
from latpix.backbones.taef2 import Taef2
from latpix.distributed import ranks_of_torchrun
from latpix.errors import UsageError
from latpix.training.config import RunConfig
from latpix.training.given import Step
from latpix.training.job import FromData, Outline, Part, SampleDraws
from latpix.training.losses import charbonnier
from latpix.training.painter import Precision
from latpix.training.photographs import sources, training_photographs
from latpix.training.squares import SquareBatch, Squares, count_squares

COMMAND, AVERAGED = "train", "codec"
LICENSE = "Apache-2.0"
# Kernels inside; those that meet pictures or latents, biases and the overview's matrices are AdamW's.
MUON = tuple(
    f"lite.{part}"
    for part in (
        "encoder.fine", "encoder.down", "encoder.coarse",
        "decoder.coarse", "decoder.up", "decoder.fine",
    )
)  # fmt: skip
ENCODER_SHARE = 0.25  # of the gradient of its own decodes that reaches the encoder
OUTSIDE = 2**31  # a step that no run reaches: its squares are the grid's, and those whose latents' variance is taken
MEASURED = 16  # samples


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """All that decides a run; saved beside its weights. ``size`` is the side of the largest squares, and one sample is
    that, or several smaller ones."""

    start: str = ""  # "flux2-lite", or a codec file, to begin with; fresh weights without
    learning_rate: float = 7e-4
    optimizer: Literal["muon", "adamw"] = "muon"  # of the kernels inside; several processes need adamw
    warmup_updates: int = 100
    clip: float = 1.0


def config() -> Config:
    """Fresh weights to a codec. Rates fall over most of the run, so choose its length before it begins."""
    return Config(steps=20_000, cooldown=0.75, batch=1, size=384)


def build(settings: Config, assets: Path | None, device: torch.device) -> "LiteJob":
    """The recipe's job.

    Raises:
        UsageError: no assets, or photographs that are missing or too small.
        CheckpointError: no TAEF2 among the assets, or nothing to start from of that name.
    """
    photographs = training_photographs(_needed(assets))
    data = Squares(photographs, size=settings.size, seed=settings.seed)
    taef2 = Taef2.load(_needed(assets) / "taef2").to(device)
    torch.manual_seed(settings.seed)
    model = Lite()
    if settings.start:
        path = resources.weight(NAME) if settings.start == NAME else Path(settings.start)
        model.load_state_dict(load_lite(path)[0].state_dict())
    return LiteJob(settings, data, taef2, model, f"photographs: {sources(photographs)}")


def outline(settings: Config, assets: Path | None) -> Outline:
    """What the recipe trains, and on how much."""
    with torch.device("meta"):
        codec, taef2 = Lite(), Taef2()
    squares = count_squares(training_photographs(_needed(assets)), settings.size)
    return Outline(trained={"codec": codec}, frozen={"taef2": taef2}, alive=("codec",), samples_per_epoch=squares)


def _needed(assets: Path | None) -> Path:
    if assets is None:
        raise UsageError("flux2_lite imitates TAEF2 on photographs: name the folder with taef2/ and photos/, --assets.")
    return assets


class Halves(nn.Module):
    """Both halves in one pass, where a sharded network has its weights."""

    def __init__(self, lite: Lite, precision: Precision) -> None:
        super().__init__()
        self.lite = lite
        self.low = precision == "bfloat16"

    def forward(
        self, pixels: Float[Tensor, "b 3 s s"], latent: Float[Tensor, "b 128 h w"]
    ) -> tuple[Float[Tensor, "b 128 h w"], Float[Tensor, "b 3 s s"], Float[Tensor, "b 3 s s"]]:
        """Our latents of pictures, the decodes of TAEF2's ``latent``, and of ours."""
        with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=self.low):
            ours = self.lite.encoder(pixels).float()
            read = ours.detach() + ENCODER_SHARE * (ours - ours.detach())  # the decoder's gradient, mostly
            decoded, own = self.lite.decoder(torch.cat([latent, read])).float().chunk(2)
        return ours, decoded, own


class LiteJob(FromData):
    """See training/job.py."""

    name = NAME
    averaged = AVERAGED
    data: Squares

    def __init__(self, settings: Config, data: Squares, taef2: Taef2, model: Lite, source: str) -> None:
        self.data, self.taef2, self.source = data, taef2, source
        self.low, self.start = settings.precision == "bfloat16", settings.start
        channels_last(taef2)
        if ranks_of_torchrun().size == 1:  # weights that are shared out have to lie plainly
            channels_last(model)
        part = Part(
            network=Halves(model, settings.precision),
            learning_rate=settings.learning_rate,
            betas=(0.9, 0.99),
            warmup_updates=settings.warmup_updates,
            muon=MUON if settings.optimizer == "muon" else (),
            clip=settings.clip,
        )
        self.parts: Mapping[str, Part] = {AVERAGED: part}
        self.frozen: Mapping[str, nn.Module] = {}  # TAEF2 is asked for its halves, so it is not to be sharded
        measured = (self.encode(self.pixels(data.draw(OUTSIDE, [sample]))) for sample in range(MEASURED))
        self.variance = torch.cat(list(measured)).var(dim=(0, 2, 3))[None, :, None, None]  # [1, 128, 1, 1]

    def pixels(self, batch: SquareBatch) -> Float[Tensor, "b 3 s s"]:
        """A batch's squares where TAEF2 is, laid out as CPUs compute convolutions fastest."""
        device = next(self.taef2.parameters()).device
        return batch.pixels.to(device).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def encode(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 128 h w"]:
        """TAEF2's latents."""
        with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=self.low):  # 0.03 % of their variance
            return self.taef2.encode(pixels).float()

    def decode(self, latent: Float[Tensor, "b 128 h w"]) -> Float[Tensor, "b 3 s s"]:
        """TAEF2's decodes, with gradients."""
        with torch.autocast(latent.device.type, dtype=torch.bfloat16, enabled=self.low):
            return self.taef2.decode_unclamped(latent).float()

    def turn(self, step: int) -> tuple[str, ...]:
        return (AVERAGED,)

    def losses(self, batch: SquareBatch, step: int, draws: SampleDraws) -> Step:
        pixels = self.pixels(batch)
        latent = self.encode(pixels)
        ours, decoded, own = self.parts[AVERAGED].network(pixels, latent)
        error = (ours - latent) / self.variance.sqrt()
        parts = {
            "latent": error.square().mean(),
            "means": F.avg_pool2d(error, 2).square().mean(),
            "taef2": far(self.decode(ours[:: batch.group]), pixels[:: batch.group]),
            "pixels": far(decoded, pixels),
            "own": far(own, pixels),
        }
        total = 10 * parts["latent"] + 40 * parts["means"] + 4 * parts["taef2"] + 4 * parts["pixels"] + 2 * parts["own"]
        return Step(total, parts, {})

    @torch.no_grad()
    def sample(self, average: nn.Module) -> Tensor:
        """Rows of a square, our decode of TAEF2's latent, of ours, and TAEF2's of ours."""
        pixels = self.pixels(self.data.draw(OUTSIDE, [MEASURED]))
        ours, decoded, own = average(pixels, self.encode(pixels))
        columns = torch.cat([pixels, decoded, own, self.decode(ours)], dim=3)  # [b, 3, s, 4s]
        return torch.cat(list(columns), dim=1).clamp(-1, 1)

    def export(self, average: Mapping[str, Tensor], folder: Path, steps: int) -> Path:
        model, path = Lite(), folder / f"{NAME}.safetensors"
        model.load_state_dict({name.removeprefix("lite."): tensor for name, tensor in average.items()})
        begun = f" from {self.start}" if self.start else ""
        made_by = f"latpix.training.recipes.flux2_lite, {steps} steps{begun}"
        save_lite(model, path, source=f"{made_by}; latents of TAEF2 (MIT) from {self.source}", license=LICENSE)
        return path


def far(decoded: Float[Tensor, "b 3 s s"], pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, ""]:
    """How far decodes are from their pictures, mean colours counted again."""
    total: Tensor = charbonnier(decoded, pixels) + 2 * F.mse_loss(decoded, pixels)
    return total + charbonnier(F.avg_pool2d(decoded, 16), F.avg_pool2d(pixels, 16))
