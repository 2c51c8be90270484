"""What every run is told, how ``--set key=value`` changes it, and where recipes are found.

A recipe is a module: ``COMMAND`` says which command runs it ("train" or "distill"), ``AVERAGED`` which network's
average it keeps, ``config()`` gives its complete settings, ``outline(settings, assets)`` what it will train
(training/job.py), and ``build(settings, assets, device)`` the job itself. Its settings extend ``RunConfig``, so that
all of a run lies flat in one file and each field has one name on the command line.
"""

import difflib
import importlib
import importlib.util
import json
import pkgutil
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from latpix.errors import TrainingError, UsageError
from latpix.files.atomic import writing

RECIPES = "latpix.training.recipes"
WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The settings that the loop itself reads."""

    steps: int
    batch: int  # samples of one process that are computed at once
    size: int  # side of a crop, in output pixels
    accumulate: int = 1  # how many such batches make a step
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "bfloat16"  # of the networks; weights and losses are float32
    recompute: bool = False  # activations of blocks, in the backward pass, instead of keeping them
    compile: bool = False  # the trained networks, with torch.compile; it wants a C++ compiler on a CPU
    context: int = 1  # processes that share each picture, for those that one cannot hold
    cooldown: float = 0.0  # share of the run at its end over which learning rates fall to 0
    ema_width: float = 0.1  # of the average's profile, as a share of the run
    save_every: int = 500  # steps
    keep: int = 3  # saves
    log_every: int = 10
    sample_every: int = 500

    def filled(self, given: Collection[str]) -> Self:
        """These, where settings that ``given`` does not name follow from those that it names; a recipe says how."""
        return self


# A run that goes on may be given others: they say how long it is, what it leaves behind, and how the samples of a step
# are shared out, which has to change with the number of processes.
MAY_CHANGE = (
    "steps",
    "cooldown",
    "save_every",
    "keep",
    "log_every",
    "sample_every",
    "batch",
    "accumulate",
    "recompute",
    "compile",
    "context",
)

Config = TypeVar("Config", bound=RunConfig)


def with_settings(config: Config, settings: Sequence[str]) -> Config:
    """The configuration with each ``key=value`` put in its place, checked against the field's type.

    A recipe may let what is left out follow from what is given (``RunConfig.filled``).

    Raises:
        UsageError: no such key, a value that is not of its type, or one that makes no sense.
    """
    types = get_type_hints(type(config))
    given: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f'"{setting}" is no setting; write it like steps=50.')
        if key not in types:
            near = difflib.get_close_matches(key, types, n=3) or sorted(types)
            raise UsageError(f'the recipe has no setting "{key}". Did you mean {", ".join(near)}?')
        try:
            given[key] = parse(text, types[key])
        except ValueError:
            raise UsageError(
                f"{key}={text}: expected {describe(types[key])}, e.g. {key}={_shown(config, key)}."
            ) from None
    changed = replace(config, **given).filled(given)
    check(changed)
    return changed


def check(config: RunConfig) -> None:
    """Raise UsageError where a number that counts something is below 1, or a share is none."""
    for key in ("steps", "batch", "size", "accumulate", "context", "save_every", "keep", "log_every", "sample_every"):
        if getattr(config, key) < 1:
            raise UsageError(f"{key}={getattr(config, key)}: expected 1 or more.")
    if not 0 <= config.cooldown <= 1:
        raise UsageError(f"cooldown={config.cooldown}: expected a share of the run, from 0 to 1; lower it.")


def parse(text: str, kind: Any) -> Any:
    """A value of type ``kind`` from its text.

    Raises:
        ValueError: the text is not of that type.
    """
    if get_origin(kind) is Literal:
        for choice in get_args(kind):
            if str(choice) == text:
                return choice
        raise ValueError(text)
    if get_origin(kind) in (Union, UnionType):
        if NoneType in get_args(kind) and text.lower() == "none":
            return None
        (inner,) = (part for part in get_args(kind) if part is not NoneType)
        return parse(text, inner)
    if get_origin(kind) is tuple:
        return tuple(parse(part, get_args(kind)[0]) for part in text.split(",") if part)
    if kind is bool:
        if text.lower() not in WORDS:
            raise ValueError(text)
        return WORDS[text.lower()]
    return kind(text)


def describe(kind: Any) -> str:
    """A type in words."""
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join("none" if part is NoneType else describe(part) for part in get_args(kind))
    if get_origin(kind) is tuple:
        return f"{describe(get_args(kind)[0])}, or several with commas between them"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]


def _shown(config: RunConfig, key: str) -> str:
    value = getattr(config, key)
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()


def save_config(config: RunConfig, run: Path) -> None:
    """Write the resolved settings into a run's folder, or check that they are those of the run that is there.

    Raises:
        TrainingError: the folder holds a run with other settings; they are named.
    """
    path, ours = run / "config.json", json.loads(json.dumps(asdict(config)))
    if path.is_file():
        there = json.loads(path.read_text())
        keys = sorted((set(ours) | set(there)) - set(MAY_CHANGE))
        different = [f"{k}={there.get(k)}, not {ours.get(k)}" for k in keys if there.get(k) != ours.get(k)]
        if different:
            raise TrainingError(
                f'"{run}" holds a run with {"; ".join(different)}. Give the same settings to go on with it, '
                "or another folder to begin anew."
            )
    with writing(path, overwrite=True) as part:
        part.write_text(json.dumps(ours, indent=2) + "\n")


def find_recipe(name: str, command: str) -> ModuleType:
    """The module of a recipe: a name, or a Python file of one's own.

    Raises:
        UsageError: there is none of that name, the file is none, or another command runs it.
    """
    module = _load_file(Path(name)) if name.endswith(".py") else _load_name(name)
    missing = [part for part in ("COMMAND", "AVERAGED", "config", "outline", "build") if not hasattr(module, part)]
    if missing:
        raise UsageError(f'"{name}" has no {", ".join(missing)}, so the loop cannot run it.')
    if command != module.COMMAND:
        raise UsageError(f'"{name}" is run by `latpix {module.COMMAND} {name}`, not by `latpix {command}`.')
    return module


def _load_name(name: str) -> ModuleType:
    names = [found.name for found in pkgutil.iter_modules(importlib.import_module(RECIPES).__path__)]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3) or names
        raise UsageError(f'there is no recipe "{name}". Did you mean {", ".join(near)}?')
    return importlib.import_module(f"{RECIPES}.{name}")


def _load_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"latpix_recipe_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError(f'"{path}" is no recipe: there is no such Python file.')
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where types written as text are looked up
    spec.loader.exec_module(module)
    return module
