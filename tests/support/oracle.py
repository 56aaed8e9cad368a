"""What is right: torch in float64 on the rounded operands. And how far from it a result may be."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tests.support.cases import Case, laid_out
from tritonconv.tools.tolerance import TOLERANCES, errors

Function = Callable[..., Tensor]


def precision_on(device: torch.device | str, dtype: str) -> str:
    """The row of the table for results of the kernels on `device`: on a CPU, Triton's interpreter has computed them."""
    return "bfloat16 cut" if dtype == "bfloat16" and torch.device(device).type == "cpu" else dtype


def assert_close(actual: Tensor, expected: Tensor, precision: str, what: str = "", scale: float = 1e-30) -> None:
    """Both errors within the table's tolerances. NaN fails."""
    rms, most = errors(actual, expected, scale)
    allowed_rms, allowed_most = TOLERANCES[precision]
    message = (
        f"{what} {precision}: RMS {rms:.2e} (allowed {allowed_rms:.1e}), max {most:.2e} (allowed {allowed_most:.1e})"
    )
    assert rms <= allowed_rms, message
    assert most <= allowed_most, message


def assert_same(actual: Any, expected: Any) -> None:
    """The tensors of two trees are equal to rounding in float64."""
    for a, e in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
        assert_close(a, e, "float64")
        assert e.abs().sum() > 0, "zeros would be no evidence"


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


def forward(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """torch's own convolution, on operands raised to float64."""
    if case.varies:
        return one_by_one(case, widened(input), widened(weight), widened(bias))
    return case.function(torch.nn)(widened(input), widened(weight), widened(bias))


def one_by_one(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution with a weight that varies, by torch's own with each of the weights: of that of a position, only
    what it gives there counts, or, transposed, what it makes of that position alone.
    """
    convolve = partial(torch.conv_transpose2d if case.transposed else torch.conv2d, **case.arguments)
    images = input if input.ndim == 4 else input[None]
    shared_by_samples, shared_by_positions = "b" not in case.varies, "p" not in case.varies
    if len(images) == 0:
        result = convolve(images, weight.new_zeros(weight.shape[-4:])) + 0 * weight.sum()
    else:
        weights = weight[None] if shared_by_samples else weight
        parts = zip([images] if shared_by_samples else images.split(1), weights, strict=True)
        each = convolve if shared_by_positions else partial(at_each_position, convolve, case.transposed)
        result = torch.cat([each(part, own) for part, own in parts])
    if bias is not None:
        result = result + (bias[..., None, None] if bias.ndim < 3 else bias)
    return result if input.ndim == 4 else result[0]


def at_each_position(convolve: Function, transposed: bool, images: Tensor, weight: Tensor) -> Tensor:
    positions = list(product(range(weight.shape[0]), range(weight.shape[1])))
    if transposed:
        only = [torch.zeros_like(images[0, 0]) for _ in positions]
        for mask, (p, q) in zip(only, positions, strict=True):
            mask[p, q] = 1
        return sum(convolve(images * mask, weight[at]) for mask, at in zip(only, positions, strict=True))
    columns = [convolve(images, weight[p, q])[..., p, q] for p, q in positions]
    return torch.stack(columns, -1).unflatten(-1, weight.shape[:2])


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
