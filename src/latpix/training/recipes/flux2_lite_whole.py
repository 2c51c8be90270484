"""Train flux2-lite on: small sharp pictures, coded whole, both halves in one run.

    python -m latpix.training.recipes.flux2_lite_whole --assets DIR --start FILE -o RUN [--minutes N]

    encoder:  10 mean(e^2)  +  40 mean(mean2(e)^2)  +  4 far(T(E(x)))  +  far(D(E(x))) / 2
    decoder:  4 far(D(z))  +  2 far(D(E(x)))
              e = (E(x) - z) / std_c          far(y) = |y - x|  +  2 (y - x)^2  +  |mean16(y - x)|

z is TAEF2's latent of x, T its decoder, frozen and used on one of a batch; |e| is sqrt(e^2 + 0.01^2).
The first recipe sees crops of large photographs; a decoder's base picture is often 200 pixels wide, sharper per pixel,
and its latent's overview differs. Here every sample is a picture of its own: a square of a photograph at full, half or
quarter size, encoded by TAEF2 as a whole, so that nothing at its border is false. Squares of 128 pixels alone teach
both halves to lean on borders (Kodak in tiles of 128 came through at 28.2 dB, of 512 at 26.1), so some are larger.
Both halves learn together: a decoder that only ever saw TAEF2's latents was 5 dB worse on ours. The weights follow the
gradients: with the first of the encoder's terms at 1 and the last at 2, its gradient is a tenth of theirs and the
latents drift (to 27 % of the variance in 17 minutes). The mean over 2x2 cells stands apart because TAEF2's decoder
turns an error there into a wrong colour: right means over 4x4 cells alone would bring it from 24 to 28 dB.
Muon and Adam as in the first recipe; averaged weights are exported. A run stopped in between goes on from RUN/state.pt
when the same command is given again.

Hardware: 2 CPU cores with AVX-512 bf16, bfloat16 autocast; see docs/benchmarks/flux2-lite.md.
"""

import argparse
import copy
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from latpix.backbones.lite import Lite, channels_last
from latpix.backbones.lite_file import load_lite, save_lite
from latpix.backbones.taef2 import Taef2
from latpix.training.photographs import Photograph, detail, read, to_levels, to_pixels, training_photographs
from latpix.training.recipes import flux2_lite
from latpix.training.recipes.flux2_lite import LICENSE, absolute, build_optimizers, rate

BATCHES = {128: 8, 256: 2, 384: 1}  # how many squares of a side make a step; each side has its turn by chance
REDUCTIONS = (1, 2, 4)
ENCODER_SHARE = 0.25  # of the gradient of its own decodes that reaches the encoder
DETAIL = 2.0  # levels: a sample has at least this much, or one chance in four


@dataclass(frozen=True, kw_only=True)
class Config:
    """All that decides a run; saved beside its weights."""

    seed: int = 2
    minutes: float = 50.0
    pool: int = 60  # million pixels encoded before the first step
    learning_rate: float = 7e-4
    warmup_steps: int = 100
    ema_decay: float = 0.998
    seconds_per_save: float = 120.0


def sample(pictures: list[Tensor], generator: np.random.Generator, length: int) -> UInt8[Tensor, "3 s s"]:
    """A random square of a random photograph at a random size, rather a detailed one."""
    while True:
        levels = pictures[int(generator.integers(len(pictures)))]
        step = REDUCTIONS[int(generator.integers(len(REDUCTIONS)))]
        side = length * step
        if min(levels.shape[-2:]) < side:
            continue
        top, left = (int(generator.integers(whole - side + 1)) for whole in levels.shape[-2:])
        square = levels[:, top : top + side, left : left + side]
        if step > 1:
            pixels = F.interpolate(to_pixels(square)[None], size=(length, length), mode="bicubic", antialias=True)
            square = to_levels(pixels[0].clamp(-1, 1))
        if generator.random() < 0.5:
            square = square.flip(-1)
        if float(detail(square, length)) >= DETAIL or generator.random() < 0.25:
            return square.contiguous()


@torch.no_grad()
def encode(taef2: Taef2, squares: list[Tensor]) -> Float16[Tensor, "b 128 h w"]:
    """TAEF2's latents of a few samples."""
    pixels = to_pixels(torch.stack(squares)).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return taef2.encode(pixels).half()


def far(decoded: Float[Tensor, "b 3 s s"], pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, ""]:
    """How far decodes are from their pictures, mean colours counted again."""
    error = decoded.float() - pixels
    total: Tensor = absolute(error) + 2 * error.square().mean() + absolute(F.avg_pool2d(error, 16))
    return total


