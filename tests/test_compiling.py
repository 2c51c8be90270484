"""Compiled blocks give the same numbers, and new sizes stop costing compilations."""

import compile_job
import pytest
import torch
from in_a_process import run_script

from latpix.compiling import compile_blocks
from latpix.errors import OptionError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    run_script(compile_job, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "captioned"])
def test_compiled_blocks_give_the_same_picture_at_every_size(folder, name):
    found = torch.load(folder / f"{name}.pt", weights_only=True)
    for plain, compiled in found["pixels"].values():
        assert plain.std() > 0.1
        torch.testing.assert_close(compiled, plain, rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "captioned"])
def test_from_the_third_size_on_nothing_is_compiled_any_more(folder, name):
    graphs = torch.load(folder / f"{name}.pt", weights_only=True)["graphs"]
    assert graphs[0] > 0
    assert graphs[-1] == graphs[2]


def test_without_a_compiler_the_option_is_refused(monkeypatch):
    def broken(_function):
        raise RuntimeError("no compiler found\nat all")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(OptionError, match=r"for cpu here \(no compiler found\)\. Leave out --compile"):
        compile_blocks(torch.nn.Identity(), torch.device("cpu"))
