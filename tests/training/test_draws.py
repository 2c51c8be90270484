import pytest
import torch

from latpix.training.draws import Recorded, Seeded


def all_kinds(draws):
    return [draws.uniform("u", (3,)), draws.normal("n", (2, 3)), draws.choice("c", (5,), 4)]


def test_one_seed_gives_one_sequence_and_its_state_takes_it_up_again():
    first, second = (Seeded(torch.Generator().manual_seed(7)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(all_kinds(first), all_kinds(second), strict=True))
    state = first.generator.get_state()
    ahead = all_kinds(first)
    second.generator.set_state(state)
    assert all(torch.equal(a, b) for a, b in zip(ahead, all_kinds(second), strict=True))


def test_choices_are_whole_numbers_below_their_count_and_a_single_number_has_no_shape():
    draws = Seeded(torch.Generator().manual_seed(0))
    assert draws.choice("c", (200,), 4).unique().tolist() == [0, 1, 2, 3]
    assert draws.uniform("u", ()).shape == ()


def test_recorded_draws_come_by_name_and_in_their_shape_only():
    draws = Recorded({"time": torch.zeros(3)})
    assert torch.equal(draws.normal("time", (3,)), torch.zeros(3))
    assert draws.made == ["time"]
    with pytest.raises(AssertionError, match="recorded as"):
        draws.normal("time", (4,))
    with pytest.raises(KeyError):
        draws.normal("noise", (3,))
