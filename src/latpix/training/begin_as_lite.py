"""A base decoder that begins as flux2-lite's decoder, enlarged: hours of that codec's training need no repeating.

Its coarse levels have the widths of flux2-lite's; further blocks begin as the identity, and the detail begins at zero.
"""

import torch
from torch import nn

from latpix.backbones.lite import Block, LiteDecoder
from latpix.network.base_decoder import BaseBlock, BaseDecoder


@torch.no_grad()
def begin_as_lite(base: BaseDecoder, lite: LiteDecoder) -> None:
    """Give ``base`` the weights under which it paints flux2-lite's decode of any clean latent, enlarged."""
    about, hidden, out = base.about[0], lite.overview[0], lite.overview[2]
    assert isinstance(about, nn.Linear)
    assert isinstance(hidden, nn.Linear)
    assert isinstance(out, nn.Linear)
    count = hidden.out_features
    about.weight[:count].zero_()
    about.weight[:count, : hidden.in_features] = hidden.weight
    about.bias[:count] = hidden.bias
    base.modulation.weight.zero_()
    base.modulation.weight[:, :count] = out.weight
    base.modulation.bias.copy_(out.bias)
    for own, given in ((base.enter, lite.enter), (base.up[0], lite.up), (base.native, lite.leave)):
        own.load_state_dict(given.state_dict())
    for level, blocks in ((0, lite.coarse), (1, lite.fine)):
        places = base.levels[level]
        assert isinstance(places, nn.ModuleList)
        for ours, theirs in zip(places, blocks, strict=False):  # ours are as many or more
            assert isinstance(ours, BaseBlock)
            assert isinstance(theirs, Block)
            ours.conv1.load_state_dict(theirs.first.state_dict())
            ours.conv2.load_state_dict(theirs.second.state_dict())
