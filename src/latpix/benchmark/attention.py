"""Attention alone, in a stock network's sizes: where a large picture's time goes."""

import torch
from torch import Tensor

from latpix.benchmark import plain
from latpix.benchmark.clock import Clock, Laps
from latpix.benchmark.measure import Comparison, Effort, Timing, agreement, alternate, timed
from latpix.benchmark.traffic import Traffic
from latpix.network import attention


def compare_attention(
    name: str, device: torch.device, dtype: str, effort: Effort, *, tokens: int, heads: int, width: int
) -> Comparison:
    """Self-attention of ``tokens``, with ``heads`` heads of ``width`` channels."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (3, 1, tokens, heads, width)
    q, k, v = torch.randn(shape, generator=generator, device=device).to(getattr(torch, dtype)).unbind(0)

    @torch.no_grad()
    def theirs(_laps: Laps) -> Tensor:
        return plain.attend(q, k, v)

    @torch.no_grad()
    def ours(_laps: Laps) -> Tensor:
        return attention.attend(q, k, v)

    runs, clock = {"plain": theirs, "ours": ours}, Clock(device)
    traffic = {run: Traffic() for run in runs}
    results = {}
    for run in runs:
        with traffic[run]:
            results[run], _ = timed(traffic[run], runs[run])
    largest, mean = agreement(name, dtype, results["plain"], results["ours"])
    cold = {run: sum(timed(clock, runs[run])[1].by_stage().values()) for run in runs}
    laps = alternate(clock, runs, effort)

    def timing(run: str) -> Timing:
        return Timing(
            dtype=dtype,
            seconds=tuple(sum(one.by_stage().values()) for one in laps[run]),
            cold_seconds=cold[run],
            stages={},
            traffic=traffic[run].bytes,
            attention=traffic[run].backend,
        )

    return Comparison(
        name=name,
        case=None,
        plain=timing("plain"),
        ours=timing("ours"),
        largest_difference=largest,
        mean_difference=mean,
        operations=4 * tokens**2 * heads * width,
    )
