"""Train the first flux2-tiny: a one-stage recipe that paints detail on top of flux2-lite's decode.

    python -m latpix.training.recipes.flux2_tiny --assets DIR [--photos DIR] [--start FILE] -o RUN [--minutes N]

Two noises, one latent:  x0_1, x0_2 = network(x_t, 1000 t, latent)
    loss = 2 |x0 - x|  +  |mean16(x0 - x)|  +  energy score in fine detail  +  w_f features  +  w_t texture
    (EfficientNet-Lite1)

|d| is the smooth absolute difference. x_t is pure noise at the schedule's first time; at the later ones it is the
network's own earlier guess, noised again, as in a decode: trained on noised originals, later steps leave grain. The
energy score pays for two seeds that differ where the picture is uncertain, so that noise becomes texture instead of
being averaged away. Latents come from TAEF2 and from flux2-lite, half each; a third of them noised, up to
``max_latent_sigma``.

Hardware: 2 CPU cores with AVX-512 bf16, bfloat16 autocast, see docs/benchmarks/flux2-tiny.md for minutes and figures;
the same command runs on an accelerator. A run stopped in between goes on from RUN/state.pt when the command is given
again. RUN/log.jsonl is the log, RUN/flux2-tiny.safetensors the averaged weights so far.
"""

import argparse
import copy
import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from latpix.backbones.codec import Codec
from latpix.backbones.taef2 import Taef2
from latpix.checkpoints.load import load, save
from latpix.checkpoints.registry import find
from latpix.devices import pick_device
from latpix.efficientnet import EfficientNetLite
from latpix.latents.noising import noise_latent
from latpix.network.layers import TIMESTEP_SCALE
from latpix.network.model import Condition, Denoiser
from latpix.training.losses import charbonnier, energy_score, feature_difference, texture_difference
from latpix.training.muon import Muon
from latpix.training.pairs import CELL, MARGIN, PairBatch, PairStore
from latpix.training.photographs import Photograph, halve, is_large, read, sources, training_photographs

MUON = (
    "patch_blocks",
    "latent_projection.latent_stack",
    "latent_projection.image_stack",
    "latent_projection.merge_blocks",
)
FULL_SIZE_SOURCES = ("cid22", "clic2025")  # the packages' pictures are soft at full size: half size only


@dataclass(frozen=True, kw_only=True)
class Config:
    """All that decides a run; saved beside its weights."""

    seed: int = 1
    minutes: float = 60.0
    crops: int = 8  # painted in a step: as many crops, or half of them from two noises each
    paired: float = 0.35  # share of steps with two noises
    side: int = 4  # latent cells of a crop: 256 output pixels
    later_steps: float = 0.6  # share of batches that start from the network's own guess
    noised: float = 0.33  # share of latents that are noised
    max_latent_sigma: float = 0.8
    spread: float = 0.4
    features: float = 0.02
    texture: float = 0.03
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    ema_decay: float = 0.995
    seconds_per_save: float = 180.0


def config() -> Config:
    """The run that made the shipped weights."""
    return Config()


@dataclass(frozen=True)
class Example:
    """A batch, its condition drawn; a paired one holds each crop twice, to be painted from two noises."""

    condition: Condition
    pixels: Float[Tensor, "b 3 p p"]
    paired: bool


