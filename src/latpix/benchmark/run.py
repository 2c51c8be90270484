"""Run cases one after the other into one document."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from latpix.benchmark.attention import compare_attention
from latpix.benchmark.cases import ATTENTION_TOKENS, FULL, Case, Preset, cases_of, memory_cases_of
from latpix.benchmark.ceilings import device_name, measure_ceilings
from latpix.benchmark.measure import EFFORTS, Comparison, compare
from latpix.benchmark.peak import measure_peak
from latpix.benchmark.report import head, memory_row, row_of
from latpix.devices import cpu_has_bfloat16, free_memory, pick_device
from latpix.errors import OptionError, UsageError

HEADS = {64: FULL.network.heads, 72: FULL.network.pixel_heads}  # by the width of one


def preset_of(device: str, preset: str | None) -> tuple[torch.device, Preset]:
    """The device, and the preset that fits it.

    Raises:
        OptionError: the preset is for another kind of device.
    """
    picked = pick_device("cpu" if preset == "cpu" and device == "auto" else device)
    fitting: Preset = "cpu" if picked.type == "cpu" else "gpu"
    if preset not in (None, fitting):
        raise OptionError(f'preset "{preset}" does not fit device "{picked}"; its preset is {fitting}.')
    return picked, fitting


def names_of(preset: Preset) -> list[str]:
    """Every case of a preset."""
    attention = [f"attention-{n}-{width}" for n in ATTENTION_TOKENS for width in HEADS] if preset == "gpu" else []
    return [*(case.name for case in (*cases_of(preset), *memory_cases_of(preset))), *attention]


def bench(
    device: torch.device,
    preset: Preset,
    *,
    names: Sequence[str] = (),
    only: Case | None = None,
    profile: bool = False,
    on_case: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Measure.

    Args:
        device: where.
        preset: of the device's kind; decides what is measured, and how often.
        names: of the preset's cases; default all.
        only: this case instead of the preset's.
        profile: time every case's stages.
        on_case: told before each case starts.

    Returns:
        The document of ``latpix bench --json``.

    Raises:
        UsageError: the preset has no case of a name.
        BenchmarkError: a decode differs from the plain implementation's.
    """
    for name in names:
        if name not in names_of(preset):
            raise UsageError(f'no case "{name}" in preset {preset}, which has: {", ".join(names_of(preset))}.')

    def asked(name: str) -> bool:
        return not names or name in names

    effort = EFFORTS[preset]
    dtypes = types_of(device)
    with one_thread(device):
        ceilings = measure_ceilings(device, set(dtypes))
    document = head(device_name(device), preset, ceilings)

    def note(found: Comparison, *, case: Case | None = None) -> None:
        free_memory()
        peak = None if case is None else measure_peak(case, device, found.ours.dtype)
        document["cases"].append(row_of(found, peak, ceilings))

    for case in [only] if only else cases_of(preset):
        if only or asked(case.name):
            on_case(case.name)
            with one_thread(device):
                comparisons = compare(case, device, dtypes, effort, watch=profile)
            for found in comparisons:
                note(found, case=case)
    for case in () if only else memory_cases_of(preset):
        if asked(case.name):
            on_case(case.name)
            document["memory"].append(memory_row(case, dtypes[-1], measure_peak(case, device, dtypes[-1])))
    for tokens in () if only or preset == "cpu" else ATTENTION_TOKENS:
        for width, heads in HEADS.items():
            name = f"attention-{tokens}-{width}"
            if asked(name):
                on_case(name)
                note(compare_attention(name, device, dtypes[0], effort, tokens=tokens, heads=heads, width=width))
    return document


def types_of(device: torch.device) -> tuple[str, ...]:
    """What ours is measured in: on a CPU float32, as the plain implementation, and bfloat16 where it has units."""
    if device.type != "cpu":
        return ("bfloat16",)
    return ("float32", "bfloat16") if cpu_has_bfloat16() else ("float32",)


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU one thread, whose time other work hardly moves."""
    threads = torch.get_num_threads()
    gc.collect()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
