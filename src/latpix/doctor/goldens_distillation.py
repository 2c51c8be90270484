"""Recompute goldens of the distillation's losses and of the discriminator.

Letters: b batch.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from latpix.doctor.family import Case, Golden, Tensors, exact
from latpix.doctor.goldens_objectives import gradient, value
from latpix.training.discriminator import Discriminator
from latpix.training.dmd_losses import fake_score_loss, gan_discriminator_loss, gan_student_loss, vsd_loss

WEIGHTS = "w."


def run_losses(golden: Golden) -> Iterator[Case]:
    """Each loss and its gradient."""
    groups = golden.groups()
    for case in ("vsd", "vsd_nan"):
        if case in groups:
            held = {**groups["vsd"], **groups[case]}  # the second case has the first one's student
            student = held["student"].clone().requires_grad_()
            loss = vsd_loss(student, held["teacher"], held["fake"])
            yield case, _with_gradients(loss, held["loss"], {student: held["grad"]})
    if "dsm" in groups:
        held = groups["dsm"]
        output = held["pred"].clone().requires_grad_()
        loss = fake_score_loss(output, torch.zeros_like(output), held["target"])
        yield "dsm", _with_gradients(loss, held["loss"], {output: held["grad"]})
    if "gan_g" in groups:
        held = groups["gan_g"]
        logits = held["fake_logits"].clone().requires_grad_()
        yield "gan_g", _with_gradients(gan_student_loss(logits), held["loss"], {logits: held["grad"]})
    if "gan_d" in groups:
        held = groups["gan_d"]
        fake, real = held["fake"].clone().requires_grad_(), held["real"].clone().requires_grad_()
        expected = {fake: held["grad_fake"], real: held["grad_real"]}
        yield "gan_d", _with_gradients(gan_discriminator_loss(fake, real), held["loss"], expected)


def _with_gradients(loss: Tensor, expected: Tensor, gradients: dict[Tensor, Tensor]) -> float:
    loss.backward()
    errors = [value(tensor.grad, wanted) for tensor, wanted in gradients.items() if tensor.grad is not None]
    assert len(errors) == len(gradients)
    return max(value(loss, expected), *errors)


def run_discriminator(golden: Golden) -> Iterator[Case]:
    """Logits of each head, the gradients of their squares' sum, and the groups of every norm."""
    for tag, held in golden.groups().items():
        if "logits" not in held:
            continue
        features = [held[f"feat{tap}"].clone().requires_grad_() for tap in range(_taps(held))]
        network = discriminator_of(
            {name.removeprefix(WEIGHTS): tensor for name, tensor in held.items() if name.startswith(WEIGHTS)},
            patch_logits=held["logits"].shape[1] != len(features),
        )
        logits = network(features)
        logits.square().sum().backward()
        groups = [module.num_groups for module in network.modules() if isinstance(module, nn.GroupNorm)]
        errors = [value(logits, held["logits"]), exact(torch.tensor(groups), held["groups"])]
        for tap, feature in enumerate(features):
            errors.append(gradient(feature.grad, held[f"grad_feat{tap}_of_sumsq"]))
        yield tag, max(errors)


def _taps(held: Tensors) -> int:
    return sum(name.startswith("feat") for name in held)


def discriminator_of(weights: Tensors, *, patch_logits: bool = False) -> Discriminator:
    """The discriminator whose weights these are, loaded strictly."""
    kernels = {tuple(name.split(".")[1:3]): weight for name, weight in weights.items() if weight.ndim == 4}
    heads = sorted({int(head) for head, _ in kernels})
    channels = [kernels[(str(head), "0")].shape[1] for head in heads]
    layers = sum(head == "0" for head, _ in kernels)
    network = Discriminator(channels, layers=layers, patch_logits=patch_logits)
    network.load_state_dict(weights)
    return network.to(next(iter(weights.values())).device)
