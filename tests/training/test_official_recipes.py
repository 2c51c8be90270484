"""The recipes of the official networks, at a small size: what learns, what stays, what they leave, how they go on."""

import pytest
import small_official
import torch
from small_official import RECIPES, job_of, prepare, settings_of, shrink

from latpix.checkpoints.load import load
from latpix.errors import UsageError
from latpix.training.learning import ADAPTER
from latpix.training.log import read_log
from latpix.training.loop import train
from latpix.training.parallel import World
from latpix.training.state import load_into, shapes_in

LAST = "patch_blocks.1.caption."
UNREAD = (f"{LAST}out.", f"{LAST}norm2.", f"{LAST}mlp.")
IDLE = f"{LAST}q_norm.weight"  # trained as upstream trains it, but nobody reads what it makes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("official")
    prepare(folder)
    return folder


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    shrink(monkeypatch)


def run(part, folder, out, **changes):
    settings = settings_of(part, folder, **changes)
    job = job_of(part, settings)
    before = {
        f"{name}.{key}": tensor.clone() for name, one in networks(job) for key, tensor in one.state_dict().items()
    }
    outcome = train(job, settings, out, world=World(torch.device("cpu")))
    moved = {
        f"{name}.{key}"
        for name, one in networks(job)
        for key, tensor in one.state_dict().items()
        if not torch.equal(tensor, before[f"{name}.{key}"])
    }
    assert all(torch.isfinite(torch.tensor(line["total"])) for line in read_log(out))
    return outcome.weights, moved


def networks(job):
    return [*((name, part.network) for name, part in job.parts.items()), *job.frozen.items()]


def names_of(network, of):
    return {f"{of}.network.{name}" for name in network.state_dict() if not name.startswith(UNREAD)}


def saved(run):
    path = sorted((run / "saves").iterdir())[-1]
    tensors = {name: torch.zeros(shape) for name, shape in shapes_in(path).items()}
    load_into(tensors, path)
    return tensors, (path / "facts_0.json").read_text()


def test_the_prior_learns_all_that_is_read(folder, tmp_path):
    weights, moved = run("prior", folder, tmp_path / "run", accumulate=2, batch=1)
    made, start = load(weights), load(folder / "pixeldit-2kto4k.safetensors")
    assert moved == names_of(made.network, "prior") - {f"prior.network.{IDLE}"}
    assert made.row == RECIPES["prior"].ROW
    same = [
        name
        for name, weight in start.network.state_dict().items()
        if torch.equal(weight, made.network.state_dict()[name])
    ]
    assert sorted(same) == sorted(name for name in made.network.state_dict() if name.startswith(UNREAD) or name == IDLE)
    assert (tmp_path / "run/samples/step_00000003.png").is_file()


def test_a_teacher_learns_its_adapter_and_then_everything(folder, tmp_path):
    weights, moved = run("teacher", folder, tmp_path / "adapter")
    first = load(weights).network
    assert moved == {
        name for name in names_of(first, "teacher") if name.startswith(tuple(f"teacher.network.{a}" for a in ADAPTER))
    }
    assert "teacher.network.latent_projection.rgb_head.down.weight" in moved
    start = load(folder / "pixeldit-2kto4k.safetensors").network.state_dict()
    assert all(torch.equal(first.state_dict()[name], weight) for name, weight in start.items())
    assert "rgb" in read_log(tmp_path / "adapter")[-1]

    weights, moved = run("teacher", folder, tmp_path / "all", trained="all", start=str(weights))
    assert moved == names_of(first, "teacher")
    second = load(weights)
    assert second.row == RECIPES["teacher"].ROW
    assert not torch.equal(second.network.final_proj.weight, first.final_proj.weight)


def test_a_student_learns_in_its_turn_and_its_critics_in_theirs_from_a_teacher_that_stays(folder, tmp_path):
    weights, moved = run("student", folder, tmp_path / "one", steps=1)
    assert moved == names_of(load(weights).network, "student") - {f"student.network.{IDLE}"}
    settings = {"steps": 2, "discriminator_rate": 1e-3, "fake_score_rate": 1e-3}
    weights, moved = run("student", folder, tmp_path / "two", **settings)
    made = load(weights)
    critics = {name for name in moved if not name.startswith("student.")}
    judge = {name for name in critics if name.startswith("discriminator.")}
    assert critics - judge == names_of(made.network, "fake_score")  # whose decay reaches what has no gradient
    assert len(judge) == 6
    assert made.row == RECIPES["student"].ROW
    assert made.network.final_proj.weight.dtype == torch.float32  # loaded as such; at rest
    logs = read_log(tmp_path / "two")
    assert [sorted(set(line) & {"vsd", "gan", "fake_score", "r1"}) for line in logs] == [
        ["gan", "vsd"],
        ["fake_score", "r1"],
    ]


def test_our_own_settings_of_a_distillation_change_its_losses(folder, tmp_path):
    settings = settings_of("student", folder, rollout=1.0, patch_logits=True, fidelity_weight=0.5)
    job = job_of("student", settings)
    draws = small_official.SampleDraws(0, 0, range(2))
    step = job.losses(job.draw(0, range(2)), 0, draws)
    assert set(step.losses) == {"vsd", "gan", "fidelity"}
    assert draws.asked["rollout_step"] == 1
    features = job.teacher(
        torch.zeros(1, 3, 64, 128),
        torch.zeros(1),
        torch.zeros(1, 128, 1, 2),
        torch.zeros(1),
        torch.zeros(1, 300, 12),
        after=(1,),
    )
    assert job.judge(features).shape == (1, 2 * 4)


@pytest.mark.parametrize(
    "part", ["teacher", pytest.param("prior", marks=pytest.mark.slow), pytest.param("student", marks=pytest.mark.slow)]
)
def test_a_broken_off_run_ends_bit_for_bit_as_the_unbroken_one(folder, tmp_path, part):
    run(part, folder, tmp_path / "unbroken", steps=4)
    run(part, folder, tmp_path / "broken", steps=2)
    run(part, folder, tmp_path / "broken", steps=4)
    (ours, facts), (theirs, other_facts) = saved(tmp_path / "broken"), saved(tmp_path / "unbroken")
    assert facts == other_facts
    assert '"stream"' in facts
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_a_run_cannot_begin_with_is_refused(folder):
    with pytest.raises(UsageError, match="latpix data pack"):
        job_of("teacher", settings_of("teacher", folder, shards=""))
    with pytest.raises(UsageError, match=r"of its weights are \d+ missing \(latent_projection"):
        job_of("student", settings_of("student", folder, teacher=f"{folder}/pixeldit-2kto4k.safetensors"))
    with pytest.raises(UsageError, match=r"strange or of another shape \(latent_projection"):
        job_of("prior", settings_of("prior", folder, start=f"{folder}/flux2-2kto4k-v1.5-teacher.safetensors"))
