"""FLUX.2 klein: paint what its four steps make four times larger; --stop-at 3 leaves one out.

Run it: python examples/flux2_klein.py --prompt "a lighthouse in fog" --out lighthouse
"""

import argparse

import torch
from diffusers import Flux2KleinPipeline

import latpix

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--prompt", default="a lighthouse in fog")
parser.add_argument("--model", default="black-forest-labs/FLUX.2-klein-4B", help="hub id or folder")
parser.add_argument("--checkpoint", default="flux2-tiny", help="name or file of the decoder")
parser.add_argument("--size", type=int, default=512, help="a side of the pipeline's picture, in pixels")
parser.add_argument("--steps", type=int, default=4)
parser.add_argument("--stop-at", type=int, default=4)
parser.add_argument("--out", default="flux2_klein", help="what the two pictures' names begin with")
args = parser.parse_args()

device = "cuda" if torch.cuda.is_available() else "cpu"
pipe = Flux2KleinPipeline.from_pretrained(args.model, dtype=torch.bfloat16).to(device)
stop = latpix.StopAt(args.stop_at, height=args.size, width=args.size)
images = pipe(
    prompt=args.prompt,
    height=args.size,
    width=args.size,
    num_inference_steps=args.steps,
    guidance_scale=1.0,
    generator=torch.Generator("cpu").manual_seed(0),
    callback_on_step_end=stop,
).images
images[0].save(f"{args.out}_native.png")  # the pipeline's own decode of the same latent

del pipe  # the decoder may need its memory
decoder = latpix.Decoder.load(args.checkpoint)
pixels = decoder.decode(stop.latent, caption=args.prompt)
latpix.save_picture(pixels, f"{args.out}.png")
