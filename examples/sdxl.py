"""SDXL: stop after 26 of 30 steps and paint the picture four times larger.

Run it: python examples/sdxl.py --prompt "a lighthouse in fog" --out lighthouse
"""

import argparse

import torch
from diffusers import StableDiffusionXLPipeline

import latpix

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--prompt", default="a lighthouse in fog")
parser.add_argument("--model", default="stabilityai/stable-diffusion-xl-base-1.0", help="hub id or folder")
parser.add_argument("--checkpoint", default="sdxl-2kto4k", help="name or file of the decoder")
parser.add_argument("--size", type=int, default=1024, help="a side of the pipeline's picture, in pixels")
parser.add_argument("--steps", type=int, default=30)
parser.add_argument("--stop-at", type=int, default=26)
parser.add_argument("--out", default="sdxl", help="what the two pictures' names begin with")
args = parser.parse_args()

device = "cuda" if torch.cuda.is_available() else "cpu"
pipe = StableDiffusionXLPipeline.from_pretrained(args.model, dtype=torch.bfloat16).to(device)
stop = latpix.StopAt(args.stop_at)
images = pipe(
    prompt=args.prompt,
    height=args.size,
    width=args.size,
    num_inference_steps=args.steps,
    guidance_scale=7.5,
    generator=torch.Generator("cpu").manual_seed(0),
    callback_on_step_end=stop,
).images
images[0].save(f"{args.out}_native.png")  # the pipeline's own decode of the same latent

del pipe  # the decoder may need its memory
decoder = latpix.Decoder.load(args.checkpoint)
pixels = decoder.decode(stop.latent, caption=args.prompt)
latpix.save_picture(pixels, f"{args.out}.png")
