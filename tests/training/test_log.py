"""A run's log: lines of JSON, and the same figures where TensorBoard looks for them."""

import pytest

from latpix.training.log import RunLog, read_log


def test_lines_from_beyond_where_a_run_stands_are_removed(tmp_path):
    log = RunLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.write(step, {"loss": step / 4, "names": ["a"]})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # a killed process
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3]
    RunLog(tmp_path, 2).close()
    assert read_log(tmp_path) == [{"step": 1, "loss": 0.25, "names": ["a"]}, {"step": 2, "loss": 0.5, "names": ["a"]}]


def test_only_the_first_process_writes(tmp_path):
    log = RunLog(tmp_path, 0, writes=False)
    log.write(1, {"loss": 1.0})
    log.close()
    assert not list(tmp_path.iterdir())


def test_tensorboard_shows_the_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path, 0)
    log.write(1, {"loss": 0.5, "names": ["a"]})
    log.write(2, {"loss": 0.25})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
