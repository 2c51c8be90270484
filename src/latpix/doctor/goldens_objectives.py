"""Recompute goldens of single objectives: flow matching, latent noising, native pictures, the RGB loss, the average.

Letters: b batch.
"""

from collections.abc import Iterator
from itertools import cycle, islice

import torch
from torch import Tensor

from latpix.data.pictures import reduced
from latpix.doctor.family import Case, Golden, Tensors, skip
from latpix.doctor.rows import error_in_tolerances
from latpix.latents.noising import edm_to_vp
from latpix.latents.spaces import NoisingRule
from latpix.sampling.paths import Prediction, x0_of
from latpix.sampling.schedules import DynamicShift
from latpix.training.auxiliary_rgb import auxiliary_rgb_loss, to_ycc
from latpix.training.draws import Recorded
from latpix.training.ema import average_decay, power_exponent, update_average
from latpix.training.flow_matching import flow_matching
from latpix.training.given import Given, per_pixel
from latpix.training.latent_noising import LatentNoising, noise_latents
from latpix.training.learning_rate import warm_up
from latpix.training.times import logit_normal, power_law, shift_times

RULES: dict[str, NoisingRule] = {"flow_matching": "flow", "sdxl": "vp"}
# From the goldens' README; what a file does not say of itself.
NOISINGS = {
    "default": {"chance": 0.75, "least": 0.0, "most": 0.8},
    "cleanratio": {"chance": 1.0, "clean_ratio": 0.1, "least": 0.2, "most": 1.0},
    "override": {"by_source": (("pdf", 0.1, 0.2), ("dataA", 0.5, 0.6))},
    "none_applied": {},
}
SOURCES = ["/r/dataA/x", "/r/dataB/x", "/r/pdf_dataA/x", "/r/zzz", "/r/dataA/y", "/r/pdf/z"]
NONE_APPLIED = 0.99  # every draw of that case


def value(actual: Tensor | float, expected: Tensor) -> float:
    """The error of a value, in units of the goldens' tolerance."""
    return error_in_tolerances(_like(actual, expected), expected, rtol=2e-5, atol=2e-6)


def gradient(actual: Tensor | None, expected: Tensor) -> float:
    """The error of a gradient; none at all stands for zero."""
    found = torch.zeros_like(expected) if actual is None else actual
    return error_in_tolerances(found, expected, rtol=1e-3, atol=1e-6)


def _like(actual: Tensor | float, expected: Tensor) -> Tensor:
    return actual.detach() if isinstance(actual, Tensor) else torch.tensor(actual, dtype=torch.float64)


def run_flow_matching(golden: Golden) -> Iterator[Case]:
    """Times, shifts, and the loss of a network that puts out velocity or x0."""
    groups = golden.groups()
    for name, expected in groups.get("ln", {}).items():
        if name.startswith("t_mean"):
            mean, std = name.removeprefix("t_mean").split("_std")
            yield f"ln.{name}", value(logit_normal(groups["ln"]["z"], mean=float(mean), std=float(std)), expected)
    for name, expected in groups.get("power", {}).items():
        if name.startswith("t_k"):
            yield f"power.{name}", value(power_law(groups["power"]["u"], float(name.removeprefix("t_k"))), expected)
    if "shift" in groups:
        t, shifts, expected = (groups["shift"][name] for name in ("t", "s", "out"))
        made = torch.stack([shift_times(t, float(shift)) for shift in shifts])
        yield "shift", value(made, expected)
    for name, expected in groups.get("dynshift", {}).items():
        if name.startswith("base"):
            base, reference = name.removeprefix("base").split("_")
            rule = DynamicShift(base=float(base), reference=int(reference))
            made = torch.tensor([rule.at(height, width) for height, width in groups["dynshift"]["hw"].tolist()])
            yield f"dynshift.{name}", value(made, expected)
    if "fm" in groups:
        yield "fm", max(_matched(groups["fm"], groups["fm"], "velocity"))
        if "fmx0" in groups:
            yield "fmx0", max(_matched(groups["fm"], groups["fmx0"], "x0"))


def _matched(pictures: Tensors, golden: Tensors, prediction: Prediction) -> Iterator[float]:
    """One loss, its gradient, and all on the way to it."""
    x0, noise, t = pictures["x0"], pictures["eps"], golden["t"]
    output = golden["net_v" if prediction == "velocity" else "net_x0"].clone().requires_grad_()
    asked = []

    def network(_x_t: Tensor, timestep: Tensor, *_given: Tensor | None) -> Tensor:
        asked.append(timestep)
        return output

    given = Given(x0.new_zeros(len(x0), 1, 1, 1), torch.zeros_like(t))
    loss, x_t = flow_matching(network, x0, noise, t, given, prediction)
    loss.backward()
    yield value(loss, golden["loss"])
    yield value(x_t, golden["x_t"])
    yield gradient(output.grad, golden["grad_net_v" if prediction == "velocity" else "grad"])
    if prediction == "velocity":
        yield value(asked[0], golden["t_to_network"])
        yield value(noise - x0, golden["target_v"])
        yield value(x0_of("velocity", x_t, per_pixel(t), output), golden["x0_pred"])


