"""A row of the doctor's table of goldens, and how far a result is from what it should be."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GoldenRow:
    """How one golden fared: ``max_error`` is max of |a - b| / (atol + rtol |b|), so that every tolerance is 1."""

    case: str
    family: str
    max_error: float
    tolerance: float
    ok: bool

    @classmethod
    def of(cls, case: str, family: str, max_error: float) -> "GoldenRow":
        """The row of a case whose error is already in units of its tolerance."""
        return cls(case=case, family=family, max_error=max_error, tolerance=1.0, ok=max_error <= 1.0)


def error_in_tolerances(actual: Tensor, expected: Tensor, *, atol: float, rtol: float = 0.0) -> float:
    """max of |a - b| / (atol + rtol |b|); infinite where shapes differ or a result is not a number.

    Both zero asks for the same bits: 0 if they are, else infinite.
    """
    if actual.shape != expected.shape:
        return float("inf")
    a, b = actual.cpu().double(), expected.cpu().double()  # not every device has float64
    if torch.equal(a, b):
        return 0.0
    return float(((a - b).abs() / (atol + rtol * b.abs())).nan_to_num(nan=float("inf"), posinf=float("inf")).max())
