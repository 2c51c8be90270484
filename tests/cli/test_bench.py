import json

import pytest

from latpix.benchmark import ceilings, run
from latpix.benchmark.measure import Effort


@pytest.fixture
def quick(monkeypatch):
    """One timed run in one type."""
    monkeypatch.setattr(run, "EFFORTS", {"cpu": Effort(warm_ups=1, runs=1)})
    monkeypatch.setattr(run, "types_of", lambda device: ("float32",))
    monkeypatch.setattr(ceilings, "REPEATS", 1)


def test_bench_measures_a_checkpoint_and_fails_where_it_became_slower(latpix, small, quick, tmp_path):
    fast = {"name": "small-512x512", "dtype": "float32", "ms": 1e-6, "peak_bytes": 2**40}
    earlier = {"device": ceilings.device_name(run.preset_of("cpu", None)[0]), "cases": [fast], "memory": []}
    (tmp_path / "fast.json").write_text(json.dumps(earlier))
    answer = latpix(
        "bench", "--checkpoint", small, "--size", "512x512", "--device", "cpu", "--profile", "-o", "out", "--json",
        "--against", "fast.json",
    )  # fmt: skip
    assert answer.code == 1
    assert "small-512x512 in float32" in answer.err
    assert "Traceback" not in answer.err
    (document,) = answer.lines
    (case,) = document["cases"]
    asked = {"name", "ms", "peak_bytes", "weight_bytes", "flops", "ratio_to_plain", "share_of_peak"}
    assert asked <= set(case)
    assert all(case[key] for key in asked)
    assert sum(case["stages_ms"].values()) == pytest.approx(case["ms"])
    assert json.loads((tmp_path / "out" / "bench.json").read_text()) == document
    assert (tmp_path / "out" / "roofline.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--case", "full-9"), "which has: full-512"),
        (("--case", "mid-1024", "--size", "512x512"), "leave out --checkpoint and --size"),
        (("--size", "500x500"), "the nearest size is 512x512"),
    ],
)
def test_a_wrong_question_is_refused_before_anything_is_measured(latpix, words, message):
    answer = latpix("bench", "--device", "cpu", *words)
    assert answer.code == 2
    assert message in answer.err
    assert answer.out == ""
