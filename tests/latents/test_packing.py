"""Packing: every value's place by its index, and back again."""

import itertools

import pytest
import torch

from latpix.errors import LatentError
from latpix.latents.packing import pack, patchify, unpack, unpatchify
from latpix.latents.spaces import LATENT_SPACES

PACKED = {"flux1": 2, "qwen": 2, "flux2": 1}  # cells a side of a token


def numbered(*shape):
    """Every value another, so that a value tells where it came from."""
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)


def test_patchify_moves_every_value_where_the_formula_says():
    raw = numbered(2, 3, 4, 6)
    folded = patchify(raw, 2)
    assert folded.shape == (2, 12, 2, 3)
    for b, c, y, x in itertools.product(range(2), range(3), range(4), range(6)):
        assert folded[b, c * 4 + y % 2 * 2 + x % 2, y // 2, x // 2] == raw[b, c, y, x]


def test_unpatchify_undoes_it():
    raw = numbered(2, 3, 4, 6)
    assert torch.equal(unpatchify(patchify(raw, 2), 2), raw)


@pytest.mark.parametrize(("name", "side"), PACKED.items())
def test_a_token_holds_the_values_that_the_formula_says(name, side):
    space, rows, columns = LATENT_SPACES[name], 2, 3
    latent = numbered(2, space.channels, rows * side, columns * side)
    tokens = pack(latent, space)
    assert tokens.shape == (2, rows * columns, space.channels * side**2)
    for i, j, dy, dx in itertools.product(range(rows), range(columns), range(side), range(side)):
        place = [c * side**2 + dy * side + dx for c in range(space.channels)]
        assert torch.equal(tokens[:, i * columns + j, place], latent[:, :, i * side + dy, j * side + dx])


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize(("height", "width"), [(32, 48), (47, 63)])  # the second has remainders, which are dropped
def test_unpack_undoes_it(name, height, width):
    space = LATENT_SPACES[name]
    cell = 16 // space.downsample
    latent = numbered(2, space.channels, height // 16 * cell, width // 16 * cell)
    assert torch.equal(unpack(pack(latent, space), space, height=height, width=width), latent)


def test_tokens_of_another_size_are_refused_with_both_counts():
    with pytest.raises(LatentError, match=r"15 tokens.*80x64 pixels.*5x4 = 20.*flux1"):
        unpack(torch.zeros(1, 15, 64), LATENT_SPACES["flux1"], height=64, width=80)


@pytest.mark.parametrize("shape", [(1, 15, 128), (15, 64), (1, 16, 6, 10)])
def test_tokens_of_another_shape_are_refused(shape):
    with pytest.raises(LatentError, match=r"\[b, n, 64\]"):
        unpack(torch.zeros(shape), LATENT_SPACES["qwen"], height=48, width=80)


@pytest.mark.parametrize("shape", [(1, 16, 5, 6), (1, 4, 6, 6), (16, 6, 6)])
def test_what_is_no_latent_of_the_space_is_not_packed(shape):
    with pytest.raises(LatentError, match=r"\[b, 16, h, w\] with even h and w"):
        pack(torch.zeros(shape), LATENT_SPACES["flux1"])


@pytest.mark.parametrize("name", sorted(LATENT_SPACES.keys() - PACKED.keys()))
def test_spaces_that_are_never_packed_say_which_are(name):
    space = LATENT_SPACES[name]
    with pytest.raises(LatentError, match="Packed are flux1, qwen, flux2"):
        pack(torch.zeros(1, space.channels, 4, 4), space)
    with pytest.raises(LatentError, match=rf"\[b, {space.channels}, h, w\]"):
        unpack(torch.zeros(1, 4, space.channels), space, height=32, width=32)
