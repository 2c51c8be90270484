"""A teacher's training of a small denoiser, on one process or several, forked.

    python tests/painter_job.py FOLDER PORT

leaves in FOLDER what tests/training/test_parallel.py compares: gradients on one and on two processes, and runs of
one, of two, and of two that two or one go on with from the middle.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch
from small_networks import SMALL_V1_5, small_network
from toy_job import on_ranks

from latpix.training.config import RunConfig
from latpix.training.job import Part, SampleDraws
from latpix.training.loop import train
from latpix.training.painter import Painter
from latpix.training.parallel import join, whole
from latpix.training.teacher_step import TeacherSettings, teacher_step

STEPS, HALF = 20, 10
NETWORK = replace(SMALL_V1_5, depth=1, pixel_depth=1)


def painter_config(**changes):
    given = {"steps": STEPS, "batch": 2, "size": 32, "precision": "float32", "log_every": 1, "keep": 9}
    return RunConfig(**{**given, "save_every": HALF, "sample_every": 99, **changes})


class PainterJob:
    name, averaged = "painter", "teacher"

    def __init__(self, settings):
        self.network = Painter(small_network(NETWORK).requires_grad_(True).train(), "velocity", "float32")
        self.parts = {"teacher": Part(network=self.network, learning_rate=1e-3, warmup_updates=3, clip=1.0)}
        self.frozen = {}

    def turn(self, step):
        return ("teacher",)

    def draw(self, step, samples):
        draws, count = SampleDraws(77, step, samples), len(samples)
        shapes = {"pixels": (count, 3, 32, 32), "latent": (count, 4, 2, 2), "caption": (count, 5, 12)}
        return {name: draws.normal(name, shape).tanh() for name, shape in shapes.items()}

    def names(self, batch):
        return ["?"] * len(batch["pixels"])

    def losses(self, batch, step, draws):
        empty = torch.zeros(1, 5, 12)
        given = {"caption": batch["caption"], "empty_caption": empty}
        return teacher_step(self.network, batch["pixels"], batch["latent"], draws, TeacherSettings(), **given)

    def position(self):
        return {}

    def seek(self, position):
        pass

    def sample(self, average):
        return None

    def export(self, average, folder, steps):
        torch.save(average, folder / "weights.pt")
        return folder / "weights.pt"


def run(folder, context=1):
    world = join("cpu", context=context)
    settings = painter_config(batch=2 // world.teams, context=context)
    try:
        train(PainterJob(settings), settings, folder, world=world)
    finally:
        world.close()


def gradients(folder, context=1):
    """Those of two samples, whole, for each number of processes, and of those that share a picture."""
    world = join("cpu", context=context)
    job = PainterJob(painter_config())
    world.shard(job.network)
    samples = range(2) if world.teams == 1 else [world.team]
    job.losses(job.draw(0, samples), 0, SampleDraws(0, 0, samples)).total.backward()
    with torch.no_grad():
        world.average([weight.grad for weight in job.network.parameters() if weight.grad is not None])
    found = {name: whole(w.grad) for name, w in job.network.named_parameters() if w.grad is not None}
    if world.first:
        torch.save(found, folder / f"gradients_{world.ranks}_{context}.pt")
    world.close()


if __name__ == "__main__":
    import torch._dynamo
    import torch.distributed.fsdp

    torch.set_num_threads(1)
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    gradients(folder)
    on_ranks(lambda: gradients(folder), 2, port)
    for ranks, context in ((2, 2), (4, 4), (4, 2)):
        on_ranks(lambda context=context: gradients(folder, context), ranks, port)
    on_ranks(lambda: run(folder / "one"), 1, port)
    on_ranks(lambda: run(folder / "two"), 2, port)
    on_ranks(lambda: run(folder / "shared", context=2), 2, port)
    for again, count in (("two_then_two", 2), ("two_then_one", 1)):  # from the middle of the run of two
        shutil.copytree(folder / "two", folder / again)
        shutil.rmtree(folder / again / "saves/step_00000020")
        on_ranks(lambda again=again: run(folder / again), count, port)
