"""FLUX.1: stop after 24 of 28 steps and paint the picture four times larger.

Run it: python examples/flux.py --prompt "a lighthouse in fog" --out lighthouse
"""

import argparse

import torch
from diffusers import FluxPipeline

import latpix

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--prompt", default="a lighthouse in fog")
parser.add_argument("--model", default="black-forest-labs/FLUX.1-dev", help="hub id or folder")
parser.add_argument("--checkpoint", default="flux1-2k", help="name or file of the decoder")
parser.add_argument("--size", type=int, default=512, help="a side of the pipeline's picture, in pixels")
parser.add_argument("--steps", type=int, default=28)
parser.add_argument("--stop-at", type=int, default=24)
parser.add_argument("--out", default="flux", help="what the two pictures' names begin with")
args = parser.parse_args()

device = "cuda" if torch.cuda.is_available() else "cpu"
pipe = FluxPipeline.from_pretrained(args.model, dtype=torch.bfloat16).to(device)
stop = latpix.StopAt(args.stop_at, height=args.size, width=args.size)
images = pipe(
    prompt=args.prompt,
    height=args.size,
    width=args.size,
    num_inference_steps=args.steps,
    guidance_scale=3.5,
    generator=torch.Generator("cpu").manual_seed(0),
    callback_on_step_end=stop,
).images
images[0].save(f"{args.out}_native.png")  # the pipeline's own decode of the same latent

del pipe  # the decoder may need its memory
decoder = latpix.Decoder.load(args.checkpoint)
pixels = decoder.decode(stop.latent, caption=args.prompt)
latpix.save_picture(pixels, f"{args.out}.png")
