"""Attention that gives wrong numbers is not used, and float32 is float32 while we decode."""

from types import SimpleNamespace

import pytest
import torch
from torch import backends
from torch.nn.attention import SDPBackend, _cur_sdpa_kernel_backends
from torch.nn.functional import scaled_dot_product_attention

import latpix.arithmetic as arithmetic
import latpix.devices as devices
from latpix.arithmetic import exact_float32, sound, sound_attention, try_attention
from latpix.errors import OptionError
from latpix.sampling.paths import widest

CPU = torch.device("cpu")


def broken(*, kind, width, number):
    """Attention that gives ``number`` where one kind meets one head width."""

    def attend(q, k, v):
        out = scaled_dot_product_attention(q, k, v)
        only = _cur_sdpa_kernel_backends()
        return out * number if only == [arithmetic.ATTENTION[kind]] and q.shape[-1] == width else out

    return attend


def with_attention(monkeypatch, attend):
    monkeypatch.setattr(arithmetic, "try_attention", lambda *given: try_attention(*given, attend))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_cpu_has_flash_and_plain_attention_and_cudnn_not(dtype):
    assert try_attention(CPU, dtype, 72) == {"flash": True, "plain": True}


@pytest.mark.parametrize("number", [float("nan"), 1.2])
def test_a_kind_that_is_wrong_at_one_width_is_not_used_at_any(monkeypatch, number):
    with_attention(monkeypatch, broken(kind="flash", width=72, number=number))
    assert sound_attention(CPU, torch.float32, [64]) == ("flash", "plain")
    assert sound_attention(CPU, torch.float32, [64, 72]) == ("plain",)
    with sound(CPU, torch.float32, [64, 72]):
        assert _cur_sdpa_kernel_backends() == [SDPBackend.MATH]
    assert SDPBackend.FLASH_ATTENTION in _cur_sdpa_kernel_backends()


def test_where_half_precision_gives_nan_auto_is_float32_and_bfloat16_is_refused(monkeypatch):
    def attend(q, k, v):
        return scaled_dot_product_attention(q, k, v) * float("nan" if q.dtype == torch.bfloat16 else 1)

    monkeypatch.setattr(arithmetic, "try_attention", lambda _device, *given: try_attention(CPU, *given, attend))
    mps = torch.device("mps")
    assert devices.pick_dtype("auto", mps) == torch.float32
    assert devices.pick_dtype("bfloat16", mps) == torch.bfloat16
    with (
        pytest.raises(OptionError, match="bfloat16 gives no numbers on mps; use float32"),
        sound(mps, torch.bfloat16, [64]),
    ):
        pass
    monkeypatch.setattr(arithmetic, "try_attention", lambda _device, *given: try_attention(CPU, *given))
    assert devices.pick_dtype("auto", mps) == torch.bfloat16


def precisions():
    return torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32


@pytest.mark.parametrize("asked", ["highest", "high", "medium"])
def test_float32_is_exact_inside_and_as_it_was_after(asked):
    torch.set_float32_matmul_precision(asked)
    try:
        with exact_float32():
            assert precisions() == ("highest", False)
            assert backends.mkldnn.matmul.fp32_precision == "ieee"
        assert precisions() == (asked, True)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_settings_of_single_operators_come_back_too():
    before = backends.cuda.matmul.fp32_precision
    try:
        backends.cuda.matmul.fp32_precision = "tf32"
        with exact_float32():
            assert backends.cuda.matmul.fp32_precision == backends.cudnn.conv.fp32_precision == "ieee"
        assert backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        backends.cuda.matmul.fp32_precision = before


@pytest.mark.parametrize(("has_fp64", "dtype"), [(True, torch.float64), (False, torch.float32)])
def test_a_device_without_float64_takes_differences_in_float32(monkeypatch, has_fp64, dtype):
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda _device: SimpleNamespace(has_fp64=has_fp64))
    assert widest(torch.device("xpu")) == dtype
    assert widest(torch.device("mps")) == torch.float32
    assert widest(CPU) == torch.float64
