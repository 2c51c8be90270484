"""A step of each of flux2-tiny's recipes on two processes over gloo, forked.

    python tests/tiny_job.py FOLDER PORT

leaves in FOLDER the checkpoints that tests/training/test_tiny_ranks.py looks at, and the base decoder of the teacher's.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from toy_job import on_ranks

from latpix.backbones.codec import Codec
from latpix.efficientnet import EfficientNetLite
from latpix.network.model import Denoiser
from latpix.training.loop import train
from latpix.training.parallel import join
from latpix.training.recipes import flux2_tiny_base, flux2_tiny_distill, flux2_tiny_teacher
from latpix.training.tiny_pairs import TinyPairs

SMALL = {"steps": 1, "batch": 1, "size": 64, "precision": "float32", "compile": False}


def run(make_job, settings, folder):
    world = join("cpu")
    try:
        train(make_job(settings), settings, folder, world=world)
    finally:
        world.close()


if __name__ == "__main__":
    import torch._dynamo
    import torch.distributed.fsdp

    torch.set_num_threads(1)
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    codec = Codec.load("flux2-lite", device="cpu", dtype="float32")
    data, whole = (TinyPairs(None, codec, size=64, seed=0, square=square) for square in (2, 1))
    eyes = EfficientNetLite.load("lite1")
    torch.manual_seed(0)
    network = Denoiser(flux2_tiny_teacher.ROW.network)
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.save(network.base_decoder.state_dict(), folder / "base.pt")

    def fresh():
        denoiser = Denoiser(flux2_tiny_teacher.ROW.network)
        denoiser.load_state_dict(weights)
        return denoiser

    jobs = {
        flux2_tiny_base: lambda settings: flux2_tiny_base.BaseJob(settings, whole, fresh(), eyes),
        flux2_tiny_teacher: lambda settings: flux2_tiny_teacher.TeacherJob(settings, data, fresh()),
        flux2_tiny_distill: lambda settings: flux2_tiny_distill.DistillJob(settings, data, weights),
    }
    for recipe, make_job in jobs.items():
        changes = SMALL if recipe is flux2_tiny_distill else {**SMALL, "optimizer": "adamw"}
        settings, its_run = replace(recipe.config(), **changes), folder / recipe.AVERAGED
        on_ranks(
            lambda make_job=make_job, settings=settings, its_run=its_run: run(make_job, settings, its_run), 2, port
        )
