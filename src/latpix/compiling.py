"""Compile the parts of a network that most of the time goes to: the repeated blocks, each once for all of its kind.

A decode's other parts stay as they are. The first size costs a compilation of seconds to a minute; so do the next ones
where something changes for the first time (a side, how many windows, a chunk that is not full), and then none does.
What was compiled is kept on the disk for later processes.
"""

import os

import torch
from torch import nn

from latpix import resources
from latpix.errors import OptionError
from latpix.network.patch_block import PatchBlock
from latpix.network.pixel_block import PixelBlock

# Of a pixel block the chunks' work, which is the same for every chunk, and not the loop over them.
REGIONS: dict[type[nn.Module], tuple[str, ...]] = {PatchBlock: ("forward",), PixelBlock: ("_compress", "_follow")}


def compile_blocks(network: nn.Module, device: torch.device) -> None:
    """Let the blocks of a network be compiled when they run first; numbers change by rounding.

    Raises:
        OptionError: nothing can be compiled on this machine.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(resources.home() / "compiled"))
    try:
        torch.compile(_probe)(torch.ones(8, device=device))
    except Exception as error:  # whatever a compiler that is missing or broken leads to
        reason = str(error).strip().splitlines()[0]
        raise OptionError(
            f"nothing can be compiled for {device} here ({reason}). Leave out --compile, or install what torch.compile "
            "needs: a C++ compiler on a CPU, Triton on a GPU."
        ) from error
    for module in network.modules():
        for name in REGIONS.get(type(module), ()):
            setattr(module, name, torch.compile(getattr(module, name)))


def _probe(x: torch.Tensor) -> torch.Tensor:
    return x * 2 + 1
