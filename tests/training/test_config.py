"""Settings: each key=value lands in its field or is refused in words; recipes are found by name or file."""

from dataclasses import dataclass
from typing import Literal

import pytest

from latpix.errors import TrainingError, UsageError
from latpix.training.config import RunConfig, find_recipe, save_config, with_settings


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    rate: float = 1e-3
    note: str = ""
    clip: float | None = 0.1
    times: tuple[float, ...] = (0.9, 0.0)
    way: Literal["renoise", "ode"] = "renoise"


PLAIN = Config(steps=10, batch=1, size=64)


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("steps=50", "steps", 50),
        ("rate=2e-4", "rate", 2e-4),
        ("recompute=yes", "recompute", True),
        ("recompute=False", "recompute", False),
        ("note=a=b", "note", "a=b"),
        ("clip=none", "clip", None),
        ("clip=1", "clip", 1.0),
        ("times=0.5,0", "times", (0.5, 0.0)),
        ("way=ode", "way", "ode"),
        ("precision=float32", "precision", "float32"),
    ],
)
def test_a_setting_becomes_a_value_of_its_fields_type(setting, key, value):
    changed = getattr(with_settings(PLAIN, [setting]), key)
    assert (changed, type(changed)) == (value, type(value))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("steps", "write it like steps=50"),
        ("stepz=5", 'no setting "stepz". Did you mean steps'),
        ("steps=5.5", "expected a whole number, e.g. steps=10"),
        ("rate=fast", "expected a number, e.g. rate=0.001"),
        ("recompute=perhaps", "expected true or false"),
        ("clip=x", "expected a number or none"),
        ("times=a,b", "expected a number, or several with commas between them, e.g. times=0.9,0.0"),
        ("way=straight", "expected one of renoise, ode"),
        ("batch=0", "batch=0: expected 1 or more"),
        ("cooldown=15000", "cooldown=15000.0: expected a share of the run, from 0 to 1; lower it"),
        ("cooldown=-0.1", "from 0 to 1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_with_what_would(setting, message):
    with pytest.raises(UsageError) as refused:
        with_settings(PLAIN, [setting])
    assert message in str(refused.value)


def test_a_run_goes_on_with_other_steps_but_not_with_another_rate(tmp_path):
    save_config(PLAIN, tmp_path)
    save_config(with_settings(PLAIN, ["steps=99", "keep=1"]), tmp_path)
    with pytest.raises(TrainingError, match=r"rate=0\.001, not 0\.5"):
        save_config(with_settings(PLAIN, ["rate=0.5"]), tmp_path)


def test_a_recipe_of_ones_own_is_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from latpix.training.config import RunConfig\n"
        'COMMAND, AVERAGED = "train", "a"\n'
        "outline = build = print\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Mine(RunConfig):\n"
        "    width: int = 3\n"
        "def config():\n"
        "    return Mine(steps=1, batch=1, size=64)\n"
    )
    assert with_settings(find_recipe(str(file), "train").config(), ["width=7"]).width == 7
    with pytest.raises(UsageError, match="no such Python file"):
        find_recipe(str(tmp_path / "none.py"), "train")
    file.write_text('COMMAND = "train"\n')
    with pytest.raises(UsageError, match="has no AVERAGED, config, outline, build, so the loop cannot run it"):
        find_recipe(str(file), "train")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flux2_tiny_tracher", "Did you mean flux2_tiny_teacher"),
        ("flux2_tiny_distill", "run by `latpix distill flux2_tiny_distill`"),
    ],
)
def test_a_recipe_that_the_command_cannot_run_is_refused_with_the_way_to_go(name, message):
    with pytest.raises(UsageError, match=message):
        find_recipe(name, "train")
