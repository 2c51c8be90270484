"""Train flux2-lite: encoder and decoder at once, imitating TAEF2.

    python -m latpix.training.recipes.flux2_lite --assets DIR [--photos DIR] -o RUN [--minutes N]

    encoder:  mean((E(x) - z)^2 / var_c)  +  2 |D(E(x)) - x|  +  4 |T(E(x)) - x|      z = TAEF2's latent, T its decoder
    decoder:  4 |D(z) - x|  +  2 |D(E(x)) - x|                                         |e| = mean sqrt(e^2 + 0.01^2)

The T term goes through TAEF2's frozen decoder on whole pictures (its group norms see all of them: on crops of 144
pixels its output is only 24 to 36 dB from that of the whole), every 8th step, in the second half of the time.
Muon (kernels) and Adam (the rest), learning rate 1.5e-3 with warm-up and cosine to zero over `--minutes`; averaged
weights (EMA) are exported.

Hardware: 2 CPU cores with AVX-512 bf16, bfloat16 autocast, 0.25 s per step when nothing else runs. The shipped weights
came from 48 minutes in two stages on busy cores; docs/benchmarks/flux2-lite.md has their table and what differed.
A run stopped in between goes on from RUN/state.pt when the same command is given again. RUN/log.jsonl is the log.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from latpix.backbones.lite import Lite, channels_last
from latpix.backbones.lite_file import save_lite
from latpix.backbones.taef2 import Taef2
from latpix.training.latent_store import LatentStore
from latpix.training.muon import Muon
from latpix.training.photographs import Photograph, sources, training_photographs

LICENSE = "Apache-2.0"


@dataclass(frozen=True, kw_only=True)
class Config:
    """All that decides a run; saved beside its weights."""

    seed: int = 1
    minutes: float = 60.0
    crops: int = 8
    side: int = 9  # cells of a crop: 144 pixels
    margin: int = 8  # pixels at a crop's border that no loss looks at
    own_crops: int = 4  # of them also decoded from our own encoder's latents
    learning_rate: float = 1.5e-3
    warmup_steps: int = 200
    ema_decay: float = 0.998
    taef2_every: int = 8
    taef2_from: float = 0.55  # share of the time
    first_pictures: int = 206  # encoded before the first step
    encode_share: float = 0.12  # pixels encoded per pixel trained on, later
    looks: int = 8  # times that the overviews of our own latents are brought up to date
    seconds_per_save: float = 120.0


def config() -> Config:
    """The whole recipe in one run; the shipped weights came from two shorter ones."""
    return Config()


def absolute(error: Tensor, inside: Tensor | None = None) -> Float[Tensor, ""]:
    """Charbonnier's smooth absolute value, mean over what lies inside."""
    smooth = (error.float().square() + 1e-4).sqrt()
    if inside is None:
        return smooth.mean()
    return (smooth * inside).sum() / (inside.sum() * error.shape[1])


def losses(model: Lite, store: LatentStore, variance: Tensor, step: int, settings: Config) -> dict[str, Tensor]:
    """One step's losses on crops, by name."""
    crops = store.draw(settings.crops, step=step, margin=settings.margin)
    own = settings.own_crops
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latent = model.encoder(crops.pixels)
        seen = torch.cat([crops.seen, crops.seen_ours[:own]])
        decoded = model.decoder(torch.cat([crops.latent, latent[:own].float()]), seen)
    inside_cells = F.avg_pool2d(crops.inside, 8)  # [b, 1, 2h, 2w]
    error = F.pixel_shuffle(((latent.float() - crops.latent) / variance.sqrt()), 2)  # [b, 32, 2h, 2w]
    weight = inside_cells.expand_as(error)
    return {
        "latent": (error.square() * weight).sum() / weight.sum(),
        "pixels": absolute(decoded[:-own] - crops.pixels, crops.inside),
        "own": absolute(decoded[-own:] - crops.pixels[:own], crops.inside[:own]),
    }


def through_taef2(model: Lite, store: LatentStore, step: int) -> Float[Tensor, ""]:
    """How far TAEF2's frozen decoder is from the picture when it is fed with our latent."""
    pixels = store.draw_whole(step=step)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decoded = store.taef2.decode_unclamped(model.encoder(pixels))
    return absolute(decoded - pixels)


def build_optimizers(model: nn.Module, settings: Config) -> list[torch.optim.Optimizer]:
    """Muon for the kernels inside, Adam for biases and for the first and last kernel of each half."""
    edges = ("enter.weight", "leave.weight")
    named = list(model.named_parameters())
    inside = [weight for name, weight in named if weight.ndim == 4 and not name.endswith(edges)]
    others = [weight for name, weight in named if weight.ndim != 4 or name.endswith(edges)]
    adam = torch.optim.Adam(others, lr=settings.learning_rate, betas=(0.9, 0.99), fused=True)
    return [adam, Muon(inside, lr=settings.learning_rate)]


