"""The recipes of the official networks at a size that runs anywhere: small networks, shards, captions in the cache.

python tests/small_official.py FOLDER PORT    gradients of the recipes' steps on 1, 2 and 2 sharing processes
"""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_networks import small_network
from small_shards import pack_small, write_pictures

from latpix.captions.cache import store
from latpix.captions.prompt_prefix import NEGATIVE_PROMPT
from latpix.checkpoints.load import save
from latpix.checkpoints.registry import find
from latpix.training.job import SampleDraws
from latpix.training.recipes import distill_flux2, pixeldit_2kto4k, teacher_flux2

RECIPES = {"prior": pixeldit_2kto4k, "teacher": teacher_flux2, "student": distill_flux2}
ENCODER = "nobody/encoder"  # whose states are in the cache, and random
SHAPES = [(128, 64), (64, 128), (128, 64), (64, 128), (128, 64)]
SETTINGS = {"shards": "shards", "caption_model": ENCODER, "context": 1, "size": 96, "accumulate": 1, "batch": 2}
RUN = {"steps": 3, "log_every": 1, "save_every": 99, "sample_every": 99, "precision": "float32"}
LEARNING = {"learning_rate": 1e-3, "warmup_updates": 0}


def small(row):
    """A row of the same form with a network of a few thousand weights, sampled in two steps."""
    shape = {"width": 16, "heads": 2, "depth": 2, "pixel_depth": 1, "caption_width": 12, "caption_length": 6}
    pixels = {"pixel_width": 4, "pixel_attention_width": 16, "pixel_heads": 2}
    network = replace(row.network, **shape, **pixels, latent_width=8, latent_depth=1)
    return replace(row, network=network, sampling=replace(row.sampling, steps=2))


def shrink(patch):
    """All three recipes with small networks."""
    for recipe in RECIPES.values():
        patch.setattr(recipe, "ROW", small(recipe.ROW))


def prepare(folder, *, seed=0):
    """Shards, states of all captions, and checkpoints to begin with, in the folder (and the cache)."""
    pack_small(write_pictures(folder / "pictures", SHAPES, seed=seed), folder / "shards")
    generator = torch.Generator().manual_seed(1)
    for text in ("", NEGATIVE_PROMPT, *(f"picture {number}" for number in range(0, len(SHAPES), 2))):
        store(ENCODER, text, torch.randn(300, 12, generator=generator).bfloat16())
    for name in ("pixeldit-2kto4k", "flux2-2kto4k-v1.5-teacher"):
        row = small(find(name))
        save(small_network(row.network), row, folder / f"{name}.safetensors")


def settings_of(part, folder, **changes):
    """Those of a recipe for a few steps."""
    start = {
        "prior": {"start": f"{folder}/pixeldit-2kto4k.safetensors"},
        "teacher": {"start": f"{folder}/pixeldit-2kto4k.safetensors", "vae": "flux2-lite"},
        "student": {"teacher": f"{folder}/flux2-2kto4k-v1.5-teacher.safetensors", "vae": "flux2-lite"},
    }[part]
    given = {**SETTINGS, **RUN, **LEARNING, **start, "shards": str(folder / "shards"), **changes}
    return replace(RECIPES[part].config(), **given)


def job_of(part, settings):
    return RECIPES[part].build(settings, None, torch.device("cpu"))


def gradients(folder, context=1):
    """Those of a teacher's, a student's and a fake score's step for two samples of one picture's shape, whole."""
    from latpix.training.parallel import join, whole

    world = join("cpu", context=context)
    share = 2 // world.teams
    critics = ("fake_score", "discriminator")
    for part, trained, step in (("teacher", ("teacher",), 0), ("student", ("student",), 6), ("student", critics, 1)):
        settings = settings_of(part, folder, context=context, batch=share)
        if part == "teacher":
            settings = replace(settings, trained="all")
        job = job_of(part, settings)
        for network in (*(one.network for one in job.parts.values()), *job.frozen.values()):
            world.shard(network)
        samples = range(world.team * share, (world.team + 1) * share)
        job.losses(job.draw(step, samples), step, SampleDraws(0, step, samples)).total.backward()
        for one in trained:
            network = job.parts[one].network
            with torch.no_grad():
                world.average([weight.grad for weight in network.parameters() if weight.grad is not None])
            found = {name: whole(w.grad) for name, w in network.named_parameters() if w.grad is not None}
            if world.first:
                torch.save(found, folder / f"{one}_{world.ranks}_{context}.pt")
    world.close()


if __name__ == "__main__":
    import torch._dynamo
    import torch.distributed.fsdp
    from toy_job import on_ranks

    torch.set_num_threads(1)
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    shrink(pytest.MonkeyPatch())
    gradients(folder)
    on_ranks(lambda: gradients(folder), 2, port)
    on_ranks(lambda: gradients(folder, 2), 2, port)
