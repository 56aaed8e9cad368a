"""What is right: torch in float64 on the rounded operands. And how far from it a result may be."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d

from tests.cases import Case, laid_out

Function = Callable[..., Tensor]

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


def precision_on(device: torch.device | str, dtype: str) -> str:
    """The row of the table for results of the kernels on `device`: on a CPU, Triton's interpreter has computed them."""
    return "bfloat16 cut" if dtype == "bfloat16" and torch.device(device).type == "cpu" else dtype


def errors(actual: Tensor, expected: Tensor, scale: float = 1e-30) -> tuple[float, float]:
    """RMS(a-e)/RMS(e), and the largest |a-e|/max(RMS(e), |e|), where RMS(e) is taken to be `scale` at least."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    if expected.numel() == 0:
        return 0.0, 0.0
    wide = torch.complex128 if expected.is_complex() else torch.float64
    expected, difference = expected.to(wide), (actual.to(wide) - expected.to(wide)).abs()
    rms = expected.abs().square().mean().sqrt().clamp(min=scale)
    return (difference.square().mean().sqrt() / rms).item(), (difference / expected.abs().clamp(min=rms)).max().item()


def assert_close(actual: Tensor, expected: Tensor, precision: str, what: str = "", scale: float = 1e-30) -> None:
    """Both errors within the table's tolerances. NaN fails."""
    rms, most = errors(actual, expected, scale)
    allowed_rms, allowed_most = TOLERANCES[precision]
    message = (
        f"{what} {precision}: RMS {rms:.2e} (allowed {allowed_rms:.1e}), max {most:.2e} (allowed {allowed_most:.1e})"
    )
    assert rms <= allowed_rms, message
    assert most <= allowed_most, message


@contextmanager
def convolution_precision(precision: str) -> Iterator[None]:
    """torch's switch for float32 convolutions, for a while."""
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = precision
    try:
        yield
    finally:
        torch.backends.cudnn.conv.fp32_precision = before


def widened(tensor: Tensor | None) -> Tensor | None:
    """The same numbers in float64, or complex128."""
    return None if tensor is None else tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def forward(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None, **arguments: Any) -> Tensor:
    """torch's own convolution, on operands raised to float64."""
    function = conv_transpose2d if case.transposed else conv2d
    return function(widened(input), widened(weight), widened(bias), **case.arguments, **arguments)


PARTS = ("result", "gradient of input", "gradient of weight", "gradient of bias")


def step(function: Function, operands: Sequence[Tensor | None], gradient: Tensor) -> list[Tensor]:
    """The result of `function` and the gradients of its operands, those that are there."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in operands]
    result = function(*leaves)
    return [result.detach(), *torch.autograd.grad(result, [t for t in leaves if t is not None], gradient)]


def expected_step(case: Case, operands: Sequence[Tensor | None], gradient: Tensor) -> list[Tensor]:
    """`step` of torch's own convolution, on operands raised to float64."""
    wide = [widened(t) for t in operands]
    return step(lambda *leaves: forward(case, *leaves), wide, gradient.to(torch.float64))


def scales(case: Case, operands: Sequence[Tensor | None], gradient: Tensor) -> list[float]:
    """How large the parts of a step are if their terms have random signs: a few sums may cancel to much less than that,
    and then to less than their rounding errors.
    """
    squares = [None if t is None else widened(t).square() for t in operands]
    parts = expected_step(case, squares, widened(gradient).square())
    return [max(part.mean().sqrt().item(), 1e-30) if part.numel() else 1e-30 for part in parts]


def hostile(shape: torch.Size, dtype: torch.dtype, layout: str, integer: bool = False, device: str = "cpu") -> Tensor:
    """An incoming gradient in a layout that backward has been known to mishandle.

    It is laid out on its device: on the way to another, a tensor loses its strides if it has gaps or overlaps.
    """
    if layout == "all_zero_strides":  # what y.sum().backward() hands over
        return torch.ones((), dtype=dtype, device=device).expand(shape)
    generator = torch.Generator().manual_seed(1)
    if integer:
        return laid_out(torch.randint(-2, 3, shape, generator=generator).to(device, dtype), layout)
    return laid_out(torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype), layout)