def run_latent_noising(golden: Golden) -> Iterator[Case]:
    """Noised latents and their levels, per rule and setting; and SDXL's states."""
    tensors = golden.tensors
    latent, applied = tensors["latent"], tensors["u_apply"]
    sources = list(islice(cycle(SOURCES), len(latent)))
    for group, held in golden.groups().items():
        if group == "euler2vp":
            yield from _converted(latent, held)
            continue
        for name in sorted(name for name in held if name.endswith("sigma")):
            case = f"{group}.{name}".removesuffix(".sigma")
            settings = NOISINGS.get(case.rpartition(".")[2])
            if settings is None:
                skip(golden.folder / f"{golden.name}: {case}", "settings that are not known here")
                continue
            draws = Recorded(
                {
                    "apply": torch.full_like(applied, NONE_APPLIED) if case == "none_applied" else applied,
                    "clean": tensors["u_clean"],
                    "sigma": tensors["u_sigma"],
                    "latent_noise": tensors["eps"],
                }
            )
            noising = LatentNoising(rule=RULES.get(group, "flow"), **settings)  # type: ignore[arg-type]
            noised, latent_sigma = noise_latents(latent, draws, noising, sources if case == "override" else None)
            yield case, max(value(noised, tensors[f"{case}.latent"]), value(latent_sigma, tensors[f"{case}.sigma"]))


def _converted(latent: Tensor, held: Tensors) -> Iterator[Case]:
    """The batch's first latent, taken as a state of SDXL's scheduler at several of its sigmas."""
    for number in sorted({name.partition(".")[0] for name in held}):
        sigmas = held[f"{number}.sigma_in_out"]
        vp, latent_sigma = edm_to_vp(latent[:1], float(sigmas[0]))
        yield f"euler2vp.{number}", max(value(vp, held[f"{number}.latent"]), value(latent_sigma, sigmas[1]))


def run_native_and_rgb(golden: Golden) -> Iterator[Case]:
    """Pictures at native size, the RGB loss, and its colours."""
    groups = golden.groups()
    for name, expected in groups.get("down", {}).items():
        source, _, scale = name.rpartition("x")
        if scale.isdecimal():
            pixels = groups["down"][source.rstrip("_") or "hq"]
            yield f"down.{name}", value(reduced(pixels, int(scale)), expected)
    if "ycc" in groups:
        yield "ycc", value(to_ycc(groups["ycc"]["rgb"]), groups["ycc"]["out"])
    aux = groups.get("aux", {})
    for case in sorted(name.removesuffix(".loss") for name in aux if name.endswith(".loss")):
        predicted, target, latent_sigma, keep = aux["pred"].clone(), aux["target"], aux["sigma"], aux["keep"].float()
        arguments = {
            "full": (target, latent_sigma, keep),
            "nomask": (target, None, None),
            "zero_target_row1": (target.index_fill(0, torch.tensor([1], device=target.device), 0), latent_sigma, None),
            "area_resized": (aux["target_16"], latent_sigma, keep),
        }.get(case)
        if arguments is None:
            skip(golden.folder / f"{golden.name}: {case}", "arguments that are not known here")
            continue
        loss = auxiliary_rgb_loss(predicted.requires_grad_(), *arguments)
        loss.backward()
        yield f"aux.{case}", max(value(loss, aux[f"{case}.loss"]), gradient(predicted.grad, aux[f"{case}.grad"]))


def run_average_and_warm_up(golden: Golden) -> Iterator[Case]:
    """The average's exponents and decays, a run of updates, and the learning rate's rise."""
    groups = golden.groups()
    ema = groups.get("ema", {})
    for rate in sorted(name.removesuffix(".gamma") for name in ema if name.endswith(".gamma")):
        exponent = power_exponent(float(rate))
        decays = torch.tensor([average_decay(int(n), exponent) for n in ema["iters"]], dtype=torch.float64)
        yield f"ema.{rate}", max(value(exponent, ema[f"{rate}.gamma"]), value(decays, ema[f"{rate}.beta"]))
    if "seq.params" in ema:
        yield "ema.seq", _averaged(ema)
    lr = groups.get("lr", {})
    for name in sorted(name for name in lr if name.startswith("warm")):
        rates = [warm_up(int(n), int(name.removeprefix("warm"))) for n in lr["steps"]]
        yield f"lr.{name}", value(torch.tensor(rates, dtype=torch.float64), lr[name])


def _averaged(ema: Tensors) -> float:
    average = torch.cat([ema["seq.target_init.weight"].flatten(), ema["seq.target_init.bias"]])
    exponent, rows = power_exponent(), []
    for n, weights in enumerate(ema["seq.params"]):
        update_average([average], [weights], average_decay(n, exponent))
        rows.append(average.clone())
    return value(torch.stack(rows), ema["seq.ema"])
