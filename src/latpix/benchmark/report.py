"""What a benchmark says: the document for programs, the table for people, and the comparison with an earlier one."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from latpix import __version__
from latpix.benchmark.cases import Case
from latpix.benchmark.ceilings import Ceilings
from latpix.benchmark.measure import Comparison, Timing
from latpix.benchmark.peak import Peak

SLOWER, LARGER = 0.05, 0.03  # shares above an earlier run that are no accident
MIB = 2**20
COLUMNS = (
    "case", "type", "ms", "a step", "plain, ms", "ratio", "peak over weights, MiB", "TFLOP", "GFLOP/s", "of matmul",
    "of copy",
)  # fmt: skip


def head(device: str, preset: str, ceilings: Ceilings) -> dict[str, Any]:
    """What holds for all cases."""
    on_cpu = preset == "cpu"
    return {
        "device": device,
        "preset": preset,
        "clock": "process time, one thread" if on_cpu else "device events",
        "versions": {"latpix": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "matmul_flops": {dtype: round(rate) for dtype, rate in ceilings.matmul.items()},
        "copy_bytes_per_second": round(ceilings.bandwidth),
        "datasheet_flops": ceilings.datasheet,
        "cases": [],
        "memory": [],
    }


def row_of(found: Comparison, peak: Peak | None, ceilings: Ceilings) -> dict[str, Any]:
    """One case in one type. Rates and shares take the plain algorithm's operations, whatever ours skips."""
    ours, theirs, seconds = found.ours, found.plain, found.ours.typical
    case, steps = found.case, _steps(found.case)
    rate = found.operations / seconds
    return {
        "name": found.name,
        "dtype": ours.dtype,
        "height": case and case.height,
        "width": case and case.width,
        "steps": steps,
        "weights": case and ("random" if case.weights == "random" else case.row.name),
        "extrapolated_from": case and case.whole and case.row.name,
        "ms": 1000 * seconds,
        "ms_per_step": 1000 * seconds / steps,
        "p90_ms": 1000 * _p90(ours.seconds),
        "spread": (max(ours.seconds) - min(ours.seconds)) / seconds,
        "runs": len(ours.seconds),
        "cold_ms": 1000 * ours.cold_seconds,
        "pictures_per_second": 1 / seconds,
        "peak_bytes": peak and peak.over_weights,
        "weight_bytes": peak and peak.weights,
        "process_bytes": peak and peak.process,
        "flops": found.operations,
        "flops_per_second": rate,
        "share_of_peak": rate / ceilings.matmul[ours.dtype],
        "share_of_datasheet": ceilings.datasheet and rate / ceilings.datasheet,
        "traffic_bytes": ours.traffic,
        "share_of_bandwidth": ours.traffic / seconds / ceilings.bandwidth,
        "plain_dtype": theirs.dtype,
        "plain_ms": 1000 * theirs.typical,
        "plain_traffic_bytes": theirs.traffic,
        "ratio_to_plain": theirs.typical / seconds,
        "largest_difference": found.largest_difference,
        "mean_difference": found.mean_difference,
        "attention": ours.attention,
        "stages_ms": _stages(ours),
        "plain_stages_ms": _stages(theirs),
    }


def memory_row(case: Case, dtype: str, peak: Peak) -> dict[str, Any]:
    """One decode of which only the memory was measured."""
    return {
        "name": case.name,
        "dtype": dtype,
        "height": case.height,
        "width": case.width,
        "network": case.row.name,
        "peak_bytes": peak.over_weights,
        "weight_bytes": peak.weights,
        "process_bytes": peak.process,
    }


def table(document: Mapping[str, Any]) -> str:
    """Markdown."""
    matmul = ", ".join(f"{dtype} {rate / 1e9:.0f}" for dtype, rate in document["matmul_flops"].items())
    lines = [
        f"{document['device']}, {document['clock']}; matrix products {matmul} GFLOP/s, "
        f"copy {document['copy_bytes_per_second'] / 1e9:.1f} GB/s",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "| --- " * len(COLUMNS) + "|",
    ]
    for row in document["cases"]:
        peak = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / MIB:.0f}"
        lines.append(
            f"| {row['name']} | {row['dtype']} | {row['ms']:.4g} | {row['ms_per_step']:.4g} | {row['plain_ms']:.4g} "
            f"| {row['ratio_to_plain']:.2f} | {peak} | {row['flops'] / 1e12:.3g} | {row['flops_per_second'] / 1e9:.4g} "
            f"| {row['share_of_peak']:.0%} | {row['share_of_bandwidth']:.0%} |"
        )
    if document["memory"]:
        lines += ["", "| memory alone | type | peak over weights, MiB | weights, MiB |", "| --- " * 4 + "|"]
        lines += [
            f"| {row['name']} ({row['network']}) | {row['dtype']} | {row['peak_bytes'] / MIB:.0f} "
            f"| {row['weight_bytes'] / MIB:.0f} |"
            for row in document["memory"]
        ]
    return "\n".join(lines)


def profile(document: Mapping[str, Any]) -> str:
    """The share of each stage, ours and the plain implementation's; markdown."""
    lines = ["| case | type | stage | ms | share | plain, ms | share |", "| --- " * 7 + "|"]
    for row in document["cases"]:
        ours, theirs = row["stages_ms"], row["plain_stages_ms"]
        for stage in dict.fromkeys((*theirs, *ours)):
            cells = [
                f"{part[stage]:.4g} | {part[stage] / sum(part.values()):.1%}" if stage in part else "- | -"
                for part in (ours, theirs)
            ]
            lines.append(f"| {row['name']} | {row['dtype']} | {stage} | {' | '.join(cells)} |")
    return "\n".join(lines)


def regressions(document: Mapping[str, Any], earlier: Mapping[str, Any]) -> list[str] | None:
    """What is slower or larger than in an earlier document; None where that is of another class of device."""
    if earlier["device"] != document["device"]:
        return None
    before = {_key(row): row for row in _rows(earlier)}
    found = []
    for row in _rows(document):
        old = before.get(_key(row))
        for key, unit, size, room in (("ms", "ms", 1, SLOWER), ("peak_bytes", "MiB", MIB, LARGER)):
            was, now = (one.get(key) if one else None for one in (old, row))
            if was and now and now > (1 + room) * was:
                found.append(
                    f"{row['name']} in {row['dtype']}: {now / size:.4g} {unit}, {now / was - 1:.1%} above "
                    f"{was / size:.4g} {unit}; {room:.0%} is allowed"
                )
    return found


def _rows(document: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return [*document["cases"], *document["memory"]]


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["name"], row["dtype"]


def _steps(case: Case | None) -> int:
    return 1 if case is None else case.steps if case.whole is None else case.row.sampling.steps


def _p90(seconds: Sequence[float]) -> float:
    """The time that nine of ten runs keep to."""
    return sorted(seconds)[-(-9 * len(seconds) // 10) - 1]


def _stages(timing: Timing) -> dict[str, float]:
    return {stage: 1000 * seconds for stage, seconds in timing.stages.items()}
