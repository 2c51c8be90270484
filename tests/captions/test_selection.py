"""Which tokens are kept: the first, then the last ones of a fixed length."""

import pytest

from latpix.captions.selection import fit, padded_length, select


@pytest.mark.parametrize("prefix_tokens", [0, 1, 2, 20, 724])
@pytest.mark.parametrize("length", [1, 2, 8, 300])
def test_as_many_positions_as_asked_for_are_kept_and_the_last_is_the_end(prefix_tokens, length):
    kept = select(prefix_tokens, length)
    assert len(kept) == length
    assert kept[0] == 0
    if length > 1:
        assert kept[-1] == padded_length(prefix_tokens, length) - 1


def test_without_a_prefix_everything_is_kept():
    assert select(0, 5) == [0, 1, 2, 3, 4]


def test_behind_a_prefix_its_last_token_and_what_follows_are_kept():
    assert (padded_length(20, 4), select(20, 4)) == (22, [0, 19, 20, 21])
    assert (padded_length(1, 4), select(1, 4)) == (3, [0, 0, 1, 2])  # the prefix is BOS alone


def test_ids_are_cut_or_padded_on_the_right_and_the_mask_tells_which_are_own():
    assert fit([2, 7, 8], 5, 0) == ([2, 7, 8, 0, 0], [1, 1, 1, 0, 0])
    assert fit([2, 7, 8], 2, 0) == ([2, 7], [1, 1])
