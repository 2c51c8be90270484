"""The training loop: one for all recipes, on one process or several.

A run is a folder. Given again, the same command goes on where the last whole save stood; ends are bit for bit those of
a run that nobody stopped, on the same device and number of processes.

    RUN/config.json    the settings            RUN/log.jsonl     losses, rates, gradient norms
    RUN/saves/         the last few states     RUN/samples/      pictures that the average paints
    RUN/*.safetensors  the averaged weights, when a run ends
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from latpix.errors import TrainingError, UsageError
from latpix.files.picture_files import save_picture
from latpix.training.config import RunConfig, save_config
from latpix.training.ema import average_decay, power_exponent, update_average
from latpix.training.job import Job, SampleDraws
from latpix.training.learning_rate import cool_down, warm_up
from latpix.training.log import RunLog
from latpix.training.optimizers import (
    expect_state,
    make_optimizers,
    prepare_gradients,
    state_of,
    trained,
)
from latpix.training.parallel import World, local, whole
from latpix.training.recompute import blocks_of, recompute_blocks
from latpix.training.state import Facts, Saves, Tensors, load_into, read_facts, shapes_in


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    step: int  # that it stands at
    finished: bool  # false: the minutes were over first
    weights: Path | None  # the averaged ones


def train(
    job: Job,
    settings: RunConfig,
    run: Path,
    *,
    world: World,
    minutes: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Run a training, or go on with one; told in order.

    Args:
        job: the recipe, built; every process builds its own.
        settings: the recipe's.
        run: folder of the run, made when missing.
        world: the processes that train together.
        minutes: after which a stretch ends, saved; None: only with the last step.
        say: told what people should know.

    Raises:
        TrainingError: a loss is no number (the state before that step is saved, the samples are named), or the folder
            holds another run.
        UsageError: ``recompute`` is set, and no trained network has blocks.
        OutputError: a save cannot be written.
    """
    if settings.recompute and not any(blocks_of(part.network) for part in job.parts.values()):
        raise UsageError(f"recompute=true: {job.name} trains no network with blocks to recompute; leave it out.")

    # 1. the folder
    if world.first:
        run.mkdir(parents=True, exist_ok=True)
        for unfinished in run.glob("*.part"):  # when a process was killed
            unfinished.unlink()
        save_config(settings, run)
    world.meet()
    saves = Saves(run / "saves", keep=settings.keep, group=world.group)

    # 2. networks: the average is copied before anything is bound to the originals
    average = copy.deepcopy(job.parts[job.averaged].network).requires_grad_(False)
    for network in (average, *job.frozen.values(), *(part.network for part in job.parts.values())):
        if settings.recompute and network is not average:
            recompute_blocks(network)
        world.shard(network)
    if settings.compile:
        for part in job.parts.values():
            part.network.compile()
    weights = {name: trained(part.network) for name, part in job.parts.items()}
    optimizers = {name: make_optimizers(part) for name, part in job.parts.items()}
    exponent = power_exponent(settings.ema_width)
    kept = dict(average.named_parameters())
    learned = weights[job.averaged]

    def tensors() -> Tensors:
        found = {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
        for name, part in job.parts.items():
            found |= {f"{name}.{key}": tensor for key, tensor in part.network.state_dict().items()}
            held = state_of(optimizers[name], weights[name])
            found |= {f"optimizer.{name}.{key}": tensor for key, tensor in held.items()}
        return found

    # 3. where the run stood. No generator has a state: draws are a function of seed, step and sample
    step, updates = 0, dict.fromkeys(job.parts, 0)
    if saves.all():
        last = saves.all()[-1]
        shapes = shapes_in(last)
        for name, own_optimizers in optimizers.items():
            prefix = f"optimizer.{name}."
            own = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
            expect_state(own_optimizers, weights[name], own)
        load_into(tensors(), last, world.group)
        facts = read_facts(last, world.rank)
        step, updates = facts["step"], facts["updates"]
        job.seek(facts["position"])
        say(f"going on from step {step}")
    log = RunLog(run, step, writes=world.first)
    saved_at = step if saves.all() else -1

    def save() -> None:
        nonlocal saved_at
        if saved_at != step:
            facts: Facts = {"step": step, "updates": updates, "position": position}
            saves.start(step, tensors(), facts)
            saved_at = step

    # 4. steps
    began, since = time.monotonic(), (time.monotonic(), step)
    share = settings.batch * world.teams
    finished = step >= settings.steps
    position = job.position()
    try:
        while not finished:
            turn, end = job.turn(step), cool_down(step, settings.steps, round(settings.cooldown * settings.steps))
            for name, part in job.parts.items():
                for group in (group for optimizer in optimizers[name] for group in optimizer.param_groups):
                    group["lr"] = part.learning_rate * warm_up(updates[name], part.warmup_updates) * end

            # 4a. gradients, of one batch or several
            sums: dict[str, Tensor] = {}
            for turn_of in range(settings.accumulate):
                first = turn_of * share + world.team * settings.batch
                samples = range(first, first + settings.batch)
                batch = job.draw(step, samples)
                made = job.losses(batch, step, SampleDraws(settings.seed, step, samples, world.device))
                for name, loss in {"total": made.total, **made.losses}.items():
                    sums[name] = sums.get(name, 0) + loss.detach().float() / (settings.accumulate * world.ranks)
                if not _all_finite(made.total, world):
                    save()  # the state before this step, so that it can be looked into
                    saves.wait()
                    wrong = world.gather([] if torch.isfinite(made.total).item() else job.names(batch))
                    log.write(step + 1, {"error": "the loss is no number", "samples": wrong})
                    raise TrainingError(_no_number(step + 1, wrong, made.losses, run))
                (made.total / settings.accumulate).backward()
            position = job.position()

            # 4b. weights, and their average
            norms: dict[str, float] = {}
            for name in turn:
                norms[name], finite = prepare_gradients(weights[name].values(), job.parts[name].clip, world)
                if finite:
                    for optimizer in optimizers[name]:
                        optimizer.step()
                    if name == job.averaged:
                        decay = average_decay(updates[name], exponent)
                        update_average([local(kept[key]) for key in learned], map(local, learned.values()), decay)
                    updates[name] += 1
            for part in job.parts.values():
                part.network.zero_grad(set_to_none=True)  # of those without a turn, too
            step += 1
            finished = step >= settings.steps
            over = minutes is not None and _all_agree(time.monotonic() - began >= 60 * minutes, world)

            # 4c. now and then: log, samples, save
            if step % settings.log_every == 0 or finished:
                names = list(sums)
                values = world.sum(torch.stack([sums[name] for name in names])).tolist()
                line = dict(zip(names, values, strict=True)) | {f"norm_{name}": norm for name, norm in norms.items()}
                line["seconds_per_step"] = (time.monotonic() - since[0]) / max(1, step - since[1])
                since = (time.monotonic(), step)
                log.write(step, {name: float(f"{value:.6g}") for name, value in line.items()})
                say(f"step {step} of {settings.steps}, loss {values[0]:.4g}")
            if step % settings.sample_every == 0 or finished:
                _save_sample(job, average, run / "samples" / f"step_{step:08d}.png", world)
            if step % settings.save_every == 0 or finished or over:
                save()
            if over:
                break

        # 5. the end: saved, exported
        saves.wait()
        exported = {name: whole(tensor).detach().float().cpu() for name, tensor in average.state_dict().items()}
        weights_file = job.export(exported, run, step) if world.first else None
        world.meet()
        return Outcome(step, finished, weights_file)
    finally:
        saves.close()
        log.close()


def _all_finite(loss: Tensor, world: World) -> bool:
    """Whether the loss is a number on every process."""
    return bool(world.sum((~torch.isfinite(loss.detach())).float()).item() == 0)


def _all_agree(mine: bool, world: World) -> bool:
    """What the first process says, whose clock counts."""
    return bool(world.sum(torch.tensor(float(mine and world.first), device=world.device)).item() > 0)


def _no_number(step: int, samples: list[str], losses: dict[str, Tensor], run: Path) -> str:
    wrong = [name for name, loss in losses.items() if not math.isfinite(float(loss.detach()))]
    return (
        f"the loss of step {step} is no number ({', '.join(wrong) or 'total'}). Its samples: {', '.join(samples)}. "
        f'The state before it is saved in "{run / "saves"}"; look at the samples, or lower the learning rate.'
    )


@torch.no_grad()
def _save_sample(job: Job, average: nn.Module, path: Path, world: World) -> None:
    """A grid of what the average paints now; all processes paint, as the weights may be sharded, and one writes."""
    picture = job.sample(average)
    if picture is not None and world.first:
        path.parent.mkdir(exist_ok=True)
        save_picture(picture.float().cpu().clamp(-1, 1), path, overwrite=True)
