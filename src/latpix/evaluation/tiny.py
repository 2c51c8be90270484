"""Measure flux2-tiny against its bars, and print the tables.

    python -m latpix.evaluation.tiny --assets DIR [--photos DIR] --checkpoint flux2-tiny [--steps 1,2,3,4] -o FILE.json
    python -m latpix.evaluation.tiny --assets DIR --checkpoint RUN/weights.safetensors --quick -o FILE.json

Decoded are TAEF2's latents (of Kodak, 192x128 -> 768x512; with --photos also of crops, 512x512 -> 2048x2048), so that
the decoder is measured and not the lite encoder; the same pictures through flux2-lite; and TAEF2's latents with noise
of rising latent_sigma. The thing to beat is the codec's decode of the same latent, enlarged 4 times by Lanczos.
``--quick`` takes 6 Kodak pictures and the default number of steps.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latpix.backbones.codec import Codec
from latpix.backbones.taef2 import Taef2
from latpix.decoder import Decoder
from latpix.evaluation.bars import Row, bar_table, bars, flat_bar, sweep_bars, table
from latpix.evaluation.pictures import KODAK, Sample, crops, kodak, plain_upscale
from latpix.evaluation.probes import probe_cost, probe_flat, probe_seeds
from latpix.evaluation.scores import Reference, Scores, average, score
from latpix.files.atomic import writing
from latpix.latents.noising import noise_latent
from latpix.sampling.noise import LATENT_DRAW, normals

QUICK_PICTURES = 6
SEED_PICTURES = 4
SWEEP = (0.2, 0.4, 0.8)  # latent_sigma
NOISED = {f"TAEF2, noise {sigma}": sigma for sigma in SWEEP}
COMPARED = "TAEF2, noise 0.4"  # with the plain upscale of the same latent
TAEF2_PLAIN, LITE_PLAIN = "TAEF2 decode + Lanczos", "flux2-lite decode + Lanczos"


@dataclass(frozen=True)
class Tools:
    """What decodes: ours, and the two codecs."""

    decoder: Decoder
    codec: Codec
    taef2: Taef2

    @torch.inference_mode()
    def latents(self, sample: Sample) -> dict[str, Float[Tensor, "1 c h w"]]:
        """The latents of a sample's native picture, by their kind; the noise is the sample's own."""
        clean = self.taef2.encode(sample.native)
        noise = normals(zlib.crc32(sample.name.encode()), LATENT_DRAW, *clean.shape[1:])[None]
        noised = {kind: noise_latent(clean, noise, sigma, "flow") for kind, sigma in NOISED.items()}
        return {"TAEF2": clean, "flux2-lite": self.codec.encode(sample.native), **noised}

    @torch.inference_mode()
    def native(self, latent: Float[Tensor, "1 c h w"], method: str) -> Float[Tensor, "1 3 y x"]:
        """A codec's own decode."""
        return (self.taef2 if method == TAEF2_PLAIN else self.codec).decode(latent).cpu()

    def ours(self, latent: Float[Tensor, "1 c h w"], **options: Any) -> Float[Tensor, "1 3 H W"]:
        """The decoder's picture, on the CPU."""
        return self.decoder.decode(latent, **options).cpu()


def ours(steps: int) -> str:
    """What a table calls our decode."""
    return f"ours, {steps} step{'s' if steps > 1 else ''}"


def decodes(
    tools: Tools, sample: Sample, steps: Sequence[int], *, brief: bool
) -> Iterator[tuple[str, str, Reference, Tensor]]:
    """Each way to make the sample's picture: kind of latent, method, what to compare with, pixels.

    ``brief`` leaves out the noisy latents. Of each kind of latent the first method is the one to beat.
    """
    latents = tools.latents(sample)
    for kind, latent in latents.items():
        if kind in NOISED and brief:
            continue
        plain = {"TAEF2": [TAEF2_PLAIN, LITE_PLAIN], "flux2-lite": [LITE_PLAIN]}.get(kind, [TAEF2_PLAIN])
        natives = {method: tools.native(latent, method) for method in plain}
        reference = Reference(sample.original, natives[plain[0]])
        for method, native in natives.items():
            yield kind, method, reference, plain_upscale(native)
        for count in steps if kind == "TAEF2" else [tools.decoder.checkpoint.sampling.steps]:
            pixels = tools.ours(latent, steps=count, latent_sigma=NOISED.get(kind, 0.0))
            yield kind, ours(count), reference, pixels


