"""What quantizing costs: decodes with weights in eight bits beside decodes with the original weights.

    python scripts/quantization_loss.py --kodak DIR [--count 6] [--checkpoint flux2-tiny] [--steps N]
    python scripts/quantization_loss.py --full-width [--cells 8]

The first decodes Kodak pictures, shrunk and encoded by flux2-lite, and prints their feature distance to the original
photograph (which may rise by 1 %) and dB between the decodes. The second decodes noise by a network of the released
width with two patch blocks and one pixel block, of random weights, and prints dB between the decodes (40 or more) and
the largest difference of a channel's mean in levels (1 or less). bfloat16, seed 0. fp8 is decoded too, on any device:
the weights are widened before they are multiplied, so its numbers need no fp8 hardware.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from latpix import Codec, Decoder
from latpix.checkpoints.load import load, save
from latpix.checkpoints.quantize import quantize
from latpix.checkpoints.registry import find
from latpix.devices import pick_device
from latpix.evaluation.metrics.feature_distance import feature_distance
from latpix.evaluation.metrics.features import features_of
from latpix.evaluation.metrics.mean_colour import mean_colour_difference
from latpix.evaluation.metrics.psnr import psnr
from latpix.evaluation.pictures import kodak
from latpix.network.model import build

KINDS = ("int8", "fp8")


def main() -> None:
    """The commands of the module's docstring."""
    parser = argparse.ArgumentParser(description="What quantizing costs.")
    parser.add_argument("--kodak", type=Path, help="folder of the Kodak pictures")
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--checkpoint", default="flux2-tiny")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--full-width", action="store_true")
    parser.add_argument("--cells", type=int, default=8, help="side of the latent, with --full-width")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.kodak:
            on_photographs(arguments, decoders(arguments.checkpoint, Path(folder)))
        if arguments.full_width:
            at_full_width(arguments, decoders(random_checkpoint(Path(folder)), Path(folder)))


def decoders(checkpoint: str | Path, folder: Path) -> dict[str, Decoder]:
    """The original, and each kind of quantized weights."""
    files: dict[str, str | Path] = {"original": checkpoint}
    for kind in KINDS:
        files[kind] = folder / f"{kind}.safetensors"
        layers = quantize(checkpoint, files[kind], kind=kind)
        print(f"{kind}: {len(layers)} layers, {min(layer.snr for layer in layers):.1f} dB or more")
    device = pick_device("auto")
    # Not Decoder.load, which refuses fp8 where nothing is gained by it.
    return {
        kind: Decoder(load(file, device=device, dtype=torch.bfloat16), device, torch.bfloat16)
        for kind, file in files.items()
    }


def on_photographs(arguments: argparse.Namespace, found: dict[str, Decoder]) -> None:
    """Feature distance to the photograph, and dB between the decodes."""
    codec = Codec.load("flux2-lite", device=found["original"].device)
    distances: dict[str, list[float]] = {kind: [] for kind in found}
    for sample in kodak(arguments.kodak, arguments.count):
        latent = codec.encode(sample.native)
        reference, pictures = features_of(sample.original), {}
        for kind, decoder in found.items():
            pictures[kind] = decoder.decode(latent, steps=arguments.steps).cpu()
            distances[kind].append(float(feature_distance(features_of(pictures[kind]), reference)))
        between = ", ".join(f"{kind} {float(psnr(pictures[kind], pictures['original'])):.1f} dB" for kind in KINDS)
        print(f"{sample.name}: {between}", flush=True)
    original = sum(distances["original"])
    for kind, values in distances.items():
        print(f"{kind}: feature distance {sum(values) / len(values):.5f}, {100 * (sum(values) / original - 1):+.2f} %")


def at_full_width(arguments: argparse.Namespace, found: dict[str, Decoder]) -> None:
    """dB between decodes of noise."""
    side = arguments.cells
    latent = torch.randn(1, found["original"].space.channels, side, side, generator=torch.Generator().manual_seed(0))
    caption = torch.randn(1, 300, 2304, generator=torch.Generator().manual_seed(1))
    pictures = {
        kind: decoder.decode(latent, caption=caption, steps=arguments.steps).cpu() for kind, decoder in found.items()
    }
    for kind in KINDS:
        colour = float(mean_colour_difference(pictures[kind], pictures["original"]))
        between = float(psnr(pictures[kind], pictures["original"]))
        print(f"{kind}: {between:.1f} dB to bfloat16, mean colour {colour:.3f} levels off")


def random_checkpoint(folder: Path) -> Path:
    """A network of the released width and few blocks, all of whose weights count."""
    row = find("flux2-2k")
    network = build(replace(row.network, depth=2, pixel_depth=1))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
        elif name.endswith("bias"):
            parameter.zero_()
    save(network, replace(row, network=network.config), folder / "random.safetensors", dtype=torch.bfloat16)
    return folder / "random.safetensors"


if __name__ == "__main__":
    main()
