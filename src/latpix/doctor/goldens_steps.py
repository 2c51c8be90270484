"""Recompute goldens of whole training steps with the toy network: the teacher's, the student's, the critic's."""

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from latpix.data.pictures import reduced
from latpix.doctor.family import Case, Golden, Tensors, exact
from latpix.doctor.goldens_distillation import discriminator_of
from latpix.doctor.goldens_objectives import gradient, value
from latpix.doctor.toy_network import ToyNetwork
from latpix.sampling.samplers import sample_ode, sample_renoise
from latpix.sampling.schedules import DynamicShift, student_times
from latpix.training.alternation import gan_weight, is_students_turn, student_updates
from latpix.training.dmd import DistillSettings, critic_step, student_step
from latpix.training.draws import Recorded
from latpix.training.given import Given
from latpix.training.student_samples import Way, student_sample
from latpix.training.teacher_step import TeacherSettings, teacher_step

SCALE, CELL, BASE = 4, 2, 6.0  # of the teacher's step: output / native side, the toy VAE's pooling, the shift
AT = "gan_weight_at_iter"  # the start of a name that ends in the iteration
ROLLOUTS: dict[str, Way] = {"sde": "renoise", "ode": "ode"}


def run_teacher_step(golden: Golden) -> Iterator[Case]:
    """One complete step: losses, what the network was fed, and every gradient."""
    groups, given = golden.groups(), golden.tensors
    network = ToyNetwork.of(groups["net"])
    native = reduced(given["image"], SCALE)
    latent = torch.einsum("ij, bjhw -> bihw", groups["vae"]["E"], F.avg_pool2d(native, CELL))
    draws = Recorded(
        {
            "apply": given["u_apply"],
            "sigma": given["u_sigma"],
            "latent_noise": given["eps_latent"],
            "drop_latent": given["lq_keep"],  # 1 is above every chance of being dropped, 0 below
            "time": given["z_t"],
            "noise": given["eps_pixel"],
        }
    )
    step = teacher_step(
        network,
        given["image"],
        latent,
        draws,
        TeacherSettings(shift=DynamicShift(base=BASE, reference=int(given["dynamic_base_size"]))),
        caption=given["text"],
        native=native,
        predict_rgb=network.rgb,
    )
    step.total.backward()
    out = groups["out"]
    yield (
        "losses",
        max(
            value(step.losses["flow"], out["diffusion_loss"]),
            value(step.losses["rgb"], out["aux_loss"]),
            value(step.total, out["total"]),
        ),
    )
    yield (
        "inputs",
        max(
            value(step.seen["x_t"], out["x_t"]),
            value(1000 * step.seen["t"], out["t_to_network"]),
            value(step.seen["latent"], out["lq_latent_to_network"]),
            value(step.seen["latent_sigma"], out["degrade_sigma"]),
        ),
    )
    yield "gradients", gradients(network, groups["grad"])


def gradients(network: ToyNetwork, expected: Tensors) -> float:
    """The largest error of a toy network's gradients."""
    return max(gradient(network.weights[letter].grad, wanted) for letter, wanted in expected.items())


def run_distill_steps(golden: Golden) -> Iterator[Case]:
    """The student's step, the critics', rollouts, decodes, schedules, and whose turn it is."""
    groups = golden.groups()
    settings = settings_of(groups)
    if "student_gan" in groups:
        yield "student_gan", max(_student(golden, settings, "student_gan", gan=True))
    if "student_nogan_cfg1" in groups:
        plain = replace(settings, guidance_scale=1.0)
        yield "student_nogan_cfg1", max(_student(golden, plain, "student_nogan_cfg1", gan=False))
    if "fake_step" in groups:
        yield "fake_step", max(_critics(golden, settings))
    for name, way in ROLLOUTS.items():
        if f"{name}.x0" in groups.get("rollout", {}):
            yield f"rollout.{name}", max(_rollout(golden, settings, name, way))
    for name, expected in groups.get("sample", {}).items():
        if not name.startswith("eps"):
            yield f"sample.{name}", value(_decode(golden, settings, name), expected)
    for name, expected in groups.get("t_list", {}).items():
        if name == "1":
            continue  # a single step starts at 1 and uses no schedule
        steps = int(name.removeprefix("uniform"))
        yield f"t_list.{name}", value(student_times(None if name != str(steps) else settings.times, steps), expected)
    if "phase" in groups:
        yield "phase", max(_turns(groups["phase"]))
    if "gan_weight" in groups:
        given = groups["gan_weight"]
        weights = [gan_weight(int(i), settings.gan_weight, settings.gan_warm_up) for i in given["iter"]]
        yield "gan_weight", value(torch.tensor(weights, dtype=torch.float64), given["value"])


def settings_of(groups: dict[str, Tensors]) -> DistillSettings:
    """The golden's scalars; what it does not say is as in the releases."""
    scalars = {name: float(scalar) for name, scalar in groups["cfg"].items()}
    return DistillSettings(
        times=tuple(groups["t_list"]["4"].tolist()),
        guidance_scale=scalars["teacher_cfg"],
        gan_weight=scalars["gan_weight"],
        gan_warm_up=int(scalars["gan_warmup"]),
        r1_weight=scalars["r1_weight"],
        r1_noise=scalars["r1_alpha"],
    )


