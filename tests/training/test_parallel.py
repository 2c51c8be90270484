"""Two processes over gloo train as one does: gradients, losses, saves."""

import painter_job
import pytest
import torch
from in_a_process import run_script

from latpix.training.log import read_log
from latpix.training.state import load_into, shapes_in


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    run_script(painter_job, folder)
    return folder


def losses(run):
    return torch.tensor([line["total"] for line in read_log(run)], dtype=torch.float64)


def weights(run):
    return torch.load(run / "weights.pt", weights_only=True)


def saved(run, step):
    path = run / "saves" / f"step_{step:08d}"
    tensors = {name: torch.zeros(shape) for name, shape in shapes_in(path).items()}
    load_into(tensors, path)
    return tensors


def test_gradients_of_sharded_weights_are_those_of_whole_ones(folder):
    one, two = (torch.load(folder / f"gradients_{ranks}_1.pt", weights_only=True) for ranks in (1, 2))
    assert one.keys() == two.keys()
    assert len(one) > 50
    joined = [torch.cat([found[name].flatten() for name in one]) for found in (one, two)]
    assert (joined[1] - joined[0]).norm() < 1e-6 * joined[0].norm()
    for name, gradient in one.items():  # each by itself: some are small differences of large sums
        assert (two[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-9 * joined[0].norm(), name


@pytest.mark.parametrize(("ranks", "context"), [(2, 2), (4, 4), (4, 2)])
def test_processes_that_share_pictures_have_the_gradients_of_one(folder, ranks, context):
    one, shared = (
        torch.load(folder / f"gradients_{name}.pt", weights_only=True) for name in ("1_1", f"{ranks}_{context}")
    )
    assert one.keys() == shared.keys()
    for name, gradient in one.items():
        assert (shared[name] - gradient).abs().max() <= 1e-5 * gradient.abs().max() + 1e-9, name


@pytest.mark.parametrize("run", ["two", "shared"])
def test_twenty_steps_on_two_processes_lose_what_they_lose_on_one(folder, run):
    one, two = losses(folder / "one"), losses(folder / run)
    assert len(one) == painter_job.STEPS
    torch.testing.assert_close(two, one, rtol=1e-5, atol=0)


def test_two_processes_go_on_bit_for_bit_from_their_save(folder):
    unbroken, resumed = saved(folder / "two", painter_job.STEPS), saved(folder / "two_then_two", painter_job.STEPS)
    assert unbroken.keys() == resumed.keys()
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)


def test_one_process_goes_on_with_the_save_of_two(folder):
    torch.testing.assert_close(losses(folder / "two_then_one"), losses(folder / "one"), rtol=1e-5, atol=0)
    for name, weight in weights(folder / "one").items():
        torch.testing.assert_close(weights(folder / "two_then_one")[name], weight, rtol=1e-3, atol=1e-5)
