"""A released file has 1.36 billion parameters, 2.7 GB: loading maps it, so that memory holds it once."""

import json
import subprocess
import sys

import pytest

ROW = "flux2-2k"
MAKE = """
import sys, torch
from latpix.checkpoints.convert import to_upstream
from latpix.checkpoints.registry import find
shapes = find(sys.argv[2]).shapes
state = {name: torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02) for name, shape in shapes.items()}
torch.save(to_upstream(state), sys.argv[1])
"""
CONVERT = "import sys; from latpix.checkpoints.load import convert; convert(*sys.argv[1:3], like=sys.argv[3])"
# Each in a process of its own, which ends when it has said how much memory it took at most.
CHECK = """
import json, sys
from latpix.checkpoints.load import inspect
report = inspect(sys.argv[1])
print(json.dumps([report.peak_bytes, report.fits, report.parameters]))
"""
LOAD = """
import sys, torch
from latpix.checkpoints.load import load, peak_resident_bytes
load(sys.argv[1], like=sys.argv[2], dtype=torch.bfloat16)
print(peak_resident_bytes())
"""


def python(code, *arguments):
    run = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    path = tmp_path_factory.mktemp("full") / "model_ema_bf16.pth"
    python(MAKE, path, ROW)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def ours(released):
    path = released.with_name("ours.safetensors")
    python(CONVERT, released, path, ROW)
    yield path
    path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["released", "ours"])
def test_memory_holds_a_full_size_file_once(form, request):
    path = request.getfixturevalue(form)
    size = path.stat().st_size
    assert 2.7e9 < size < 2.8e9
    peak, fits, parameters = json.loads(python(CHECK, path))
    assert ROW in fits
    assert parameters == 1_362_864_266
    assert peak <= 1.2 * size
    assert int(python(LOAD, path, ROW)) <= 1.2 * size
    print(f"{form}: check {peak / size:.3f} of the file")