def measure(tools: Tools, samples: Iterable[Sample], steps: Sequence[int], *, brief: bool) -> list[Row]:
    """Mean figures of every method over the samples."""
    scores: dict[tuple[str, str], list[Scores]] = {}
    for sample in samples:
        for kind, method, reference, pixels in decodes(tools, sample, steps, brief=brief):
            scores.setdefault((kind, method), []).append(score(pixels, reference))
    return [
        Row(kind, method, len(all_of), average(all_of), max(one.mean_colour for one in all_of))
        for (kind, method), all_of in scores.items()
    ]


def probes(tools: Tools, samples: Sequence[Sample]) -> dict[str, Any]:
    """Seeds and flat areas."""
    latents = [tools.latents(sample)["TAEF2"] for sample in samples]
    spread = probe_seeds(tools.decoder, latents)
    return {"seed_spread": spread._asdict(), "flat_grain": asdict(probe_flat(tools.decoder, tools.taef2))}


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for, as one JSON document; tables are printed as they are ready."""
    start = time.perf_counter()
    checkpoint = Path(arguments.checkpoint) if Path(arguments.checkpoint).suffix else arguments.checkpoint
    decoder = Decoder.load(checkpoint, device=arguments.device, like=arguments.like)
    tools = Tools(decoder, Codec.load(), Taef2.load(arguments.assets / "taef2"))
    default = decoder.checkpoint.sampling.steps
    steps = sorted({*arguments.steps, default}) if arguments.steps else [default]
    pictures = list(kodak(arguments.assets / "photos" / "kodak", QUICK_PICTURES if arguments.quick else KODAK))
    sets = {"Kodak": (pictures, arguments.quick)}
    if arguments.photos and not arguments.quick:
        sets["crops of 2048x2048"] = (list(crops(arguments.photos)), True)
    document: dict[str, Any] = {
        "checkpoint": arguments.checkpoint,
        "sha256": decoder.sha256,
        "steps": default,
        "sets": {},
    }
    for name, (samples, brief) in sets.items():
        rows = measure(tools, samples, steps, brief=brief)
        found = bars(rows, ours(default))
        if not brief:
            found += sweep_bars(rows, "TAEF2", list(NOISED), ours(default), COMPARED)
        print(f"\n{name}\n\n{table(rows)}\n\n{bar_table(found)}", flush=True)
        document["sets"][name] = {"rows": [asdict(row) for row in rows], "bars": [asdict(bar) for bar in found]}
    document["probes"] = probes(tools, pictures[: 1 if arguments.quick else SEED_PICTURES])
    flat = flat_bar(document["probes"]["flat_grain"]["ours"])
    document["flat_bar"] = asdict(flat)
    print(f"\nlevels of 255: {json.dumps(document['probes'])}\n\n{bar_table([flat])}", flush=True)
    if not arguments.quick:
        cost = probe_cost(arguments.checkpoint, device=arguments.device, like=arguments.like)
        document["cost"] = asdict(cost)
        print(f"512x512 -> 2048x2048: {json.dumps(document['cost'])}", flush=True)
    document["seconds"] = round(time.perf_counter() - start, 1)
    return document


def main() -> None:
    """The command of the module's docstring."""
    parser = argparse.ArgumentParser(description="Measure flux2-tiny against its bars.")
    parser.add_argument("--assets", type=Path, required=True, help="folder with photos/kodak and taef2/")
    parser.add_argument("--photos", type=Path, help="folder of lomiri-wallpapers-16.04 with the two large photographs")
    parser.add_argument("--checkpoint", default="flux2-tiny", help="a name of the registry, or a file")
    parser.add_argument("--like", help="the registry row that a bare file follows")
    parser.add_argument("--steps", type=lambda text: [int(part) for part in text.split(",")], help="such as 1,2,3,4")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="6 Kodak pictures, default steps, no large pictures")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON, replaced when it is there")
    arguments = parser.parse_args()
    document = run(arguments)
    with writing(arguments.output, overwrite=True) as part:
        part.write_text(json.dumps(document, indent=1))
    print(f"{arguments.output}, after {document['seconds']} s")


if __name__ == "__main__":
    main()
