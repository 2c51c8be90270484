"""Small decodes on one process and on several, forked.

    python tests/team_job.py FOLDER PORT

leaves in FOLDER what tests/test_team.py compares: ``CASE_RANKS.pt``, and pictures that the command line made.
"""

import json
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import torch
from small_decoder import write_checkpoint, write_latent, write_space_checkpoint
from toy_job import on_ranks

import latpix.fitting
from latpix import Decoder
from latpix.batching import outlook, paint
from latpix.batching.inputs import Item, Measure
from latpix.batching.outlook import Outlook
from latpix.batching.outputs import Job, Output
from latpix.cli.main import run
from latpix.distributed import ranks_of_torchrun
from latpix.errors import LatpixError
from latpix.files import tiled_tiff
from latpix.network.pieces import Pieces
from latpix.team import Band, Team, meet

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


def command(folder, out, *more):
    words = ("decode", folder / "cat.safetensors", "-o", folder / out, "--checkpoint", folder / "tiny.safetensors")
    assert run([*map(str, words), "--steps", "1", "--device", "cpu", "--dtype", "float32", *more]) == 0


def limited(folder, ranks):
    """The second process holds more before the decode; it needs tiles to keep to the limit, and the first does not."""
    decoder = Decoder.load(folder / "tiny.safetensors", device="cpu", dtype="float32")
    latent = torch.randn(1, decoder.space.channels, 32, 24, generator=torch.Generator().manual_seed(1))
    held, rank, cells = 2**30, ranks_of_torchrun().rank, {"height": 32, "width": 24}
    latpix.fitting.resident_bytes = lambda: held
    decoder.team = Team(rank=0, size=2)
    decoder.team.__dict__["gather"] = lambda value: [value, value]  # both would hold the same
    limit = decoder.plan(**cells, memory_limit=2**40).peak_bytes
    plans = ((more, decoder.plan(**cells, memory_limit=limit - more)) for more in range(0, limit, 2**20))
    more, plan = next((more, plan) for more, plan in plans if plan.tiles > 1)
    costs, job = decoder._fitting.costs(frugal=True), decoder._fitting.job(32, 24, batch=1, steps=1, target=None)
    least = min(costs.peak_bytes(job, setting) for setting in costs.settings(job))
    decoder.team = None
    if ranks == 1:
        torch.save(
            {"pixels": decoder.decode(latent, steps=1, tile=plan.tile), "tile": plan.tile}, folder / "limited.pt"
        )
        return
    latpix.fitting.resident_bytes = lambda: held + more * rank
    item = Item(path=folder / "a.safetensors", name="a")
    picture = Job(item=item, measure=Measure(shape=latent.shape, space="flux2"), outputs=())
    with meet(torch.device("cpu")) as decoder.team:
        pixels = decoder.decode(latent, steps=1, memory_limit=limit)
        least_of_all = Outlook(decoder, 1, None, None, "auto", least, False)
        streams = least_of_all.streams(picture, Output(path=Path("a.tiff")))
    found = {"pixels": pixels, "tile": decoder.last_settings[0].tile, "streams": streams}
    torch.save(found, folder / f"limited_{rank}.pt")


def in_pieces(folder):
    """The most tokens that a feed-forward sees, and patches whose pixels another one does."""
    network = Decoder.load(folder / "captioned.safetensors", device="cpu", dtype="float32").network
    seen, pieces = {"tokens": 0, "patches": 0}, Pieces(tokens=16, patches=8)
    condition = network.condition(
        height=256,
        width=256,
        latent=torch.randn(1, network.config.latent_channels, 8, 8),
        latent_sigma=torch.zeros(1),
        caption=torch.ones(1, 5, 12),
        pieces=pieces,
    )

    def note(name):
        def seeing(_module, given):
            seen[name] = max(seen[name], given[0].shape[1])

        return seeing

    network.patch_blocks[0].image.mlp.register_forward_pre_hook(note("tokens"))
    network.pixel_blocks[0].mlp.register_forward_pre_hook(note("patches"))
    with meet(torch.device("cpu")) as team, torch.no_grad():
        band = Band(team, condition.rows)
        band.predict(network, band.condition(condition))(torch.randn(1, 3, 256, 256), torch.tensor([500.0]))
    assert condition.rows * condition.columns >= 4 * pieces.tokens
    (folder / f"in_pieces_{ranks_of_torchrun().rank}.json").write_text(json.dumps(seen))


def ended(folder, name, decode):
    """What each process says in the end."""
    decoder = Decoder.load(folder / "captioned.safetensors", device="cpu", dtype="float32")
    latent = torch.randn(1, decoder.space.channels, 8, 8, generator=torch.Generator().manual_seed(1))
    rank, said = ranks_of_torchrun().rank, "nothing"
    try:
        with meet(torch.device("cpu")) as decoder.team:
            decode(decoder, latent, rank)
    except LatpixError as error:
        said = f"{type(error).__name__}: {error}"
    (folder / f"{name}_{rank}.txt").write_text(said)


def without_memory(decoder, latent, rank):
    """It runs out in the second process, between two exchanges."""

    def out(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    if rank == 1:
        decoder.network.pixel_blocks[0].register_forward_pre_hook(out)
    decoder.decode(latent, caption=torch.ones(1, 5, 12), steps=2)


def without_room(decoder, latent, rank):
    """The disk has room for the files of one process."""
    room = 300 * 1024 * 1024
    tiled_tiff.shutil.disk_usage = lambda _: SimpleNamespace(free=room)
    decoder._ones = lambda *_, **__: [SimpleNamespace(bytes_in_files=room * 3 // 4)]
    decoder.decode_to_tiff(latent, Path(tempfile.gettempdir()) / "none.tiff", caption=torch.ones(1, 5, 12), steps=2)


def without_folder(decoder, latent, rank):
    """One process sees no such folder."""
    there = Path(tempfile.gettempdir())
    folder = there / "nowhere" if rank == 1 else there
    decoder.decode_to_tiff(latent, folder / "none.tiff", caption=torch.ones(1, 5, 12), steps=2)


def streamed_command(folder):
    """Into a new folder; the first process comes last."""
    usual, outlook.STREAM_FROM = paint.make_folder, 0

    def late(path):
        time.sleep(0.5 * (ranks_of_torchrun().rank == 0))
        usual(path)

    paint.make_folder = late
    command(folder, "new", "--format", "tiff")


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
    limited(folder, 1)
    on_ranks(lambda: limited(folder, 2), 2, port)
    on_ranks(lambda: in_pieces(folder), 2, port)
    for fails in (without_memory, without_room, without_folder):
        on_ranks(lambda fails=fails: ended(folder, fails.__name__, fails), 2, port)
    on_ranks(lambda: streamed_command(folder), 2, port)