def _given(golden: Golden) -> Given:
    return Given(golden.tensors["lq_latent"], golden.tensors["degrade_sigma"], golden.tensors["text"])


def _draws(golden: Golden) -> Recorded:
    names = {
        "student_noise": "eps_student",
        "student_step": "student_step_ids",
        "time": "z_t",
        "perturb_noise": "eps_perturb",
        "r1_noise": "eps_r1",
    }
    return Recorded({ours: golden.tensors[theirs] for ours, theirs in names.items()})


def _student(golden: Golden, settings: DistillSettings, case: str, *, gan: bool) -> Iterator[float]:
    groups = golden.groups()
    student, teacher, fake = (ToyNetwork.of(groups[role]) for role in ("student", "teacher", "fake"))
    judge = discriminator_of(groups["disc"])
    iteration = int(groups["cfg"]["iteration"])
    step = student_step(
        student,
        teacher,
        fake,
        golden.tensors["x0"],
        _given(golden),
        _draws(golden),
        settings,
        iteration=iteration,
        null_caption=golden.tensors["null_text"],
        features=teacher.features if gan else None,
        discriminator=judge if gan else None,
    )
    step.total.backward()
    expected = groups[case]
    yield value(step.losses["vsd"], expected["vsd_loss"])
    yield value(step.total, expected["total"])
    for ours, theirs in {"x0": "x0_student", "x0_teacher": "x0_teacher", "x0_fake": "x0_fake"}.items():
        yield value(step.seen[ours], expected[theirs])
    yield gradients(student, _gradients_in(expected, "grad_student"))
    if gan:
        yield value(step.losses["gan"], expected["gan_loss_gen"])
        for name in expected:
            if name.startswith(AT):
                at = int(name.removeprefix(AT))
                yield value(gan_weight(at, settings.gan_weight, settings.gan_warm_up), expected[name])


def _critics(golden: Golden, settings: DistillSettings) -> Iterator[float]:
    groups = golden.groups()
    student, teacher, fake = (ToyNetwork.of(groups[role]) for role in ("student", "teacher", "fake"))
    judge = discriminator_of(groups["disc"])
    step = critic_step(
        student,
        fake,
        golden.tensors["x0"],
        _given(golden),
        _draws(golden),
        settings,
        features=teacher.features,
        discriminator=judge,
    )
    step.total.backward()
    expected = groups["fake_step"]
    names = {"fake_score": "dsm_loss", "discriminator": "gan_loss_disc", "r1": "gan_loss_r1"}
    for ours, theirs in names.items():
        yield value(step.losses[ours], expected[theirs])
    yield value(step.total, expected["total"])
    yield gradients(fake, _gradients_in(expected, "grad_fake"))
    weights = dict(judge.named_parameters())
    for name, wanted in _gradients_in(expected, "grad_disc").items():
        yield gradient(weights[name].grad, wanted)


def _gradients_in(held: Tensors, group: str) -> Tensors:
    return {name.removeprefix(f"{group}."): grad for name, grad in held.items() if name.startswith(f"{group}.")}


def _rollout(golden: Golden, settings: DistillSettings, name: str, way: Way) -> Iterator[float]:
    """The picture that the student makes of its own state, and the gradients of its squares' sum."""
    groups, given = golden.groups(), golden.tensors
    held = groups["rollout"]
    student = ToyNetwork.of(groups["student"])
    draws = {"student_noise": given["eps_student"][:1], "rollout_step": held["grad_step_idx"]}
    draws |= {name.replace("eps", "renoise"): noise for name, noise in held.items() if name.startswith("eps")}
    x0 = student_sample(
        student,
        given["x0"][:1],
        Given(given["lq_latent"][:1], given["degrade_sigma"][:1], given["text"][:1]),
        torch.tensor(settings.times, device=given["x0"].device),
        Recorded(draws),
        rollout=1.0,
        way=way,
    )
    x0.square().sum().backward()
    yield value(x0, held[f"{name}.x0"])
    yield gradients(student, _gradients_in(held, f"{name}.grad_of_sumsq"))


def _decode(golden: Golden, settings: DistillSettings, name: str) -> Tensor:
    groups, given = golden.groups(), _given(golden)
    student = ToyNetwork.of(groups["student"], trained=False)

    def noise(draw: int) -> Tensor:
        return golden.tensors["eps_student"] if draw == 0 else groups["sample"][f"eps{draw - 1}"]

    ode = name.startswith("ode")
    steps = 1 if name.startswith("one_step") else int(name[3:])
    sample = sample_ode if ode else sample_renoise
    return sample(lambda x_t, t: given.ask(student, x_t, t), noise, student_times(settings.times, steps))


def _turns(phase: Tensors) -> Iterator[float]:
    for name, expected in phase.items():
        iterations = range(len(expected))
        if name.startswith("is_student"):
            yield exact(torch.tensor([int(is_students_turn(i)) for i in iterations]), expected)
        elif name.startswith("ema_iteration"):
            yield exact(torch.tensor([student_updates(i) for i in iterations]), expected)
