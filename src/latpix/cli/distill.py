"""``latpix distill``: make a student of few steps from a teacher of many."""

from typing import Any

import click

from latpix.cli.screen import Screen
from latpix.cli.train import run_recipe, settings


@click.command()
@settings
@click.pass_obj
def distill(screen: Screen, /, **given: Any) -> int:
    """Distill a teacher by RECIPE, the name of one of ours or a Python file, e.g. latpix distill flux2_tiny_distill

    Its setting `teacher` names the teacher's weights.
    Several GPUs: torchrun --nproc-per-node N -m latpix distill RECIPE
    """
    return run_recipe(screen, "distill", **given)
