"""Decodes of several sizes, plain and compiled, in a Python whose shapes nobody checks.

    python tests/compile_job.py FOLDER PORT

leaves in FOLDER what tests/test_compiling.py compares.
"""

import os
import sys
from pathlib import Path

os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no pool of processes, each of which would import torch

import torch
from small_decoder import write_checkpoint, write_space_checkpoint

from latpix import Decoder

SIZES = [(9, 8), (12, 10), (9, 13), (14, 9)]

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write_checkpoint(folder / "tiny.safetensors")
    write_space_checkpoint(folder / "captioned.safetensors", "flux1", caption_width=12)
    for name in ("tiny", "captioned"):
        found, compiled_after = {}, []
        plain = Decoder.load(folder / f"{name}.safetensors", device="cpu", dtype="float32")
        compiled = Decoder.load(folder / f"{name}.safetensors", device="cpu", dtype="float32").compile()
        from torch._dynamo.utils import counters  # not before: it decides where compiled code is kept

        for size in SIZES:
            latent = torch.randn(1, plain.space.channels, *size, generator=torch.Generator().manual_seed(1))
            caption = torch.ones(1, 5, 12) if name == "captioned" else None
            pixels = [one.decode(latent, caption=caption, steps=2) for one in (plain, compiled)]
            found[str(size)] = torch.cat(pixels)
            compiled_after.append(counters["stats"]["unique_graphs"])
        torch.save({"pixels": found, "graphs": compiled_after}, folder / f"{name}.pt")
