"""Recompute RAE goldens: latents through a tiny decoder with official names, and the generator's time points.

Letters: b batch, c channels, g cells a side, n tokens, p values of a patch.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch

from latpix.backbones.rae import VISIONS, as_tokens, colours, rae_times
from latpix.backbones.rae_decoder import EPS, HEADS, RaeDecoder
from latpix.doctor.family import Case, Golden, Tensors, close, skip
from latpix.latents.normalize import Statistics, denormalize
from latpix.latents.spaces import LatentSpace

DECODER = 1e-4  # from the goldens' README; absolute and relative
WEIGHTS = "weights."


def run(golden: Golden) -> Iterator[Case]:
    """Per space the decoder's values and its pixels; the time points beside them."""
    for group, space, tensors in golden.spaces():
        if group not in VISIONS:
            skip(golden.folder / f"{golden.name}: {group}", "a vision encoder that is not known here")
            continue
        yield group, max(_decoded(golden, group, space, tensors))
        if "t_schedule" in tensors:
            times = rae_times(golden.description["t_schedule_steps"])
            expected = tensors["t_schedule"]
            yield f"{group}.t_schedule", close(torch.tensor(times).to(expected), expected, DECODER)


def _decoded(golden: Golden, group: str, space: LatentSpace, tensors: Tensors) -> Iterator[float]:
    """A latent's way to pixels, from the numbers and weights that the golden brings."""
    latent, about = tensors["latent"], golden.description.get("meta", {}).get(group, {})
    tiny = replace(space, channels=latent.shape[1], fixed_size=latent.shape[2])  # fewer and smaller than the real ones
    given = Statistics(tensors["stat_mean"], tensors["stat_var"]) if "stat_mean" in tensors else None
    weights = {name.removeprefix(WEIGHTS): tensor for name, tensor in tensors.items() if name.startswith(WEIGHTS)}
    decoder = RaeDecoder.of(
        weights, heads=about.get("heads", HEADS), eps=about.get("layer_norm_eps", EPS), name=f"{golden.name}: {group}"
    )
    ours = VISIONS[group]
    mean, std = (golden.description.get(name, {}).get(group) for name in ("image_mean", "image_std"))
    vision = replace(ours, mean=tuple(mean or ours.mean), std=tuple(std or ours.std))
    logits = decoder(as_tokens(denormalize(latent, tiny, given)))
    yield close(logits, tensors["logits"], DECODER)
    yield close(colours(decoder.picture(logits), vision), tensors["pixels"], DECODER)