def rate(step: int, progress: float, settings: Config) -> float:
    """Warm-up by steps, then a cosine to zero by time."""
    warm = min(1.0, (step + 1) / settings.warmup_steps)
    return settings.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def train(assets: Path, packages: Path | None, run: Path, settings: Config) -> None:
    """Run, or go on with, a training; told in order."""
    # 1. what a run has
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.json").write_text(json.dumps(asdict(settings), indent=2))
    torch.manual_seed(settings.seed)
    taef2 = Taef2.load(assets / "taef2")
    channels_last(taef2)
    photographs = training_photographs(assets, packages)
    model = Lite()
    channels_last(model)
    average = copy.deepcopy(model).requires_grad_(False)
    store = LatentStore(photographs, taef2, average.encoder, side=settings.side, seed=settings.seed)
    optimizers = build_optimizers(model, settings)
    step, spent, trained_pixels = 0, 0.0, 0

    # 2. where it stood
    state_path = run / "state.pt"
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        for optimizer, its_state in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(its_state)
        step, spent, trained_pixels, variance = (state[k] for k in ("step", "spent", "trained_pixels", "variance"))
        store.fast_forward(state["encoded"], state["encoded_pixels"])
    else:
        for _ in range(min(settings.first_pictures, len(store.pictures))):
            store.encode_next()
        variance = store.channel_variance()
    first_pixels = sum(picture[0].numel() for picture in store.pictures[: settings.first_pictures])

    # 3. steps, until the time is over
    began = saved = time.monotonic()
    latest: dict[str, Tensor] = {}
    budget, before = settings.minutes * 60, spent
    looks = int(settings.looks * spent / budget)
    while spent < budget:
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate(step, spent / budget, settings)
        parts = losses(model, store, variance, step, settings)
        loss = parts["latent"] + 4 * parts["pixels"] + 2 * parts["own"]
        if step % settings.taef2_every == 0 and spent / budget > settings.taef2_from:
            parts["taef2"] = through_taef2(model, store, step)
            loss = loss + 4 * parts["taef2"]
        model.zero_grad()
        loss.backward()
        for half in (model.encoder, model.decoder):
            nn.utils.clip_grad_norm_(half.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        decay = min(settings.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)

        step += 1
        trained_pixels += settings.crops * (settings.side * 16) ** 2
        if store.encoded_pixels < first_pixels + settings.encode_share * trained_pixels:
            store.encode_next()
        if int(settings.looks * spent / budget) > looks:
            looks = int(settings.looks * spent / budget)
            store.look_again()
        spent = before + time.monotonic() - began

        # 4. now and then: log, save, export
        latest |= {name: value.detach() for name, value in parts.items()}
        if step % 50 == 0:
            line = {"step": step, "seconds": round(spent, 1), "encoded": store.encoded}
            line |= {name: round(value.item(), 5) for name, value in latest.items()}
            with (run / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
        if time.monotonic() - saved > settings.seconds_per_save or spent >= budget:
            saved = time.monotonic()
            state = {
                "model": model.state_dict(), "average": average.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": step, "spent": spent, "trained_pixels": trained_pixels, "variance": variance,
                "encoded": store.encoded, "encoded_pixels": store.encoded_pixels,
            }  # fmt: skip
            torch.save(state, run / "state.part")
            (run / "state.part").replace(state_path)
            save_lite(average, run / "flux2-lite.safetensors", source=source(photographs, step), license=LICENSE)


def source(photographs: list[Photograph], steps: int) -> str:
    """What the weights were made from, for the file's metadata."""
    made_by = f"latpix.training.recipes.flux2_lite, {steps} steps"
    return f"{made_by}; latents of TAEF2 (MIT) from photographs: {sources(photographs)}"


def main() -> None:
    """The command of the module's docstring."""
    parser = argparse.ArgumentParser(description="Train flux2-lite.")
    parser.add_argument("--assets", type=Path, required=True, help="folder with photos/ and taef2/")
    parser.add_argument("--photos", type=Path, help="folder with the two unpacked Debian packages")
    parser.add_argument("-o", "--output", type=Path, required=True, help="run folder; an existing run goes on")
    parser.add_argument("--minutes", type=float, default=config().minutes, help="encoding at the start apart")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    train(arguments.assets, arguments.photos, arguments.output, Config(minutes=arguments.minutes))


if __name__ == "__main__":
    main()
