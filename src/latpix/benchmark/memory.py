"""Peak memory of one decode with random weights, measured in a process that does nothing else.

    python -m latpix.benchmark.memory '{"network": "stock", "height": 16, "width": 16}'

prints what the plan foretells and what the process then took, in bytes; under torchrun each of the processes that make
the picture together does. On Linux only: it reads /proc.
"""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from latpix.checkpoints.load import LoadedCheckpoint
from latpix.checkpoints.quantize import layers_of
from latpix.checkpoints.registry import Checkpoint, find
from latpix.decoder import Decoder
from latpix.devices import resident_bytes
from latpix.distributed import ranks_of_torchrun
from latpix.network.model import build
from latpix.network.precision import QuantizedLinear, resting_dtypes
from latpix.team import Team, meet


@dataclass(frozen=True, kw_only=True)
class Case:
    """A decode to measure."""

    # stock: full width, 2 patch blocks and 1 pixel block; int8: that quantized; v1.5: the same; tiny: flux2-tiny's
    network: str = "stock"
    height: int  # of the latent, in cells
    width: int
    batch: int = 1
    steps: int = 2
    dtype: str = "bfloat16"
    memory_limit: int | None = None
    over_held: int | None = None  # the limit is so many bytes over what the process holds before
    scale: float | None = None
    in_files: bool = False  # straight into a TIFF


@dataclass(frozen=True, kw_only=True)
class Measured:
    """In bytes: the whole process."""

    held: int  # before the decode, weights included
    foretold: int
    peak: int
    levers: tuple[str, ...]


def row_of(network: str) -> Checkpoint:
    """The registry row that a case is like."""
    if network == "tiny":
        return find("flux2-tiny")
    row = find("flux2-2kto4k-v1.5" if network == "v1.5" else "flux2-2k")
    return replace(row, network=replace(row.network, depth=2, pixel_depth=1))


def random_decoder(case: Case) -> Decoder:
    """Random weights straight in the type that they rest in."""
    row, dtype = row_of(case.network), getattr(torch, case.dtype)
    network = build(row.network, device="meta")
    for layer in layers_of(row) if case.network == "int8" else ():
        linear = network.get_submodule(layer)
        assert isinstance(linear, nn.Linear)
        codes, scale = linear.weight.to(torch.int8), torch.empty(linear.out_features, device="meta")
        network.set_submodule(layer, QuantizedLinear(codes, scale, linear.bias, dtype))
    for name, resting in resting_dtypes(network, dtype).items():
        module, _, leaf = name.rpartition(".")
        shape = network.get_parameter(name).shape
        value = torch.empty(shape, dtype=resting)
        value = value.normal_(std=0.02) if resting.is_floating_point else value.random_(-127, 128)
        setattr(network.get_submodule(module), leaf, nn.Parameter(value, requires_grad=False))
    return Decoder(LoadedCheckpoint(row, network, "", Path()), torch.device("cpu"), dtype)


def measure(case: Case) -> Measured:
    """In a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "latpix.benchmark.memory", json.dumps(asdict(case))]
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    answer = json.loads(out)
    return Measured(**{**answer, "levers": tuple(answer["levers"])})


def status(line: str) -> int:
    """A line of /proc/self/status, in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{line}:")[1].split()[0]) * 1024


def run(case: Case) -> Measured:
    """Here and now."""
    with meet(torch.device("cpu")) if ranks_of_torchrun().size > 1 else nullcontext() as team:
        return _measured(case, team)


def _measured(case: Case, team: Team | None) -> Measured:
    torch.manual_seed(0)  # processes of a team have the same weights and latents
    decoder = random_decoder(case)
    decoder.team, space = team, decoder.space
    caption = None
    if decoder.checkpoint.network.caption_width:
        caption = torch.randn(1, decoder.checkpoint.network.caption_length, decoder.checkpoint.network.caption_width)
    latent = torch.randn(case.batch, space.channels, case.height, case.width)
    with TemporaryDirectory() as folder:

        def decode(latent: Tensor, name: str, steps: int, limit: int | None) -> None:
            if case.in_files:
                path = Path(folder) / name
                decoder.decode_to_tiff(latent, path, caption=caption, steps=steps, memory_limit=limit)
            else:
                decoder.decode(latent, caption=caption, steps=steps, memory_limit=limit, scale=case.scale)

        decode(latent[:1, :, :8, :8], "first.tiff", 1, None)  # libraries allocate on first use
        held = resident_bytes()
        limit = case.memory_limit if case.over_held is None else held + case.over_held
        plan = decoder.plan(
            height=case.height,
            width=case.width,
            batch=case.batch,
            steps=case.steps,
            memory_limit=limit,
            scale=case.scale,
            in_files=case.in_files,
        )
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest resident memory so far
        decode(latent, "picture.tiff", case.steps, limit)
    return Measured(held=held, foretold=plan.peak_bytes, peak=status("VmHWM"), levers=plan.levers)


if __name__ == "__main__":
    print(json.dumps(asdict(run(Case(**json.loads(sys.argv[1]))))))
