"""The README keeps its word: its Python examples run, its commands and links exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_pipeline

from latpix.backbones.registry import BACKBONES
from latpix.cli.main import run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
BLOCKS = "".join(re.findall(r"```\n(.*?)```", README, flags=re.DOTALL))
GENERATE = re.findall(r"`latpix (generate .*?)` \|", README)
COMMANDS = sorted(set(re.findall(r"^latpix ([a-z]+(?: [a-z]+\b(?!\.))?)", BLOCKS, flags=re.MULTILINE)))


def test_the_readme_has_python_examples_and_commands():
    assert EXAMPLES
    assert COMMANDS


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_python_examples_run(example, tmp_path, monkeypatch):
    from latpix import Codec, read_picture, save_latent, save_picture
    from latpix.files.latent_files import Latent

    monkeypatch.chdir(tmp_path)
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    save_picture(pixels, "photo.png")
    latent = Latent(tensor=Codec.load().encode(read_picture("photo.png")), space="flux2")
    save_latent(latent, "cat.safetensors")
    pipe = tiny_pipeline("flux2") if "pipe" in example else None
    exec(compile(example.replace("512", "128"), "README.md", "exec"), {"pipe": pipe})  # smaller, to be quick


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_answers_for_help(command):
    words = command.split()
    words = words if words[0] == "checkpoints" else words[:1]
    asked = subprocess.run([sys.executable, "-m", "latpix", *words, "--help"], capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    assert f"Usage: latpix {' '.join(words)}" in asked.stdout


@pytest.mark.parametrize(
    "link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r'src="([^":]+)"', README)))
)
def test_every_file_that_the_readme_links_to_is_there(link):
    assert (ROOT / link).exists()


def test_the_targets_that_the_readme_names_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`make (\w+)`", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("command", GENERATE, ids=lambda command: command.split()[2])
def test_every_backbones_command_would_run(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run([*shlex.split(command), "--dry-run"]) == 0
    assert "0000_a-cat" in capsys.readouterr().out


def test_the_table_has_a_row_for_every_backbone():
    named = {shlex.split(command)[2] for command in GENERATE}
    assert named == {row.name for row in BACKBONES.values() if row.generator is not None}
