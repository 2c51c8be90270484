import json
from pathlib import Path
from typing import NamedTuple

import pytest
from small_decoder import write_checkpoint

from latpix.cli.main import run


class Answer(NamedTuple):
    """What a command line gave."""

    code: int
    out: str
    err: str

    @property
    def lines(self):
        """Its JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A small checkpoint's file."""
    return str(write_checkpoint(tmp_path_factory.mktemp("weights") / "small.safetensors"))


@pytest.fixture
def latpix(capsys, monkeypatch, tmp_path):
    """Run a command line in a folder of its own, by the one function that knows exit codes."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)

    def command(*words):
        capsys.readouterr()
        code = run([str(word) for word in words])
        return Answer(code, *capsys.readouterr())

    return command


@pytest.fixture
def refused(latpix):
    """Run a command that must fail in one message, without a traceback, and leave nothing behind."""

    def command(*words, code=1, out="out"):
        answer = latpix(*words)
        assert answer.code == code, answer
        assert "Traceback" not in answer.err
        assert answer.out == ""
        assert not Path(out).exists()
        assert not list(Path().glob("**/*.part"))
        return answer.err

    return command
