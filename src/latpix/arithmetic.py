"""What a device computes with: the kinds of attention that give right numbers there, and float32 that is float32.

Each kind is tried once per device, type and head width, on a few tokens, and compared with attention written out in
float32; one that gives NaN or other wrong numbers is not used. Of the others torch takes the first, in the order of
``ATTENTION``, that can do what it is asked.
"""

import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, backends
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from latpix.errors import OptionError

ATTENTION = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "own": SDPBackend.OVERRIDEABLE,  # what some devices bring along
    "plain": SDPBackend.MATH,
}
TOKENS = 160  # not a multiple of the kernels' blocks
TOLERANCE = 0.05  # bfloat16 differs by 0.01

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@contextmanager
def sound(device: torch.device, dtype: torch.dtype, head_widths: Collection[int]) -> Iterator[None]:
    """Inside, attention is of kinds that give right numbers, and float32 is exact.

    Raises:
        OptionError: no kind does in this type.
    """
    kinds = sound_attention(device, dtype, head_widths)
    if not kinds:
        raise OptionError(
            f"attention in {str(dtype).removeprefix('torch.')} gives no numbers on {device}; use float32."
        )
    with sdpa_kernel([ATTENTION[kind] for kind in kinds], set_priority=True), exact_float32():
        yield


def sound_attention(device: torch.device, dtype: torch.dtype, head_widths: Collection[int]) -> tuple[str, ...]:
    """The kinds that run at one of the head widths at least, and give wrong numbers at none."""
    tried = [try_attention(device, dtype, width) for width in head_widths]
    return tuple(kind for kind in ATTENTION if {found[kind] for found in tried if kind in found} == {True})


@cache
def try_attention(
    device: torch.device, dtype: torch.dtype, head_width: int, attend: Attend = scaled_dot_product_attention
) -> dict[str, bool]:
    """The kinds that run, and whether their numbers are right."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, 1, 2, TOKENS, head_width)  # q, k, v: [b, heads, n, d]
    q, k, v = (x.to(dtype) for x in torch.randn(shape, generator=generator))
    scores = q.float() @ k.float().transpose(-2, -1) * head_width**-0.5
    expected = scores.softmax(-1) @ v.float()
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # why a kind does not run
        for kind, backend in ATTENTION.items():
            try:
                with torch.no_grad(), sdpa_kernel([backend]):
                    out = attend(*(x.to(device) for x in (q, k, v))).float().cpu()
            except RuntimeError:
                continue
            found[kind] = bool((out - expected).abs().max() < TOLERANCE)  # NaN is below nothing
    return found


@contextmanager
def exact_float32() -> Iterator[None]:
    """Inside, float32 products and convolutions are float32: no TF32, which CUDA takes for convolutions unasked."""
    try:
        products, convolutions = torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32
    except RuntimeError:  # the caller uses torch's newer settings, which must not be mixed with the older ones
        with _exact_by_operator():
            yield
        return
    try:
        torch.set_float32_matmul_precision("highest")
        backends.cudnn.allow_tf32 = False
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        backends.cudnn.allow_tf32 = convolutions


@contextmanager
def _exact_by_operator() -> Iterator[None]:
    """The same by the settings of single operators."""
    of_cpu: Any = backends.mkldnn
    of_cuda: Any = backends.cudnn
    operators = (backends.cuda.matmul, of_cuda.conv, of_cpu.matmul, of_cpu.conv)
    before = [operator.fp32_precision for operator in operators]
    try:
        for operator in operators:
            operator.fp32_precision = "ieee"
        yield
    finally:
        for operator, precision in zip(operators, before, strict=True):
            operator.fp32_precision = precision
