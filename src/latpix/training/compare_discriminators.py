"""Pooled or patch logits: which discriminator learns faster to tell base pictures from photographs?

    python -m latpix.training.compare_discriminators --assets DIR --teacher FILE [--updates 200]

Both heads start from the same weights, see the same features of the teacher for the same noised pictures (critics'
times as in `latpix distill flux2_tiny_distill`), and learn by the same loss and rate. Told now and then: on fresh
draws of the same photographs, so of other crops and noise but of no other pictures, how often the photograph's mean
logit is above the base picture's of the same crop, noised alike. One half is guessing.
"""

import argparse
import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from latpix.backbones.codec import Codec
from latpix.checkpoints.load import load
from latpix.training.discriminator import Discriminator
from latpix.training.dmd import perturbation
from latpix.training.dmd_losses import gan_discriminator_loss, r1_loss
from latpix.training.flow_matching import mix
from latpix.training.given import Given
from latpix.training.job import SampleDraws
from latpix.training.painter import Painter
from latpix.training.recipes.flux2_tiny_distill import TAP, config, step_settings
from latpix.training.tiny_export import take_base
from latpix.training.tiny_pairs import Eyes, TinyPairs

Seen = list[Float[Tensor, "b d *places"]]
HELD_OUT = 2**30  # steps from here on are for measuring: other draws of the same pictures
MEASURED = 12  # batches


class Features:
    """What the teacher sees in photographs and in the base pictures of their latents, noised alike."""

    def __init__(self, data: TinyPairs, teacher: Path, batch: int) -> None:
        network = load(teacher).network
        self.base = take_base(network)
        self.painter = Painter(network, "x0", "bfloat16")
        self.data, self.batch = data, batch

    @torch.no_grad()
    def __call__(self, step: int) -> tuple[Seen, Seen, Seen]:
        """Of photographs, of base pictures, and of the photographs with a little noise more."""
        settings, samples = step_settings(config()), range(self.batch)
        pairs = self.data.draw(step, samples).pairs
        draws = SampleDraws(config().seed, step, samples)
        eyes = Eyes(self.base, pairs, "bfloat16")
        given = Given(pairs.latent, torch.zeros(self.batch))
        _, fake = eyes.look(given.latent, given.latent_sigma)
        t, noise = perturbation(fake, draws, settings)
        real_t = mix(pairs.pixels, noise, t)
        near_t = real_t + settings.r1_noise * draws.normal("r1_noise", tuple(fake.shape))
        look = eyes.features(self.painter, (TAP,))
        real, fakes, near = (given.features(look, x_t, t) for x_t in (real_t, mix(fake, noise, t), near_t))
        return real, fakes, near


def make_heads(width: int) -> dict[str, Discriminator]:
    """Both, with the same weights, for features of ``width`` channels."""
    torch.manual_seed(config().seed)
    pooled = Discriminator([width])
    heads = {"pooled": pooled, "patch": copy.deepcopy(pooled)}
    heads["patch"].patch_logits = True
    return heads


def compare(
    features: Features, heads: dict[str, Discriminator], updates: int, every: int
) -> Iterator[tuple[int, dict[str, float]]]:
    """Train both heads; yields the number of updates so far and each head's share of right answers."""
    settings = config()
    optimizers = {
        name: torch.optim.AdamW(head.parameters(), lr=settings.discriminator_rate) for name, head in heads.items()
    }
    held_out = [features(HELD_OUT + number) for number in range(MEASURED)]
    for step in range(updates + 1):
        if step % every == 0:
            yield step, {name: share_right(head, held_out) for name, head in heads.items()}
        real, fake, near = features(step)
        for name, head in heads.items():
            true = head(real)
            loss = gan_discriminator_loss(head(fake), true) + settings.r1_weight * r1_loss(true, head(near))
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()


@torch.no_grad()
def share_right(head: Callable[[Seen], Tensor], held_out: list[tuple[Seen, Seen, Seen]]) -> float:
    """How often a photograph is taken for truer than its base picture."""
    right = [(head(real).mean(1) > head(fake).mean(1)).float() for real, fake, _ in held_out]
    return torch.cat(right).mean().item()


def main() -> None:
    """The command of the module's docstring."""
    parser = argparse.ArgumentParser(description="Compare pooled and patch logits.")
    parser.add_argument("--assets", type=Path, help="as of latpix train; made-up pictures without")
    parser.add_argument("--teacher", type=Path, required=True, help="checkpoint of flux2_tiny_teacher")
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    arguments = parser.parse_args()
    data = TinyPairs(arguments.assets, Codec.load("flux2-lite"), size=arguments.size, seed=config().seed)
    features = Features(data, arguments.teacher, arguments.batch)
    heads = make_heads(features.painter.network.config.width)
    for step, shares in compare(features, heads, arguments.updates, max(1, arguments.updates // 8)):
        print(step, " ".join(f"{name} {share:.3f}" for name, share in shares.items()), flush=True)


if __name__ == "__main__":
    main()