def prepare(network: Denoiser, codec: Codec, batch: PairBatch, settings: Config, *, paired: bool) -> Example:
    """Noise some of the latents, decode those anew, and let the network read them."""
    count, device = len(batch.pixels), network.final_norm.weight.device
    sigma = torch.rand(count) * settings.max_latent_sigma * (torch.rand(count) < settings.noised)
    latent, base = batch.latent.clone(), batch.base.clone()
    for k in sigma.nonzero().flatten().tolist():
        one, s = slice(k, k + 1), float(sigma[k])
        noisy = noise_latent(batch.surroundings[one], torch.randn_like(batch.surroundings[one]), s, "flow")
        decoded = codec.decode(noisy, seen=noised_overview(batch.seen[one], s))
        latent[one] = noisy[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
        edge = MARGIN * CELL
        base[one] = decoded[..., edge:-edge, edge:-edge].cpu()
    size = batch.pixels.shape[-1]
    with torch.autocast(device.type, dtype=torch.bfloat16):
        condition = network.condition(
            height=size, width=size, latent=latent.to(device), image=base.to(device), latent_sigma=sigma.to(device)
        )
    pixels = batch.pixels.to(device)
    return (
        Example(twice(condition), pixels.repeat(2, 1, 1, 1), paired) if paired else Example(condition, pixels, paired)
    )


def noised_overview(seen: Float[Tensor, "b 64"], s: float) -> Float[Tensor, "b 64"]:
    """The overview of a whole latent after noising: means shrink, variances are joined by the noise's."""
    mean, deviation = seen.chunk(2, dim=1)
    return torch.cat([(1 - s) * mean, (((1 - s) * deviation).square() + s * s).sqrt()], dim=1)


def twice(condition: Condition) -> Condition:
    """The same latents again, for a second noise; they were read once."""
    assert condition.features is not None
    assert condition.features.pixel is not None
    assert condition.latent_sigma is not None
    assert condition.base is not None
    features = replace(
        condition.features,
        per_gate=tuple(feature.repeat(2, 1, 1) for feature in condition.features.per_gate),
        pixel=condition.features.pixel.repeat(2, 1, 1),
    )
    sigma, base = condition.latent_sigma.repeat(2, 1, 1), condition.base.repeat(2, 1, 1, 1)
    return replace(condition, features=features, latent_sigma=sigma, base=base)


def paint(network: Denoiser, condition: Condition, x_t: Tensor, t: float) -> Float[Tensor, "b 3 p p"]:
    """One call of the network, which predicts the picture."""
    with torch.autocast(x_t.device.type, dtype=torch.bfloat16):
        x0: Tensor = network(x_t, x_t.new_full((len(x_t),), TIMESTEP_SCALE * t), condition)
    return x0.float()


def start(network: Denoiser, example: Example, schedule: tuple[float, ...], settings: Config) -> tuple[Tensor, float]:
    """A state of the decode and its time: pure noise, or the network's own first guess noised to a later time."""
    noise = torch.randn_like(example.pixels)
    if torch.rand(()) >= settings.later_steps:
        return noise, 1.0 if torch.rand(()) < 0.25 else schedule[0]
    with torch.no_grad():
        x0 = paint(network, example.condition, noise, schedule[0])
        t = schedule[1 + int(torch.randint(len(schedule) - 2, ()))]
        return (1 - t) * x0 + t * torch.randn_like(noise), t


def look(eyes: EfficientNetLite, pixels: Tensor) -> list[Tensor]:
    """Features of pixels; bfloat16 inside costs half."""
    return [seen.float() for seen in eyes(pixels.to(eyes.stem.weight.dtype))]


def losses(
    network: Denoiser, eyes: EfficientNetLite, example: Example, schedule: tuple[float, ...], settings: Config
) -> dict[str, Tensor]:
    """One step's losses, by name."""
    x_t, t = start(network, example, schedule, settings)
    x0 = paint(network, example.condition, x_t, t)
    target = example.pixels
    with torch.no_grad():
        wanted = look(eyes, target)
    painted = look(eyes, x0)
    # Without a second noise the score is what it is for a network that ignores noise.
    first, second = x0.chunk(2) if example.paired else (x0, x0)
    return {
        "pixels": charbonnier(x0, target),
        "colour": charbonnier(F.avg_pool2d(x0, 16), F.avg_pool2d(target, 16)),
        "energy": energy_score(first, second, target[: len(first)], settings.spread if example.paired else 0.0),
        "features": feature_difference(painted, wanted),
        "texture": texture_difference(painted, wanted),
    }


def total(parts: dict[str, Tensor], settings: Config) -> Tensor:
    """The weighted sum that is minimised."""
    weighted = settings.features * parts["features"] + settings.texture * parts["texture"]
    return 2 * parts["pixels"] + parts["colour"] + parts["energy"] + weighted


def build_optimizers(network: Denoiser, settings: Config) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside patch blocks and convolution stacks, Adam for everything else."""
    named = list(network.named_parameters())
    inside = [weight for name, weight in named if weight.ndim > 1 and name.startswith(MUON)]
    others = [weight for name, weight in named if weight.ndim < 2 or not name.startswith(MUON)]
    adam = torch.optim.Adam(others, lr=settings.learning_rate, betas=(0.9, 0.99), fused=True)
    return [adam, Muon(inside, lr=settings.learning_rate)]


def rate(step: int, progress: float, settings: Config) -> float:
    """Warm-up by steps, then a cosine to zero by time."""
    warm = min(1.0, (step + 1) / settings.warmup_steps)
    return settings.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def pictures(photographs: list[Photograph]) -> list[Tensor]:
    """Sharp pictures as they are, large ones at half size too."""
    found = []
    for photograph in photographs:
        levels = read(photograph)
        if not is_large(levels) or photograph.source in FULL_SIZE_SOURCES:
            found.append(levels)
        if is_large(levels):
            found.append(halve(levels))
    return found


def train(assets: Path, packages: Path | None, run: Path, settings: Config, *, start_from: Path | None = None) -> None:
    """Run, or go on with, a training; told in order. ``start_from``: weights to begin with, instead of fresh ones."""
    # 1. what a run has
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.json").write_text(json.dumps(asdict(settings), indent=2))
    torch.manual_seed(settings.seed)
    device, row = pick_device("auto"), find("flux2-tiny")
    assert row.sampling.times is not None
    schedule = row.sampling.times
    codec = Codec.load("flux2-lite", device=str(device))
    photographs = training_photographs(assets, packages)
    store = PairStore(pictures(photographs), Taef2.load(assets / "taef2"), codec, side=settings.side)
    network = Denoiser(row.network).to(device)
    if start_from is not None:
        network.load_state_dict(load(start_from).network.state_dict())
    average = copy.deepcopy(network).requires_grad_(False)
    eyes = EfficientNetLite.load("lite1").to(device, torch.bfloat16)
    optimizers = build_optimizers(network, settings)
    step, spent = 0, 0.0

    # 2. where it stood
    state_path = run / "state.pt"
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        for optimizer, its_state in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(its_state)
        step, spent = state["step"], state["spent"]

    # 3. steps, until the time is over
    began = saved = time.monotonic()
    budget, before = settings.minutes * 60, spent
    while spent < budget:
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate(step, spent / budget, settings)
        torch.manual_seed(settings.seed + 1_000_003 * step)
        paired = bool(torch.rand(()) < settings.paired)
        count = settings.crops // 2 if paired else settings.crops
        batch = store.draw(np.random.default_rng((settings.seed, step)), count)
        parts = losses(network, eyes, prepare(network, codec, batch, settings, paired=paired), schedule, settings)
        network.zero_grad(set_to_none=True)
        total(parts, settings).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        decay = min(settings.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
        step += 1
        spent = before + time.monotonic() - began

        # 4. now and then: log, save, export
        if step % 20 == 0:
            line = {"step": step, "seconds": round(spent, 1)}
            line |= {name: round(value.item(), 5) for name, value in parts.items()}
            with (run / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
        if time.monotonic() - saved > settings.seconds_per_save or spent >= budget:
            saved = time.monotonic()
            state = {"network": network.state_dict(), "average": average.state_dict()}
            state |= {"optimizers": [optimizer.state_dict() for optimizer in optimizers], "step": step, "spent": spent}
            torch.save(state, run / "state.part")
            (run / "state.part").replace(state_path)
            save(
                average,
                row,
                run / "flux2-tiny.safetensors",
                dtype=torch.bfloat16,
                source=source(photographs, codec, step),
            )


def source(photographs: list[Photograph], codec: Codec, steps: int) -> str:
    """What the weights were made from, for the file's metadata."""
    made_by = f"latpix.training.recipes.flux2_tiny, {steps} steps over flux2-lite {codec.sha256[:12]}"
    return f"{made_by}; latents of TAEF2 (MIT) and flux2-lite from photographs: {sources(photographs)}"


def main() -> None:
    """The command of the module's docstring."""
    parser = argparse.ArgumentParser(description="Train flux2-tiny.")
    parser.add_argument("--assets", type=Path, required=True, help="folder with photos/ and taef2/")
    parser.add_argument("--photos", type=Path, help="folder with the two unpacked Debian packages")
    parser.add_argument("--start", type=Path, help="weights to begin with, instead of fresh ones")
    parser.add_argument("-o", "--output", type=Path, required=True, help="run folder; an existing run goes on")
    parser.add_argument("--minutes", type=float, default=config().minutes, help="encoding at the start apart")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    settings = Config(minutes=arguments.minutes)
    train(arguments.assets, arguments.photos, arguments.output, settings, start_from=arguments.start)


if __name__ == "__main__":
    main()
