"""Small decodes on one process and on several, forked.

    python tests/team_job.py FOLDER PORT

leaves in FOLDER what tests/test_team.py compares: ``CASE_RANKS.pt``, and pictures that the command line made.
"""

import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from small_decoder import write_checkpoint, write_latent, write_space_checkpoint
from toy_job import on_ranks

from latpix import Decoder
from latpix.cli.main import run
from latpix.distributed import ranks_of_torchrun
from latpix.team import meet

CASES = {  # checkpoint, cells, options of decode
    "windows": ("tiny", (9, 8), {}),
    "whole": ("captioned", (8, 9), {"caption": torch.ones(1, 5, 12)}),
    "tiles": ("tiny", (13, 9), {"tile": 8}),
    "detail": (
        "captioned",
        (8, 9),
        {"caption": torch.ones(1, 5, 12), "detail_map": torch.tensor([-1.0, 1.0]).expand(1, 3, 1, 2)},
    ),
    "bfloat16": ("captioned", (8, 8), {"caption": torch.ones(1, 5, 12)}),
}


def decode_all(folder, ranks):
    """Each case; every process has the same picture."""
    for case, (name, cells, options) in CASES.items():
        dtype = "bfloat16" if case == "bfloat16" else "float32"
        decoder = Decoder.load(folder / f"{name}.safetensors", device="cpu", dtype=dtype)
        channels = decoder.space.channels
        latent = torch.randn(1, channels, *cells, generator=torch.Generator().manual_seed(1))
        if ranks == 1:
            torch.save(decoder.decode(latent, steps=2, **options), folder / f"{case}_1.pt")
            continue
        with meet(torch.device("cpu")) as team:
            decoder.team = team
            pixels = decoder.decode(latent, steps=2, **options)
            total = team.sum(pixels.clone())
        torch.testing.assert_close(total, ranks * pixels, rtol=0, atol=1e-6)
        if ranks_of_torchrun().rank == 0:
            torch.save(pixels, folder / f"{case}_{ranks}.pt")


def stream(folder, ranks):
    """Tiles straight into a file, which the first process writes."""
    decoder = Decoder.load(folder / "tiny.safetensors", device="cpu", dtype="float32")
    latent = torch.randn(1, decoder.space.channels, 13, 9, generator=torch.Generator().manual_seed(1))
    with nullcontext() if ranks == 1 else meet(torch.device("cpu")) as decoder.team:
        decoder.decode_to_tiff(latent, folder / f"streamed_{ranks}.tiff", steps=2, tile=8)


def command(folder, out):
    words = ("decode", folder / "cat.safetensors", "-o", folder / out, "--checkpoint", folder / "tiny.safetensors")
    assert run([*map(str, words), "--steps", "1", "--device", "cpu", "--dtype", "float32"]) == 0


if __name__ == "__main__":
    import torch._dynamo

    torch.set_num_threads(1)
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    write_checkpoint(folder / "tiny.safetensors")
    write_space_checkpoint(folder / "captioned.safetensors", "flux1", caption_width=12)
    write_latent(folder / "cat.safetensors", height=8, width=8)
    decode_all(folder, 1)
    command(folder, "alone.png")
    stream(folder, 1)
    on_ranks(lambda: stream(folder, 2), 2, port)
    on_ranks(lambda: decode_all(folder, 2), 2, port)
    on_ranks(lambda: decode_all(folder, 3), 3, port)
    on_ranks(lambda: command(folder, "together.png"), 2, port)
