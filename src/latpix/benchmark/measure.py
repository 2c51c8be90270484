"""Time a case: the plain implementation and ours in turn, in one process, after a look at whether they agree."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from latpix.benchmark import plain, plain_base, plain_sampling
from latpix.benchmark.cases import Case, Given, decoder_of, inputs_of
from latpix.benchmark.clock import Clock, Laps, Meter, watching
from latpix.benchmark.traffic import Traffic
from latpix.decoder import Decoder
from latpix.errors import BenchmarkError
from latpix.network.config import NetworkConfig
from latpix.operations import base_operations, call_operations
from latpix.sampling.noise import noise_field

SEED = 0
# Of the pictures, whose values are in [-1, 1]: the mean difference that rounding in each type explains, with room.
AGREEMENT = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 1e-2}
ONCE = {"base", "latent", "heads"}  # stages that ours runs once, the plain implementation at every step but for "base"

Run = Callable[[Laps], Tensor]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How often a case runs."""

    warm_ups: int
    runs: int
    seconds: float = float("inf")  # of one contestant's timed runs, after which there are no more; three at least


EFFORTS = {"cpu": Effort(warm_ups=1, runs=2), "gpu": Effort(warm_ups=2, runs=10, seconds=20.0)}


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One contestant's decodes. Of a shortened case they are those of the whole network, by its stages."""

    dtype: str
    seconds: tuple[float, ...]  # of a decode
    cold_seconds: float  # the first run as it was, the counting of bytes included
    stages: Mapping[str, float]  # seconds of a decode; empty where nobody watched
    traffic: int  # bytes of a decode
    attention: str

    @property
    def typical(self) -> float:
        """Median seconds of a decode."""
        return median(self.seconds)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The plain implementation and ours on one case."""

    name: str
    case: Case | None  # None: a part alone
    plain: Timing
    ours: Timing
    largest_difference: float
    mean_difference: float
    operations: int  # of a decode, as the plain algorithm has it


def compare(
    case: Case, device: torch.device, dtypes: tuple[str, ...], effort: Effort, *, watch: bool = False
) -> list[Comparison]:
    """Time a case in each type; on a CPU the plain implementation is float32, elsewhere autocast to the first type.

    Args:
        case: what is decoded.
        device: where; its threads are the caller's to set.
        dtypes: of ours.
        effort: how often.
        watch: time the stages too; a shortened case is always watched.

    Raises:
        BenchmarkError: ours computes something else than the plain implementation.
    """
    watch = watch or case.whole is not None
    original = decoder_of(case, device, "float32")
    given = inputs_of(case, device)
    decoders = {dtype: original if dtype == "float32" else decoder_of(case, device, dtype) for dtype in dtypes}
    plain_dtype = "float32" if device.type == "cpu" else dtypes[0]
    runs: dict[str, Run] = {"plain": plain_run(case, original, given, plain_dtype)}
    runs |= {dtype: our_run(case, decoder, given, watch=watch) for dtype, decoder in decoders.items()}
    clock = Clock(device)
    traffic = {name: Traffic() for name in runs}
    pictures, moved, cold = {}, {}, {}
    for name, run in runs.items():
        start = clock.now()
        with traffic[name]:
            pictures[name], moved[name] = timed(traffic[name], run)
        end = clock.now()
        clock.wait()
        cold[name] = clock.between(start, end)
    differences = {dtype: agreement(case.name, dtype, pictures["plain"], pictures[dtype]) for dtype in dtypes}
    pictures.clear()
    for _ in range(effort.warm_ups - 1):
        for run in runs.values():
            timed(clock, run)
    laps_of = alternate(clock, runs, effort)

    def timing(name: str) -> Timing:
        once = ONCE if name != "plain" else {"base"}
        stages = [whole_decode(case, laps.by_stage(), once) for laps in laps_of[name]]
        mean = {stage: sum(one[stage] for one in stages) / len(stages) for stage in stages[0]}
        return Timing(
            dtype=plain_dtype if name == "plain" else name,
            seconds=tuple(sum(one.values()) for one in stages),
            cold_seconds=cold[name],
            stages={stage: seconds for stage, seconds in mean.items() if seconds} if watch else {},
            traffic=int(sum(whole_decode(case, moved[name].by_stage(), once).values())),
            attention=traffic[name].backend,
        )

    theirs = timing("plain")
    return [
        Comparison(
            name=case.name,
            case=case,
            plain=theirs,
            ours=timing(dtype),
            largest_difference=differences[dtype][0],
            mean_difference=differences[dtype][1],
            operations=decode_operations(case),
        )
        for dtype in dtypes
    ]


def plain_run(case: Case, decoder: Decoder, given: Given, dtype: str) -> Run:
    """A decode by the plain implementation, with the decoder's weights in float32."""
    device, config, sampling = decoder.device, decoder.network.config, case.row.sampling
    # Fresh leaves that ask for gradients: autocast keeps its copies of no others, and upstream's are such.
    parameters = {name: nn.Parameter(value.data) for name, value in decoder.network.named_parameters()}
    noise = noise_field([SEED], 3, case.height, case.width, device=device)
    times = plain_sampling.student_times(sampling.times, case.steps).to(device)
    sigma = torch.zeros(1, device=device)
    lower = dtype != "float32"

    @torch.no_grad()
    def run(laps: Laps) -> Tensor:
        see = laps.seeing(config)
        with torch.autocast(device.type, getattr(torch, dtype)) if lower else nullcontext():
            image = None
            if config.base_widths:
                image = plain_base.paint_base(config, parameters, given.latent, sigma)
                laps.done("base")

            def predict(x_t: Tensor, timestep: Tensor) -> Tensor:
                return plain.predict(
                    config,
                    parameters,
                    x_t,
                    timestep,
                    latent=given.latent,
                    latent_sigma=sigma,
                    caption=given.caption,
                    image=image,
                    see=see,
                )

            return plain_sampling.sample_student(
                predict, noise, times, kind=sampling.sampler, prediction=sampling.prediction
            )

    return run


