"""``latpix plan``: what is told, to people and to programs."""

import json
import subprocess
import sys

import pytest
from small_decoder import write_latent

from latpix.network.pixel_block import PixelBlock

SMALLEST = ("plan", "--size", "512x256", "--checkpoint", "flux2-tiny", "--device", "cpu", "--dtype", "float32")


def test_a_plan_in_json_has_the_interfaces_keys_and_pulls_no_lever_unasked(latpix):
    answer = latpix(*SMALLEST, "--json")
    assert (answer.code, answer.err) == (0, "")
    (plan,) = answer.lines
    assert {"height", "width", "peak_bytes", "seconds", "levers", "tiles"} <= set(plan)
    assert (plan["height"], plan["width"], plan["levers"], plan["tiles"]) == (256, 512, [], 1)


def test_a_latents_size_is_asked_for_in_cells(latpix):
    (plan,) = latpix("plan", "--latent-size", "12x8", "--json").lines
    assert (plan["height"], plan["width"]) == (512, 768)


def least_limit(latpix, *words):
    """The limit that the refusal of a hopeless one names."""
    answer = latpix(*words, "--memory-limit", "10MB")
    assert answer.code == 1
    return f"{answer.err.split('fits into is ')[1].split(' MiB')[0]}MiB"


def test_a_limit_pulls_levers_and_the_plan_keeps_to_it(latpix):
    words = ("plan", "--size", "4096x4096", "--device", "cpu", "--json")
    (free,) = latpix(*words).lines
    limit = least_limit(latpix, *words)
    (tight,) = latpix(*words, "--memory-limit", limit).lines
    assert tight["levers"]
    assert tight["tiles"] > 1
    assert tight["peak_bytes"] <= int(limit.removesuffix("MiB")) * 2**20 < free["peak_bytes"]


def test_people_read_memory_time_and_each_lever_with_its_cost(latpix):
    words = ("plan", "--size", "4096x4096", "--batch", 4)
    answer = latpix(*words, "--memory-limit", least_limit(latpix, *words))
    assert answer.code == 0
    assert "4 pictures of 4096x4096 by flux2-tiny" in answer.out
    assert "MiB at most, the whole process" in answer.out
    assert "lever   one picture at a time (the same pictures)" in answer.out
    assert "operations" in answer.out


def test_a_tiff_is_planned_as_it_will_be_written(latpix):
    words = ("plan", "--size", "2048x2048", "--tile", "16", "--json")
    (held,), (same,) = latpix(*words).lines, latpix(*words, "--format", "tiff").lines
    assert (held["in_files"], same["in_files"]) == (False, False)  # it fits: not through files
    refusal = latpix(*words, "--memory-limit", "10MB").err
    limit = f"{refusal.split('.tiff: ')[1].split(' MiB')[0]}MiB"
    assert latpix(*words, "--memory-limit", limit).code == 1
    (plan,) = latpix(*words, "--memory-limit", limit, "--format", "tiff").lines
    assert plan["in_files"]
    assert plan["peak_bytes"] < held["peak_bytes"]
    (large,) = latpix("plan", "--size", "8192x8192", "--format", "tiff", "--json").lines
    assert large["in_files"]  # from there on always


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--latent-size", "-3x4"), "is not a size"),
        (("--size", "0x0"), "is not a size"),
        (("--size", "-5x-5"), "is not a size"),
        (("--size", "512x512", "--scale", "-4"), "is not a factor"),
        (("--size", "512x512", "--scale", "nan"), "is not a factor"),
        (("--size", "512x512", "--scale", "0"), "is not a factor"),
        (("--size", "512x512", "--memory-limit", "inf"), "is not a memory size"),
        (("--size", "512x512", "--memory-limit", "1e400GiB"), "is not a memory size"),
        (("--size", "512x512", "--batch", "0"), "--batch"),
    ],
)
def test_numbers_that_are_none_are_wrong_usage(latpix, words, told):
    answer = latpix("plan", *words)
    assert (answer.code, answer.out) == (2, "")
    assert told in answer.err
    assert "Traceback" not in answer.err


def test_a_checkpoint_that_reads_no_latent_is_refused(refused):
    assert "paints from text alone" in refused("plan", "--size", "512x512", "--checkpoint", "pixeldit-2kto4k")


def test_what_fits_nowhere_is_refused_with_the_smallest_budget_that_would_do(latpix):
    words = ("plan", "--size", "512x512")
    assert latpix(*words, "--memory-limit", least_limit(latpix, *words)).code == 0


@pytest.mark.parametrize("words", [(), ("--size", "512x512", "--latent-size", "8x8")])
def test_one_size_is_asked_for(latpix, words):
    answer = latpix("plan", *words)
    assert answer.code == 2
    assert "--latent-size" in answer.err


RUN = """
import sys
from latpix.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


def alone(*words):
    """A command in a process of its own."""
    return subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_the_limit_that_a_refusal_names_fits_in_the_next_process(tmp_path, monkeypatch):
    """The one that a plan names, and the one that a decode names, which holds weights and a latent."""
    monkeypatch.chdir(tmp_path)
    write_latent(tmp_path / "a.safetensors", height=8, width=8)
    how = ("--device", "cpu", "--dtype", "float32")
    decode = ("decode", "a.safetensors", "-o", "a.png", "--steps", "1", "--overwrite", *how)
    for asked in (("plan", "--size", "512x512", *how), decode):
        refusal = alone(*asked, "--memory-limit", "10MB").stderr
        limit = f"{refusal.split('fits into is ')[1].split(' MiB')[0]}MiB"
        for again in (("plan", "--size", "512x512", *how), decode):
            done = alone(*again, "--memory-limit", limit)
            assert done.returncode == 0, (asked, again, done.stderr)


DECODE = """
import sys
from latpix.benchmark.memory import status
from latpix.cli.main import run
code = run(sys.argv[1:])
print(code, status("VmHWM"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_the_commands_whole_process_keeps_to_its_limit(latpix, tmp_path):
    """Imports, weights, decode and the file of the picture, in a process that starts from nothing."""
    write_latent(tmp_path / "a.safetensors", height=16, width=16)
    plan = ("plan", "--size", "1024x1024", "--device", "cpu", "--dtype", "float32", "--json")
    (free,) = latpix(*plan).lines
    limit = free["peak_bytes"] - 40 * 2**20
    how = ("--device", "cpu", "--dtype", "float32", "--steps", "1", "--memory-limit", str(limit), "--json")
    command = [sys.executable, "-c", DECODE, "decode", "a.safetensors", "-o", "a.png", *how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    *rows, last = done.stdout.splitlines()
    code, peak = (int(word) for word in last.split())
    assert (code, json.loads(rows[0])["width"]) == (0, 1024)
    assert 0.5 * limit < peak <= limit


def test_memory_that_runs_out_is_a_note_and_the_picture_is_made(latpix, tmp_path, monkeypatch):
    write_latent(tmp_path / "a.safetensors", height=8, width=8)
    usual, calls = PixelBlock.forward, []

    def forward(self, *given):
        calls.append(given)
        if len(calls) == 1:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return usual(self, *given)

    monkeypatch.setattr(PixelBlock, "forward", forward)
    answer = latpix("decode", "a.safetensors", "-o", "a.png", "--steps", 1, "--device", "cpu", "--dtype", "float32")
    assert (answer.code, answer.out) == (0, "a.png\n"), answer.err
    assert answer.err.startswith("the device cpu ran out of memory; going on with pieces of")
    assert "Warning" not in answer.err
