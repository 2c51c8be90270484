"""Activation checkpointing: a block's activations are computed again in the backward pass instead of being kept.

Source: Chen et al. 2016, "Training deep nets with sublinear memory cost".
"""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

BLOCKS = ("PatchBlock", "PixelBlock", "ResidualBlock", "BaseBlock", "WideBlock")


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The blocks of a network whose activations can be computed again."""
    return [module for module in network.modules() if type(module).__name__ in BLOCKS]


def recompute_blocks(network: nn.Module) -> int:
    """Let every block of a network forget its activations; gives how many there are. Names and weights stay."""
    blocks = blocks_of(network)
    for block in blocks:
        # Nothing in a block is random, so no generator's state needs to be kept for the second time.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
    return len(blocks)
