"""Run forward and backward of a case in the kernels, and compare them with torch in float64."""

from typing import NamedTuple

import torch
from torch import Tensor

import tritonconv
from tests.support.cases import DTYPES, Case
from tests.support.guards import guarded
from tests.support.oracle import (
    PARTS,
    assert_close,
    convolution_precision,
    expected_step,
    forward,
    hostile,
    precision_on,
    scales,
    step,
)


class Part(NamedTuple):
    """The result or one gradient of a case: `actual` from the kernels, `expected` from torch in float64.

    `name` is one of `oracle.PARTS`. `scale` is the RMS that the part would have if the terms of its sums had random
    signs (`oracle.scales`).
    """

    name: str
    actual: Tensor
    expected: Tensor
    scale: float

    def check(self, precision: str, what: str = "") -> None:
        """Assert that the errors of `actual` are within the tolerances of `precision`. The message has `what`."""
        assert_close(self.actual, self.expected, precision, f"{self.name} {what}", self.scale)

    def check_exact(self, what: str = "") -> None:
        """Assert that `actual` equals `expected` when that is rounded to the dtype of `actual`.

        The caller must choose operands whose sums are exact in float32. This is not checked.
        For bfloat16 on a CPU, truncated numbers are right, too: Triton's interpreter truncates, while torch, which sums
        some bias gradients, rounds.
        """
        rounded = self.expected.to(self.actual.dtype)
        right = self.actual == rounded
        if self.actual.dtype == torch.bfloat16 and self.actual.device.type == "cpu":
            bits = self.expected.float().view(torch.int32) & ~0xFFFF
            right |= self.actual == bits.view(torch.float32).to(self.actual.dtype)
        assert right.all(), f"{self.name} {what}: {int((~right).sum())} of {right.numel()} integers are wrong"


def steps(
    case: Case, dtype: str, device: str, gradient: str, integer: bool = False, seed: int = 0, *, guard: bool = True
) -> list[Part]:
    """Run forward and backward of `case` in Triton, and return the result and each gradient beside the oracle's.

    `gradient` is the layout of the incoming gradient. The operands are those of `case.operands`, between guard bands of
    NaN unless `guard` is false.
    """
    given = [guarded(t) if guard else t for t in case.operands(DTYPES[dtype], device, integer, seed)]
    shape = forward(case, *given).shape
    incoming = hostile(shape, DTYPES[dtype], gradient, integer, device)
    with tritonconv.using("triton"):
        actual = step(case.function(tritonconv), given, guarded(incoming) if guard else incoming)
    expected, scale = expected_step(case, given, incoming), scales(case, given, incoming)
    return [Part(*values) for values in zip(PARTS, actual, expected, scale, strict=False)]


def check(case: Case, device: str, integer: bool, seed: int = 0) -> None:
    """Assert that forward and backward of `case` are right, in the dtype and gradient layout that it names.

    If `integer`, results must be exact, else within the tolerances. `seed` draws the operands.
    """
    with convolution_precision("tf32" if case.dtype == "tf32" else "ieee"):
        parts = steps(case, case.dtype, device, case.gradient, integer, seed)
    for part in parts:
        if integer:
            part.check_exact(f"in {case.dtype}")
        elif (
            case.dtype == "tf32" and part.name == "gradient of bias"
        ):  # a sum without products, so TF32 does not round it
            part.check("float32")
        else:
            part.check(precision_on(device, case.dtype))