def losses(
    model: Lite,
    latent: Float[Tensor, "b 128 h w"],
    pixels: Float[Tensor, "b 3 s s"],
    *,
    taef2: Taef2,
    variance: Float[Tensor, "1 128 1 1"],
) -> dict[str, Tensor]:
    """One step's losses on pictures and TAEF2's latents of them, by name."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = model.encoder(pixels)
        theirs = taef2.decode_unclamped(ours[:1])
        read = ours.detach() + ENCODER_SHARE * (ours - ours.detach())  # the decoder's gradient, mostly
        decoded, own = model.decoder(torch.cat([latent, read.float()])).chunk(2)
    error = (ours.float() - latent) / variance.sqrt()
    return {
        "latent": error.square().mean(),
        "means": F.avg_pool2d(error, 2).square().mean(),
        "taef2": far(theirs, pixels[:1]),
        "pixels": far(decoded, pixels),
        "own": far(own, pixels),
    }


def total(parts: dict[str, Tensor]) -> Tensor:
    """The weighted sum that is minimised."""
    return 10 * parts["latent"] + 40 * parts["means"] + 4 * parts["taef2"] + 4 * parts["pixels"] + 2 * parts["own"]


def train(assets: Path, packages: Path | None, start: Path, run: Path, settings: Config) -> None:
    """Run, or go on with, a training; told in order."""
    # 1. what a run has
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.json").write_text(json.dumps(asdict(settings), indent=2))
    torch.manual_seed(settings.seed)
    taef2 = Taef2.load(assets / "taef2")
    channels_last(taef2)
    photographs = training_photographs(assets, packages)
    pictures = [read(photograph) for photograph in photographs]
    model, _ = load_lite(start)
    model.float().requires_grad_(True)
    channels_last(model)
    average = copy.deepcopy(model).requires_grad_(False)
    first = flux2_lite.Config(learning_rate=settings.learning_rate, warmup_steps=settings.warmup_steps)
    optimizers = build_optimizers(model, first)
    step, before = 0, 0.0

    # 2. where it stood
    state_path = run / "state.pt"
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        for optimizer, its_state in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(its_state)
        step, before = state["step"], state["spent"]
    generator = np.random.default_rng((settings.seed, step))
    squares: dict[int, list[Tensor]] = {side: [] for side in BATCHES}
    latents: dict[int, list[Tensor]] = {side: [] for side in BATCHES}

    def grow(side: int) -> None:
        new = [sample(pictures, generator, side) for _ in range(BATCHES[side])]
        squares[side].extend(new)
        latents[side].extend(encode(taef2, new))

    def held() -> float:
        return sum(len(squares[side]) * side**2 for side in BATCHES) / 1e6

    while held() < settings.pool:
        for side in BATCHES:
            grow(side)
    variance = torch.stack(latents[min(BATCHES)]).float().var(dim=(0, 2, 3))[None, :, None, None]

    # 3. steps, until the time is over
    began = saved = time.monotonic()
    spent, budget = before, settings.minutes * 60
    while spent < budget:
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate(step, spent / budget, first)
        side = int(generator.choice(list(BATCHES)))
        if step % 8 == 0 and spent / budget < 0.8:
            grow(side)
        chosen = generator.integers(len(squares[side]), size=BATCHES[side])
        pixels = to_pixels(torch.stack([squares[side][k] for k in chosen])).contiguous(
            memory_format=torch.channels_last
        )
        latent = torch.stack([latents[side][k] for k in chosen]).float()
        parts = losses(model, latent, pixels, taef2=taef2, variance=variance)
        model.zero_grad()
        total(parts).backward()
        for half in (model.encoder, model.decoder):
            nn.utils.clip_grad_norm_(half.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        decay = min(settings.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        step += 1
        spent = before + time.monotonic() - began

        # 4. now and then: log, save, export
        if step % 50 == 0:
            line = {"step": step, "seconds": round(spent, 1), "pool": round(held(), 1), "side": side}
            line |= {name: round(value.item(), 5) for name, value in parts.items()}
            with (run / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
        if time.monotonic() - saved > settings.seconds_per_save or spent >= budget:
            saved = time.monotonic()
            state = {"model": model.state_dict(), "average": average.state_dict()}
            state |= {"optimizers": [optimizer.state_dict() for optimizer in optimizers], "step": step, "spent": spent}
            torch.save(state, run / "state.part")
            (run / "state.part").replace(state_path)
            save_lite(average, run / "flux2-lite.safetensors", source=source(photographs, step), license=LICENSE)


def source(photographs: list[Photograph], steps: int) -> str:
    """What the weights were made from, for the file's metadata."""
    return f"{flux2_lite.source(photographs, 0)}; then flux2_lite_whole, {steps} steps"


def main() -> None:
    """The command of the module's docstring."""
    parser = argparse.ArgumentParser(description="Train flux2-lite on.")
    parser.add_argument("--assets", type=Path, required=True, help="folder with photos/ and taef2/")
    parser.add_argument("--photos", type=Path, help="folder with the two unpacked Debian packages")
    parser.add_argument("--start", type=Path, required=True, help="weights to start from")
    parser.add_argument("-o", "--output", type=Path, required=True, help="run folder; an existing run goes on")
    parser.add_argument("--minutes", type=float, default=Config().minutes, help="encoding at the start apart")
    parser.add_argument("--rate", type=float, default=Config().learning_rate, help="of learning, at its peak")
    arguments = parser.parse_args()
    settings = Config(minutes=arguments.minutes, learning_rate=arguments.rate)
    torch.set_num_threads(2)
    train(arguments.assets, arguments.photos, arguments.start, arguments.output, settings)


if __name__ == "__main__":
    main()
