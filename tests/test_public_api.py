"""The public names: complete, sorted, documented, and instant to import."""

import inspect
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import latpix

ROOT = Path(__file__).parents[1]


def seconds(*command):
    """The best of five runs of a command: what it takes when nothing else is in the way."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True, env=environment)
        times.append(time.perf_counter() - start)
    return min(times)


def test_the_public_names_are_sorted_and_each_once():
    assert latpix.__all__ == sorted(set(latpix.__all__))


def test_every_lazy_name_is_public_and_the_other_way_round():
    assert set(latpix._HOMES) | {"__version__"} == set(latpix.__all__)


@pytest.mark.parametrize("name", latpix.__all__)
def test_every_public_name_loads_and_is_listed(name):
    assert getattr(latpix, name) is not None
    assert name in dir(latpix)


@pytest.mark.parametrize("name", sorted(set(latpix.__all__) - {"__version__"}))
def test_every_public_name_and_its_public_methods_are_documented(name):
    value = getattr(latpix, name)
    methods = [method for key, method in vars(value).items() if not key.startswith("_") and inspect.isfunction(method)]
    for thing in [value, *(methods if inspect.isclass(value) else [])]:
        assert thing.__doc__, thing
        assert not thing.__doc__.startswith(f"{name}("), f"{name}: only the docstring that a dataclass makes up"


@pytest.mark.parametrize("name", sorted(set(latpix.__all__) - {"__version__"}))
def test_the_reference_names_every_public_name(name):
    assert f"{latpix._HOMES[name]}.{name}" in (ROOT / "docs/reference/python.md").read_text(encoding="utf-8")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'decode_everything'"):
        latpix.decode_everything  # noqa: B018


def test_importing_latpix_or_asking_for_help_does_not_bring_torch_in():
    script = "import sys, latpix, latpix.cli.main; sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("command", [("-c", "import latpix"), ("-m", "latpix", "--help")], ids=["import", "help"])
def test_the_first_answer_comes_within_three_tenths_of_a_second(command):
    assert seconds(*command) < 0.3
