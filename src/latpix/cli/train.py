"""``latpix train``: run a recipe's training, or go on with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latpix.cli import options
from latpix.cli.screen import Screen

if TYPE_CHECKING:
    from latpix.training.forecast import Forecast

settings = options.stacked(
    click.argument("recipe"),
    click.option(
        "--set",
        "changes",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change one of the recipe's settings; repeatable.",
    ),
    click.option(
        "-o",
        "--output",
        "run",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="The run's folder; a run that is there goes on. [default: runs/RECIPE]",
    ),
    click.option(
        "--assets",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        metavar="DIR",
        help="Folder with photos/ and taef2/; without it some recipes make up their pictures.",
    ),
    click.option(
        "--minutes", type=click.FloatRange(min=0), metavar="N", help="Stop after them, saved; the command goes on."
    ),
    options.device,
    click.option(
        "--dry-run", is_flag=True, help="Say what it takes: parameters, memory per GPU, samples; train nothing."
    ),
    click.option(
        "--gpus",
        type=click.IntRange(min=1),
        metavar="N",
        help="Of --dry-run. [default: torchrun's, else as many as share a picture]",
    ),
    options.speech,
)


@click.command()
@settings
@click.pass_obj
def train(screen: Screen, /, **given: Any) -> int:
    """Train a network by RECIPE, the name of one of ours or a Python file, e.g. latpix train flux2_tiny_teacher

    Several GPUs: torchrun --nproc-per-node N -m latpix train RECIPE
    """
    return run_recipe(screen, "train", **given)


def run_recipe(
    screen: Screen,
    command: str,
    *,
    recipe: str,
    changes: Sequence[str],
    run: Path | None,
    assets: Path | None,
    minutes: float | None,
    device: str,
    dry_run: bool,
    gpus: int | None,
) -> int:
    """What both commands do."""
    from latpix.distributed import ranks_of_torchrun
    from latpix.training.config import find_recipe, with_settings

    module = find_recipe(recipe, command)
    resolved = with_settings(module.config(), changes)
    if dry_run:
        from latpix.training.forecast import forecast

        started = ranks_of_torchrun().size
        ranks = gpus or (started if started > 1 else resolved.context)
        plan = forecast(module.outline(resolved, assets), module.AVERAGED, resolved, ranks=ranks)
        if screen.json:
            screen.document(plan.document())
        else:
            _show(plan)
        return 0

    from latpix.training.loop import train as train_loop
    from latpix.training.parallel import join

    folder = run or Path("runs") / Path(recipe).stem
    world = join(device, context=resolved.context)
    try:
        job = module.build(resolved, assets, world.device)
        outcome = train_loop(
            job, resolved, folder, world=world, minutes=minutes, say=screen.note if world.first else lambda text: None
        )
    finally:
        world.close()
    if world.first:
        weights = None if outcome.weights is None else str(outcome.weights)
        if screen.json:
            screen.document(
                {"run": str(folder), "step": outcome.step, "finished": outcome.finished, "weights": weights}
            )
        elif weights is not None:
            click.echo(weights)
    return 0


def _show(plan: "Forecast") -> None:
    for name, parameters in plan.parameters.items():
        click.echo(f"{name:>14}: {parameters / 1e6:9.2f} million parameters")
    click.echo(f"{'trained':>14}: {plan.learning / 1e6:9.2f} million")
    without = ", without activations" if plan.activation_bytes is None else ""
    click.echo(f"memory of each of {plan.ranks} GPU{'s' * (plan.ranks > 1)}: {_gib(plan.total_bytes)}{without}")
    for what in ("weight", "optimizer", "gathered", "activation"):
        click.echo(f"{what:>14}: {_gib(getattr(plan, f'{what}_bytes'))}")
    if plan.operations_per_step is not None:
        click.echo(f"operations of a step, of each GPU: {plan.operations_per_step / 1e12:.1f} TFLOP")
    click.echo(f"samples of a step: {plan.samples_per_step}")
    if plan.samples_per_epoch is not None:
        steps = plan.samples_per_epoch / plan.samples_per_step
        click.echo(f"samples of an epoch: {plan.samples_per_epoch} (crops that share no pixel), {steps:.0f} steps")


def _gib(size: int | None) -> str:
    return "not foretold" if size is None else f"{size / 2**30:.2f} GiB"
