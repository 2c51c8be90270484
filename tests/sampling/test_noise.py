"""Noise by counter: the generator's published vectors, places, and the distribution."""

import itertools

import pytest
import torch

from latpix.sampling.noise import LATENT_DRAW, noise_field, normals, philox

ONES = 0xFFFFFFFF


# Philox4x32-10 in the known-answer file of Random123, its authors' library.
@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_its_published_words(counter, key, words):
    got = philox(tuple(torch.tensor([word]) for word in counter), key)
    assert tuple(int(word) for word in got) == words


def test_a_pixels_counter_is_its_column_row_draw_and_channel_group():
    column, row, draw, seed = 5, 2, 7, (3 << 32) + 11
    words = philox(tuple(torch.tensor([i]) for i in (column, row, draw, 1)), (11, 3))
    first, second = ((int(word) + 0.5) / 2**32 for word in words[:2])
    expected = (-2 * torch.tensor(first).log()).sqrt() * torch.cos(2 * torch.pi * torch.tensor(second))
    torch.testing.assert_close(normals(seed, draw, 5, 4, 8)[4, row, column], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("top", "left", "height", "width"), [(0, 0, 3, 5), (7, 11, 9, 6), (31, 0, 1, 40), (0, 39, 32, 1)]
)
def test_a_part_is_that_part_of_the_whole_to_the_bit(top, left, height, width):
    whole = normals(5, 1, 3, 32, 40)
    part = normals(5, 1, 3, height, width, top=top, left=left)
    assert torch.equal(part, whole[:, top : top + height, left : left + width])


def test_a_field_computed_in_several_bands_is_the_field_of_its_parts():
    whole = normals(0, 0, 3, 40, 2000)
    for top in (0, 15, 16, 33):
        assert torch.equal(normals(0, 0, 3, 2, 7, top=top, left=1990), whole[:, top : top + 2, 1990:1997])


def test_more_channels_leave_the_first_ones_as_they_are():
    assert torch.equal(normals(1, 0, 3, 4, 4), normals(1, 0, 9, 4, 4)[:3])


def test_a_batch_is_its_pictures_one_by_one():
    field = noise_field([3, 9, 3], 3, 4, 6)
    for draw in (0, 2, LATENT_DRAW):
        for k, seed in enumerate([3, 9, 3]):
            assert torch.equal(field(draw)[k], normals(seed, draw, 3, 4, 6))


def test_the_same_call_gives_the_same_bits_whatever_torchs_generator_did():
    torch.manual_seed(1)
    first = normals(4, 0, 3, 8, 8)
    torch.randn(100)
    assert torch.equal(first, normals(4, 0, 3, 8, 8))


def test_seeds_count_by_their_low_64_bits():
    assert torch.equal(normals(-1, 0, 3, 4, 4), normals(2**64 - 1, 0, 3, 4, 4))
    assert torch.equal(normals(7, 0, 3, 4, 4), normals(7 + 2**64, 0, 3, 4, 4))
    assert not torch.equal(normals(7, 0, 3, 4, 4), normals(7 + 2**32, 0, 3, 4, 4))


def test_noise_is_standard_normal():
    x = normals(123, 0, 4, 512, 512).double()
    count = x[0].numel()
    for channel in x:  # each bound is five standard errors
        assert abs(float(channel.mean())) < 5 / count**0.5
        assert abs(float(channel.var()) - 1) < 5 * (2 / count) ** 0.5
        assert abs(float((channel**3).mean())) < 5 * (15 / count) ** 0.5
        assert abs(float((channel**4).mean()) - 3) < 5 * (96 / count) ** 0.5
        assert 4 < float(channel.abs().max()) < 7
    inside = float((x.abs() < 1).double().mean())
    assert inside == pytest.approx(0.682689, abs=5 * (0.2166 / x.numel()) ** 0.5)


def test_draws_seeds_channels_and_neighbours_are_independent():
    a = normals(1, 0, 5, 256, 256).double()
    fields = [*a, normals(1, 1, 1, 256, 256)[0], normals(2, 0, 1, 256, 256)[0], normals(1, LATENT_DRAW, 1, 256, 256)[0]]
    fields += [a[0].roll(1, dims=0), a[0].roll(1, dims=1), a[0].T]
    for x, y in itertools.combinations(fields, 2):
        shared = float((x.double() * y.double()).mean())
        assert abs(shared) < 5 / 256
        assert abs(float(((x.double() ** 2 - 1) * (y.double() ** 2 - 1)).mean())) < 5 * 2 / 256
