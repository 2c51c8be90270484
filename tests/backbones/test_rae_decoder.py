"""The RAE's decoder: official names, sizes from shapes, the grid, where patches go. Its numbers are a golden's."""

import pytest
import torch
from tiny_raes import TINY, decoder_state

from latpix.backbones.rae_decoder import RaeDecoder
from latpix.errors import CheckpointError

SPACE = TINY["dinov2"]


def tokens(cells=16, seed=1):
    return torch.randn(2, cells, SPACE.channels, generator=torch.Generator().manual_seed(seed))


def test_sizes_come_from_the_shapes():
    decoder = RaeDecoder.of(decoder_state(SPACE, width=48, layers=3, patch=8, grid=5), heads=4)
    assert (decoder.grid, decoder.patch, len(decoder.layers)) == (5, 8, 3)
    assert decoder(tokens(25)).shape == (2, 25, 3 * 8 * 8)


def test_the_published_sizes_are_what_is_expected_of_a_file_that_says_nothing():
    decoder = RaeDecoder.of(decoder_state(SPACE, width=32))
    assert decoder.layers[0].heads == 16
    assert decoder.norm.eps == 1e-12


def test_a_patch_lies_row_by_row_with_its_colours_together():
    decoder = RaeDecoder.of(decoder_state(SPACE, patch=2, grid=2))
    logits = torch.arange(4 * 12).float().view(1, 4, 12)
    picture = decoder.picture(logits)
    assert picture.shape == (1, 3, 4, 4)
    for token in range(4):
        for p in range(2):
            for q in range(2):
                place = picture[0, :, 2 * (token // 2) + p, 2 * (token % 2) + q]
                assert torch.equal(place, logits[0, token, 3 * (2 * p + q) : 3 * (2 * p + q) + 3])


def test_another_grid_is_resized_to_the_one_it_was_trained_on():
    decoder = RaeDecoder.of(decoder_state(SPACE))
    flat = tokens(1).expand(2, 36, -1)  # the same everywhere: no resize changes it
    torch.testing.assert_close(decoder(flat), decoder(flat[:, :16]), rtol=0, atol=1e-5)
    assert decoder(tokens(36)).shape == decoder(tokens(16)).shape


def test_heads_change_what_comes_out():
    state = decoder_state(SPACE)
    assert (RaeDecoder.of(state, heads=2)(tokens()) - RaeDecoder.of(state, heads=4)(tokens())).abs().max() > 1e-3


def test_every_tensor_is_needed_and_none_is_left_over():
    state = decoder_state(SPACE)
    lacking = {name: tensor for name, tensor in state.items() if name != "decoder_layers.1.output.dense.bias"}
    with pytest.raises(CheckpointError, match=r"missing decoder_layers\.1\.output\.dense\.bias; strange none"):
        RaeDecoder.of(lacking, name="model.pt")
    renamed = {name.replace("attention.attention.query", "attention.q_proj"): t for name, t in state.items()}
    with pytest.raises(CheckpointError, match=r"strange decoder_layers\.0\.attention\.q_proj"):
        RaeDecoder.of(renamed)
    with pytest.raises(CheckpointError, match="no decoder of a RAE"):
        RaeDecoder.of({"weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"decoder_norm\.weight is \[8\], expected \[32\]"):
        RaeDecoder.of(state | {"decoder_norm.weight": torch.ones(8)})
    with pytest.raises(CheckpointError, match="heads cannot share"):
        RaeDecoder.of(state, heads=5)
