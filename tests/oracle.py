"""What is right: torch in float64 on the rounded operands. And how far from it a result may be."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d

from tests.cases import Case, laid_out

# RMS and maximum of the relative error. The floors are what a correct kernel shows: one rounding at the end for the
# 16-bit types, accumulation in float32 before it; they hardly move with the length of the reduction. A tolerance is
# about twice its floor. RMS alone would not see one wrong border pixel in bfloat16, the maximum does.
#              allowed RMS, max   floor RMS, max
TOLERANCES = {
    "float64": (1e-14, 1e-13),
    "float32": (5e-7, 3e-6),  # 2.4e-7, 1.5e-6
    "tf32": (6e-4, 4e-3),  # 2.9e-4, 1.7e-3
    "float16": (4e-4, 1e-3),  # 2.1e-4, 4.9e-4
    "bfloat16": (3.4e-3, 8e-3),  # 1.7e-3, 3.9e-3
    "bfloat16 cut": (6.8e-3, 1.6e-2),  # Triton's interpreter drops the lower bits instead of rounding: twice as much
}


def errors(actual: Tensor, expected: Tensor) -> tuple[float, float]:
    """RMS(a-e)/RMS(e), and the largest |a-e|/max(RMS(e), |e|)."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    if expected.numel() == 0:
        return 0.0, 0.0
    wide = torch.complex128 if expected.is_complex() else torch.float64
    expected, difference = expected.to(wide), (actual.to(wide) - expected.to(wide)).abs()
    rms = expected.abs().square().mean().sqrt().clamp(min=1e-30)
    return (difference.square().mean().sqrt() / rms).item(), (difference / expected.abs().clamp(min=rms)).max().item()


def assert_close(actual: Tensor, expected: Tensor, precision: str, what: str = "") -> None:
    """Both errors within the table's tolerances. NaN fails."""
    rms, most = errors(actual, expected)
    allowed_rms, allowed_most = TOLERANCES[precision]
    message = (
        f"{what} {precision}: RMS {rms:.2e} (allowed {allowed_rms:.1e}), max {most:.2e} (allowed {allowed_most:.1e})"
    )
    assert rms <= allowed_rms, message
    assert most <= allowed_most, message


def forward(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None, **arguments: Any) -> Tensor:
    """torch's own convolution, on operands raised to float64."""
    function = conv_transpose2d if case.transposed else conv2d
    wide = [
        None if t is None else t.to(torch.complex128 if t.is_complex() else torch.float64)
        for t in (input, weight, bias)
    ]
    return function(*wide, **case.arguments, **arguments)


def hostile(shape: torch.Size, dtype: torch.dtype, layout: str) -> Tensor:
    """An incoming gradient in a layout that backward has been known to mishandle."""
    if layout == "all_zero_strides":  # what y.sum().backward() hands over
        return torch.ones((), dtype=dtype).expand(shape)
    generator = torch.Generator().manual_seed(1)
    return laid_out(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype), layout)
