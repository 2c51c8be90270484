"""A job of two small networks that take turns, with data that remember where they stand; runs, forked and killed.

python tests/toy_job.py kill RUN STEP...     start the run, kill it once it has logged STEP, go on, ..., finish it
python tests/toy_job.py ranks RUN COUNT      the run on COUNT processes
"""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from latpix.training.config import RunConfig
from latpix.training.given import Step
from latpix.training.job import Part
from latpix.training.log import read_log
from latpix.training.loop import train
from latpix.training.parallel import join

WIDTH = 6


@dataclass(frozen=True, kw_only=True)
class ToyConfig(RunConfig):
    bad_step: int | None = None  # whose loss is no number


def toy_config(**changes):
    given = {"steps": 60, "batch": 2, "size": 1, "save_every": 7, "log_every": 1, "sample_every": 50, "keep": 2}
    return ToyConfig(**{**given, **changes})


class ToyJob:
    name, averaged = "toy", "student"

    def __init__(self, settings):
        torch.manual_seed(settings.seed)
        self.settings = settings
        networks = [nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, WIDTH)) for _ in range(2)]
        networks[0].register_parameter("frozen", nn.Parameter(torch.ones(3), requires_grad=False))
        shared = {"learning_rate": 1e-2, "weight_decay": 0.01, "warmup_updates": 5, "clip": 1.0}
        self.parts = {
            "student": Part(network=networks[0], muon=("0.",), **shared),
            "critic": Part(network=networks[1], **shared),
        }
        self.frozen = {"teacher": nn.Linear(WIDTH, WIDTH).requires_grad_(False)}
        self.drawn = 0  # samples so far: the data's own position

    def turn(self, step):
        return ("student",) if step % 3 == 0 else ("critic",)

    def draw(self, step, samples):
        generator = torch.Generator().manual_seed(self.drawn)
        self.drawn += 1
        return torch.randn(1, WIDTH, generator=generator), list(samples)

    def names(self, batch):
        return [f"sample {number}" for number in batch[1]]

    def losses(self, batch, step, draws):
        shared, samples = batch
        x = shared + draws.normal("x", (len(samples), WIDTH)) + draws.normal("all", ())
        student, critic = (self.parts[name].network for name in ("student", "critic"))
        wrong = (student(x) - self.frozen["teacher"](x)).square().mean()
        loss = wrong + (critic(student(x)) - x).square().mean()
        if step == self.settings.bad_step:
            loss = loss + loss.new_full((), float("nan"))
        return Step(loss, {"wrong": wrong}, {})

    def position(self):
        return {"drawn": self.drawn}

    def seek(self, position):
        self.drawn = position["drawn"]

    def sample(self, average):
        return average(torch.ones(3, 8, WIDTH)).clamp(-1, 1)

    def export(self, average, folder, steps):
        torch.save(average, folder / "weights.pt")
        return folder / "weights.pt"


def run_toy(run, settings, **options):
    world = join("cpu")
    try:
        return train(ToyJob(settings), settings, Path(run), world=world, **options)
    finally:
        world.close()


def forked(action, **environment):
    """A child process that does it; torch is imported already, so it starts at once."""
    child = os.fork()
    if child:
        return child
    os.environ.update(environment)
    try:
        action()
    except BaseException as error:
        print(type(error).__name__, error, file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def kill_and_go_on(run, steps):
    for step in steps:
        child = forked(lambda: run_toy(run, toy_config()))
        while not (lines := read_log(Path(run))) or lines[-1]["step"] < step:
            time.sleep(0.0007)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    finish([forked(lambda: run_toy(run, toy_config()))])


def on_ranks(action, count, port):
    place = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    finish([forked(action, RANK=str(rank), LOCAL_RANK=str(rank), **place) for rank in range(count)])


def finish(children):
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert not any(codes), codes


if __name__ == "__main__":
    import torch._dynamo  # which the first step of an optimizer would import, in every child anew

    torch.set_num_threads(1)
    if sys.argv[1] == "kill":
        kill_and_go_on(sys.argv[2], [int(step) for step in sys.argv[3:]])
