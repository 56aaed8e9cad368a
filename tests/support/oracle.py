"""The oracle: torch in float64, on operands that were rounded to the tested dtype; and the check of tolerances."""

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
    """Return the key of `TOLERANCES` for what the kernels compute on `device`: `dtype`, or "bfloat16 cut" on a CPU.

    "bfloat16 cut" replaces only "bfloat16". On a CPU the results come from Triton's interpreter, which truncates to
    bfloat16 instead of rounding.
    """
    return "bfloat16 cut" if dtype == "bfloat16" and torch.device(device).type == "cpu" else dtype


def assert_close(actual: Tensor, expected: Tensor, precision: str, what: str = "", scale: float = 1e-30) -> None:
    """Assert that RMS error and maximum error of `actual` are at most those of `TOLERANCES[precision]`. NaN fails.

    `tolerance.errors` defines both errors. They are relative to `expected`, whose RMS counts as at least `scale`.
    Shapes must agree. Empty tensors have no error.
    """
    rms, most = errors(actual, expected, scale)
    allowed_rms, allowed_most = TOLERANCES[precision]
    message = (
        f"{what} {precision}: relative error RMS {rms:.2e} (allowed {allowed_rms:.1e}), "
        f"max {most:.2e} (allowed {allowed_most:.1e})"
    )
    assert rms <= allowed_rms, message
    assert most <= allowed_most, message


def assert_same(actual: Any, expected: Any) -> None:
    """Assert that the tensors of two trees (nested tuples, lists, dicts) agree within float64's tolerances.

    An expected tensor of zeros only fails.
    """
    for a, e in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
        assert_close(a, e, "float64")
        assert e.abs().sum() > 0, "zeros would be no evidence"


@contextmanager
def convolution_precision(precision: str) -> Iterator[None]:
    """Within this block, set torch's switch for float32 convolutions to `precision`: "ieee", "tf32" or "none"."""
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = precision
    try:
        yield
    finally:
        torch.backends.cudnn.conv.fp32_precision = before


def widened(tensor: Tensor | None) -> Tensor | None:
    """Return the same numbers in float64, or in complex128 if they are complex. None is returned as it is."""
    return None if tensor is None else tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def forward(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the case's result in float64, by torch's own convolutions. Complex operands give complex128."""
    if case.varies:
        return one_by_one(case, widened(input), widened(weight), widened(bias))
    return case.function(torch.nn)(widened(input), widened(weight), widened(bias))


def one_by_one(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return a convolution whose weight varies, computed by torch's own convolution for one weight after another.

    See `at_each_position` for weights that vary over positions. For an empty batch, the result is empty, and the
    gradient of the weight is zero.
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
    """Return the locally connected form of `convolve` for `images`, where position (p, q) has its own weight[p,q].

    A convolution's result at (p, q) is taken from the convolution of the whole images with weight[p,q]. A transposed
    result is a sum over (p, q). Each term is the transposed convolution with weight[p,q] of images that are set to zero
    except at (p, q).
    """
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
    """Return the result of `function` and the gradients of its operands, in the order of `PARTS`.

    `gradient` is the incoming gradient. An operand that is None has no entry in the list.
    """
    leaves = [None if t is None else t.detach().requires_grad_() for t in operands]
    result = function(*leaves)
    return [result.detach(), *torch.autograd.grad(result, [t for t in leaves if t is not None], gradient)]


def expected_step(case: Case, operands: Sequence[Tensor | None], gradient: Tensor) -> list[Tensor]:
    """Return the case's result and gradients in float64, by torch's own convolutions, in the order of `PARTS`."""
    wide = [widened(t) for t in operands]
    return step(lambda *leaves: forward(case, *leaves), wide, gradient.to(torch.float64))


def scales(case: Case, operands: Sequence[Tensor | None], gradient: Tensor) -> list[float]:
    """Return the RMS that each part of a step would have if the terms of its sums had random signs.

    Some sums may cancel to much less than that, and then to less than their rounding errors. So errors are measured
    against at least this RMS. For an empty part it is 1e-30.
    """
    squares = [None if t is None else widened(t).square() for t in operands]
    parts = expected_step(case, squares, widened(gradient).square())
    return [max(part.mean().sqrt().item(), 1e-30) if part.numel() else 1e-30 for part in parts]


def hostile(shape: torch.Size, dtype: torch.dtype, layout: str, integer: bool = False, device: str = "cpu") -> Tensor:
    """Return an incoming gradient in a layout that backward passes have been known to mishandle.

    "all_zero_strides" is a single 1 that is expanded to `shape`. The other layouts are those of `laid_out`. They hold
    normal random numbers or, if `integer`, random integers from -2 to 2, always the same. The layout is made on the
    device, because a copy to another device drops strides with gaps or overlaps.
    """
    if layout == "all_zero_strides":  # the gradient that y.sum().backward() passes on
        return torch.ones((), dtype=dtype, device=device).expand(shape)
    generator = torch.Generator().manual_seed(1)
    if integer:
        return laid_out(torch.randint(-2, 3, shape, generator=generator).to(device, dtype), layout)
    return laid_out(torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype), layout)
