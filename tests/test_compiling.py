"""Compiled blocks give the same numbers, and new sizes stop costing compilations."""

import compile_job
import pytest
import torch
from in_a_process import run_script
from small_networks import SMALL_V1_5, small_network

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


@pytest.mark.parametrize(("text", "said"), [("no compiler found\nat all", "no compiler found"), ("", "RuntimeError")])
def test_without_a_compiler_the_option_is_refused(monkeypatch, text, said):
    def broken(_function):
        raise RuntimeError(text)

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(OptionError, match=rf"for cpu here \({said}\)\. Leave out --compile"):
        compile_blocks(torch.nn.Identity(), torch.device("cpu"))


def test_what_is_compiled_is_there(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)
    compile_blocks(small_network(SMALL_V1_5), torch.device("cpu"))
