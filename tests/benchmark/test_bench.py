"""Measuring, with networks of a few thousand parameters: what is said, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from small_decoder import NETWORK
from small_networks import SMALL_V1_5, small_network

from latpix.benchmark import cases, measure
from latpix.benchmark.cases import cases_of, decoder_of, inputs_of, shortened, square
from latpix.benchmark.ceilings import Ceilings
from latpix.benchmark.clock import STAGES, Clock
from latpix.benchmark.measure import AGREEMENT, Effort, compare, decode_operations, our_run, plain_run, timed
from latpix.benchmark.peak import measure_peak
from latpix.benchmark.report import head, profile, regressions, row_of, table
from latpix.benchmark.roofline import roofline
from latpix.benchmark.run import bench, names_of, preset_of
from latpix.benchmark.traffic import Traffic
from latpix.checkpoints.registry import find
from latpix.errors import BenchmarkError, MemoryLimitError, OptionError, UsageError

CPU, ONCE = torch.device("cpu"), Effort(warm_ups=1, runs=1)
TINY = replace(square("small-tiny", replace(find("flux2-tiny"), name="small", network=NETWORK), 512), steps=2)
WORDS = replace(
    SMALL_V1_5,
    latent_channels=16,
    latent_downsample=8,
    patch_size=16,
    caption_width=2304,
    pixel_depth=1,
    depth=4,
)
V1_5 = square("small-v1.5", replace(find("flux1-2kto4k-v1.5"), name="small", network=WORDS), 256)
CEILINGS = Ceilings(matmul={"float32": 1e11, "bfloat16": 2e11}, bandwidth=1e10, datasheet=None)


def watched(case, run):
    """How often each stage ended."""
    _, laps = timed(Clock(CPU), run)
    return {stage: laps.stages.count(stage) for stage in set(laps.stages)}


@pytest.fixture(scope="module")
def compared():
    return compare(TINY, CPU, ("float32", "bfloat16"), ONCE)


@pytest.mark.parametrize("case", [TINY, V1_5], ids=lambda case: case.name)
def test_ours_paints_what_the_plain_implementation_paints(case):
    decoder, given = decoder_of(case, CPU, "float32"), inputs_of(case, CPU)
    painted = [
        timed(Clock(CPU), run)[0]
        for run in (plain_run(case, decoder, given, "float32"), our_run(case, decoder, given, watch=True))
    ]
    assert painted[0].std() > 0.1
    torch.testing.assert_close(*painted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", [TINY, V1_5], ids=lambda case: case.name)
def test_every_stage_is_seen_and_the_latent_is_projected_once(case):
    config, steps = case.row.network, case.steps
    decoder, given = decoder_of(case, CPU, "float32"), inputs_of(case, CPU)
    ours = watched(case, our_run(case, decoder, given, watch=True))
    theirs = watched(case, plain_run(case, decoder, given, "float32"))
    gates = config.latent_outputs + config.pixel_gate
    for stage, count in {"patch": config.depth - 1, "last patch": 1, "pixel": config.pixel_depth}.items():
        assert theirs.get(stage, 0) == ours.get(stage, 0) == steps * count
    assert theirs["heads"] == steps * gates
    assert ours["heads"] == gates
    assert theirs["latent"] == steps
    assert ours["gates"] == steps * gates
    assert ("base" in theirs) == ("base" in ours) == bool(config.base_widths)


def test_a_wrong_result_is_an_error_however_fast(monkeypatch):
    monkeypatch.setattr(
        measure, "our_run", lambda case, decoder, given, watch: lambda laps: torch.zeros(1, 3, 512, 512)
    )
    with pytest.raises(BenchmarkError, match="small-tiny in float32: the result differs"):
        compare(TINY, CPU, ("float32",), ONCE)


def test_a_row_says_what_was_measured(compared):
    peak = measure_peak(TINY, CPU, "float32")
    float32, bfloat16 = compared
    row = row_of(float32, peak, CEILINGS)
    assert row["ms"] > 0
    assert row["ratio_to_plain"] == pytest.approx(row["plain_ms"] / row["ms"])
    assert row["ms_per_step"] == pytest.approx(row["ms"] / 2)
    assert row["flops_per_second"] == pytest.approx(row["flops"] / (row["ms"] / 1000))
    assert row["share_of_peak"] == pytest.approx(row["flops_per_second"] / 1e11)
    assert row["flops"] == decode_operations(TINY)
    assert row["attention"] == "flash_attention_for_cpu"
    assert float32.mean_difference < AGREEMENT["float32"] < bfloat16.mean_difference < AGREEMENT["bfloat16"]
    weights = sum(p.numel() * 4 for p in small_network(NETWORK).parameters())
    assert row["weight_bytes"] == weights
    picture = 3 * 512 * 512 * 4
    assert picture < row["peak_bytes"] < row["process_bytes"] - 100 * 2**20  # neither interpreter nor libraries


def test_the_table_and_the_plot_show_every_case(compared):
    document = head("a device", "cpu", CEILINGS)
    document["cases"] = [row_of(found, None, CEILINGS) for found in compared]
    text = json.dumps(document)
    assert json.loads(text)["cases"][1]["dtype"] == "bfloat16"
    assert table(document).count("small-tiny") == 2
    plot = roofline(document)
    assert plot.count("<circle") == 2 * 3
    assert "nan" not in plot
    assert "float32 matmul" in plot


def test_a_profile_adds_up_to_the_decode():
    (found,) = compare(V1_5, CPU, ("float32",), ONCE, watch=True)
    row = row_of(found, None, CEILINGS)
    for prefix in ("", "plain_"):
        assert sum(row[f"{prefix}stages_ms"].values()) == pytest.approx(row[f"{prefix}ms"])
        assert set(row[f"{prefix}stages_ms"]) <= set(STAGES)
    assert "| small-v1.5 | float32 | pixel |" in profile({"cases": [row]})


def test_a_shortened_network_tells_of_the_whole_one():
    short = shortened("short", replace(V1_5.row, network=replace(WORDS, depth=14, pixel_depth=2)), 256, pixel_blocks=1)
    assert (short.row.network.depth, short.row.network.pixel_depth, short.steps) == (2, 1, 1)
    stages = {"patch": 1.0, "last patch": 0.9, "pixel": 1.0, "gates": 0.2, "latent": 1.0, "heads": 0.2, "rest": 0.5}
    ours = measure.whole_decode(short, stages, measure.ONCE)
    whole = {"patch": 52, "last patch": 3.6, "pixel": 8, "gates": 3.2, "latent": 1, "heads": 0.8, "rest": 2}
    assert ours == pytest.approx(whole)
    plain = measure.whole_decode(short, stages, {"base"})
    assert plain == pytest.approx({**ours, "latent": 4, "heads": 3.2})
    assert decode_operations(short) == decode_operations(
        replace(short, row=replace(short.row, network=short.whole), whole=None, steps=4)
    )
    (found,) = compare(short, CPU, ("float32",), ONCE)
    assert found.ours.stages["patch"] > 0  # watched without being asked


def test_traffic_is_what_operators_read_and_write():
    a, b = torch.ones(8, 16), torch.ones(16, 4)
    with Traffic() as traffic:
        product = a @ b
    assert traffic.bytes == 4 * (8 * 16 + 16 * 4 + 8 * 4)
    with Traffic() as traffic:
        product.view(4, 8).transpose(0, 1)
    assert traffic.bytes == 0
    with Traffic() as traffic:
        product.add_(torch.ones(1).expand(4))  # what is expanded is read once
    assert traffic.bytes == 4 * (2 * 8 * 4 + 1) + 4 + 4 * 4 * 0
    assert traffic.backend == "none"


def test_autocasts_copies_of_the_plain_weights_are_made_once(monkeypatch):
    case = replace(V1_5, steps=2)
    decoder, given = decoder_of(case, CPU, "float32"), inputs_of(case, CPU)
    copied = []

    class Copies(Traffic):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "_to_copy" in str(function) and args[0].dtype == torch.float32 and args[0].shape == (96, 16):
                copied.append(args[0])
            return super().__torch_dispatch__(function, types, args, kwargs)

    with Copies() as counted:
        timed(counted, plain_run(case, decoder, given, "bfloat16"))
    modulations = 2 * WORDS.depth  # of both streams; the only matrices of that shape
    assert len(copied) == modulations


def test_slower_and_larger_fail_on_the_same_device_only(compared):
    document = head("a device", "cpu", CEILINGS)
    row = {**row_of(compared[0], None, CEILINGS), "peak_bytes": 1000}
    before = {**document, "cases": [row]}
    assert regressions({**document, "cases": [{**row, "ms": 1.04 * row["ms"], "peak_bytes": 1020}]}, before) == []
    slower = {**document, "cases": [{**row, "ms": 1.06 * row["ms"]}]}
    larger = {**document, "cases": [{**row, "peak_bytes": 1040}]}
    for worse in (slower, larger):
        (line,) = regressions(worse, before)
        assert "small-tiny in float32" in line
        assert regressions(worse, {**before, "device": "another"}) is None
    assert regressions({**document, "cases": [{**row, "name": "new", "ms": 1e9}]}, before) == []


def test_a_case_with_little_room_is_painted_under_that_limit():
    peak = measure_peak(replace(TINY, room=400 * 2**20), CPU, "float32")
    assert 0 < peak.over_weights < 400 * 2**20
    with pytest.raises(MemoryLimitError, match="too small"):
        measure_peak(replace(TINY, room=1), CPU, "float32")


def test_presets_hold_the_cases_of_their_device():
    assert names_of("cpu") == [
        "full-512", "full-512-v1.5", "mid-1024", "tiny-1024", "memory-1024", "memory-2048", "low-memory-2048",
    ]  # fmt: skip
    assert {"full-3840", "full-1024-v1.5", "tiny-2048", "low-memory-4096", "attention-65536-72"} < set(names_of("gpu"))
    assert [case.weights for case in cases_of("cpu")] == ["random", "random", "random", "flux2-tiny"]
    mid = cases.MID
    assert mid.parameters == pytest.approx(39.4e6, rel=1e-3)
    assert decode_operations(square("mid", mid, 1024)) == pytest.approx(4 * 0.418e12, rel=1e-3)
    with pytest.raises(OptionError, match="its preset is cpu"):
        preset_of("cpu", "gpu")
    with pytest.raises(UsageError, match="mid-1024"):
        bench(CPU, "cpu", names=["mid"])


def test_a_size_that_is_no_whole_latent_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="nearest size is 1024x960"):
        cases.chosen(None, (970, 1000))
    with pytest.raises(OptionError, match="student"):
        cases.chosen("flux1-2kto4k-v1.5-teacher", (1024, 1024))
    case = cases.chosen("flux1-2k", (512, 1024))
    assert (case.name, case.weights, case.cells) == ("flux1-2k-1024x512", "random", (16, 32))