def our_run(case: Case, decoder: Decoder, given: Given, *, watch: bool) -> Run:
    """A decode as a user asks for it."""

    def run(laps: Laps) -> Tensor:
        with watching(decoder.network, laps) if watch else nullcontext():
            return decoder.decode(
                given.latent, caption=given.caption, latent_sigma=0.0, seed=SEED, steps=case.steps, tile="off"
            )

    return run


def timed(meter: Meter, run: Run) -> tuple[Tensor, Laps]:
    """One run, and its laps, the last of which ends with it."""
    meter.wait()
    laps = Laps(meter)
    picture = run(laps)
    laps.done("rest")
    meter.wait()
    return picture, laps


def alternate(clock: Clock, runs: Mapping[str, Run], effort: Effort) -> dict[str, list[Laps]]:
    """The timed runs: each contestant in turn, then all of them again."""
    found: dict[str, list[Laps]] = {name: [] for name in runs}
    spent = dict.fromkeys(runs, 0.0)
    for _ in range(effort.runs):
        for name, run in runs.items():
            if spent[name] < effort.seconds or len(found[name]) < 3:
                found[name].append(timed(clock, run)[1])
                spent[name] += sum(found[name][-1].by_stage().values())
    return found


def agreement(name: str, dtype: str, expected: Tensor, actual: Tensor) -> tuple[float, float]:
    """The largest and the mean difference.

    Raises:
        BenchmarkError: more than rounding explains.
    """
    difference = (actual.float() - expected.float()).abs()
    largest, mean = float(difference.max()), float(difference.mean())
    if not mean <= AGREEMENT[dtype]:
        raise BenchmarkError(
            f"{name} in {dtype}: the result differs from the plain implementation's by {mean:.3g} in the mean "
            f"({largest:.3g} at most), and rounding explains {AGREEMENT[dtype]:g}. How fast it is does not matter: run "
            "`latpix doctor --goldens DIR` to find what computes wrongly."
        )
    return largest, mean


def whole_decode(case: Case, stages: Mapping[str, float], once: set[str]) -> dict[str, float]:
    """Seconds, or bytes, by stage of the whole network's decode in all its steps, from a shortened one's single."""
    if case.whole is None:
        return dict(stages)
    short, whole = case.row.network, case.whole
    more = {
        "patch": (whole.depth - 1) / (short.depth - 1),
        "pixel": whole.pixel_depth / short.pixel_depth,
        **dict.fromkeys(("gates", "heads"), _gates(whole) / _gates(short)),
    }
    steps = case.row.sampling.steps
    return {stage: found * more.get(stage, 1) * (1 if stage in once else steps) for stage, found in stages.items()}


def _gates(config: NetworkConfig) -> int:
    return config.latent_outputs + config.pixel_gate


def decode_operations(case: Case) -> int:
    """Of the whole decode by the plain algorithm."""
    config = case.whole or case.row.network
    rows, columns = case.height // config.patch_size, case.width // config.patch_size
    steps = case.steps if case.whole is None else case.row.sampling.steps
    return steps * call_operations(config, rows, columns).total + base_operations(config, *case.cells)
