import os
import subprocess
import sys

import pytest
import torch

from latpix import resources
from latpix.checkpoints.convert import to_upstream
from latpix.checkpoints.fetch import fetch
from latpix.checkpoints.load import load, stored
from latpix.errors import CheckpointError, DownloadError


@pytest.fixture
def hub(weights, tmp_path, monkeypatch):
    """A download that hands out a file, and remembers what it was asked for."""
    monkeypatch.setenv("LATPIX_HOME", str(tmp_path / "home"))
    torch.save(to_upstream(weights("alike-1")), tmp_path / "hub.pth")

    def download(repository, filename):
        download.asked.append((repository, filename))
        return str(tmp_path / "hub.pth")

    download.asked = []
    return download


def test_what_came_is_converted_and_asked_for_once(rows, weights, hub):
    path = fetch("alike-1", download=hub)
    assert path == stored(rows["alike-1"])
    assert fetch("alike-1", download=hub) == path
    assert hub.asked == [("nvidia/PiD", rows["alike-1"].upstream_path)]
    loaded = load("alike-1", dtype=torch.bfloat16)
    assert (loaded.path, loaded.row) == (path, rows["alike-1"])
    assert torch.equal(loaded.network.final_proj.weight, weights("alike-1")["final_proj.weight"])


def test_a_damaged_copy_is_fetched_again(hub):
    path = fetch("alike-1", download=hub)
    data, sha256 = path.read_bytes(), load("alike-1").sha256
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    fetch("alike-1", download=hub)
    assert load("alike-1").sha256 == sha256
    fetch("alike-1", download=hub, overwrite=True)
    assert len(hub.asked) == 3


def test_a_file_that_is_not_the_rows_leaves_nothing_behind(rows, hub):
    with pytest.raises(CheckpointError, match='is not a "lonely" file'):
        fetch("lonely", download=hub)
    assert not stored(rows["lonely"]).exists()


def test_a_failed_download_says_why_and_tells_the_manual_way(rows, hub):
    def broken(repository, filename):
        raise OSError("No space left on device\nwith details")

    with pytest.raises(DownloadError) as refusal:
        fetch("alike-1", download=broken)
    row, message = rows["alike-1"], str(refusal.value)
    assert f'"{row.upstream_path}" did not come from the hub repository nvidia/PiD: No space left on device.' in message
    assert f"https://huggingface.co/nvidia/PiD/blob/main/{row.upstream_path}" in message
    assert row.license in message
    assert message.endswith(f"latpix checkpoints convert model_ema_bf16.pth -o {stored(row)} --like alike-1")
    assert stored(row).parent.is_dir()  # so that the command works as it stands


def test_shipped_weights_are_not_downloaded():
    def never(repository, filename):
        raise AssertionError

    assert fetch("flux2-tiny", download=never) == resources.weight("flux2-tiny")


def test_offline_and_with_a_withdrawn_file_the_message_says_so(tmp_path):
    # In a process of its own: the hub's library reads its settings when it is imported.
    code = "from latpix.checkpoints.fetch import fetch; fetch('qwen-2kto4k')"
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "LATPIX_HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **settings})
    assert run.returncode == 1
    assert "DownloadError" in run.stderr
    assert "no connection to the hub (or HF_HUB_OFFLINE is set). Upstream has withdrawn this file" in run.stderr
    assert "latpix checkpoints convert model_ema_bf16.pth -o" in run.stderr
