"""Compile the parts of a network that most of the time goes to: the repeated blocks, each once for all of its kind.

A decode's other parts stay as they are. The first size costs a compilation of seconds to a minute; so do the next ones
where something changes for the first time (a piece that is not full), and then none does.
What was compiled is kept on the disk for later processes.
"""

import os

import torch
from torch import nn

from latpix import resources
from latpix.errors import OptionError
from latpix.network.patch_block import PatchBlock, Stream
from latpix.network.pixel_block import PixelBlock

# The work of one piece, which is the same for every piece, and neither the loop over them nor what processes exchange.
REGIONS: dict[type[nn.Module], tuple[str, ...]] = {
    PatchBlock: ("_image_heads",),
    Stream: ("follow",),
    PixelBlock: ("_compress", "_follow"),
}


def compile_blocks(network: nn.Module, device: torch.device) -> None:
    """Let the blocks of a network be compiled when they run first; numbers change by rounding.

    Raises:
        OptionError: nothing can be compiled on this machine.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(resources.home() / "compiled"))
    try:
        torch.compile(_probe)(torch.ones(8, device=device))
    except Exception as error:  # whatever a compiler that is missing or broken leads to
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise OptionError(
            f"nothing can be compiled for {device} here ({reason}). Leave out --compile, or install what torch.compile "
            "needs: a C++ compiler on a CPU, Triton on a GPU."
        ) from error
    for module in network.modules():
        for name in REGIONS.get(type(module), ()):
            setattr(module, name, torch.compile(getattr(module, name)))


def _probe(x: torch.Tensor) -> torch.Tensor:
    return x * 2 + 1
