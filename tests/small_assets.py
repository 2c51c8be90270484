"""A folder as ``--assets`` names one: photographs of made-up leaves, and TAEF2 with random weights."""

import torch
from made_pictures import dead_leaves
from PIL import Image

from latpix.backbones.taef2 import Taef2
from latpix.training.photographs import to_levels

FOLDERS = ("photos/cid22", "photos/clic2025")


def write_assets(folder, *names):
    """Photographs of 520x512 by their names, such as ``photos/cid22/a.png``."""
    torch.manual_seed(0)
    taef2 = Taef2()
    for name in (*FOLDERS, "taef2"):
        (folder / name).mkdir(parents=True)
    for part in ("encoder", "decoder"):
        torch.save(getattr(taef2, part).state_dict(), folder / f"taef2/taef2_{part}.pth")
    for seed, name in enumerate(names):
        levels = to_levels(dead_leaves(512, 520, seed=seed, count=40)[0])
        Image.fromarray(levels.permute(1, 2, 0).numpy()).save(folder / name)
