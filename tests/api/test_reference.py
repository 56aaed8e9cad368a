"""The reference agrees with torch.nn: forward and every gradient, in float64."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.cases import CONV, LAYOUTS, TRANSPOSED, Case
from tests.support.oracle import assert_close, forward, hostile
from tests.support.varying import VARYING, VARYING_TRANSPOSED
from tests.sweep.problems import problem
from tritonconv import reference

ALL = [pytest.param(case, id=case.title) for case in CONV + TRANSPOSED + VARYING + VARYING_TRANSPOSED]


def ours(case: Case, *operands: Tensor | None) -> Tensor:
    """Return the case's result, computed by the reference."""
    return case.function(reference)(*operands)


def leaves(case: Case, dtype: torch.dtype, seed: int = 0) -> list[Tensor | None]:
    """Return the case's operands as leaves that require gradients, with None in the place of a missing bias."""
    return [None if t is None else t.detach().requires_grad_() for t in case.operands(dtype, seed=seed)]


def check(case: Case, layout: str = "contiguous", seed: int = 0) -> None:
    """Assert that the reference's result and all gradients agree with torch's in float64.

    The incoming gradient has the memory layout `layout`. `seed` draws the operands.
    """
    operands = leaves(case, torch.float64, seed)
    actual, expected = ours(case, *operands), forward(case, *operands)
    assert_close(actual, expected, "float64", f"{case} forward")
    given = hostile(expected.shape, expected.dtype, layout)
    inputs = [t for t in operands if t is not None]
    pairs = zip(torch.autograd.grad(actual, inputs, given), torch.autograd.grad(expected, inputs, given), strict=True)
    for name, (a, e) in zip(("input", "weight", "bias"), pairs, strict=False):
        assert_close(a, e, "float64", f"{case} gradient of {name}")


@pytest.mark.parametrize("case", ALL)
def test_agrees_with_torch(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("layout", ["all_zero_strides", *LAYOUTS])
@pytest.mark.parametrize("transposed", [False, True])
def test_any_layout_of_the_incoming_gradient(layout: str, transposed: bool) -> None:
    check(Case("hostile", stride=2, padding=1, groups=2, transposed=transposed), layout)


@pytest.mark.parametrize("block", range(10))
def test_random_problems(block: int) -> None:
    """600 random problems of the sweep, in which all parameters vary. About 50 have an empty batch."""
    for seed in range(60 * block, 60 * block + 60):
        case = problem(seed)
        check(case, case.gradient, seed)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64", "complex128"])
def test_every_dtype_of_unfold(dtype: str, transposed: bool) -> None:
    case = Case("dtype", stride=(2, 1), padding=1, groups=2, transposed=transposed)
    operands = leaves(case, getattr(torch, dtype))
    actual, expected = ours(case, *operands), forward(case, *operands)
    assert actual.dtype == operands[0].dtype
    tolerance = {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
    assert_close(actual, expected, tolerance)
    inputs = [t for t in operands if t is not None]
    for a, e in zip(gradients(actual, inputs), gradients(expected, inputs), strict=True):
        assert_close(a, e, tolerance)


def gradients(result: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(result.sum().abs(), inputs)


@pytest.mark.parametrize(
    "case",
    [c for c in CONV + TRANSPOSED if c.name in ("grouped", "strided", "output_padding")],
    ids=lambda case: case.title,
)
@pytest.mark.parametrize("batch", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_derivatives_of_first_and_second_order(case: Case, batch: int) -> None:
    case = replace(case, batch=batch)

    def function(*operands: Tensor) -> Tensor:
        return ours(case, *operands)

    operands = leaves(case, torch.float64)
    assert torch.autograd.gradcheck(function, operands)
    assert torch.autograd.gradgradcheck(function, operands)


def test_gradients_have_the_same_bits_every_time() -> None:
    """Also with several threads, which must not add to the same pixel in an order that varies."""
    threads = torch.get_num_threads()
    image, weight = torch.randn(1, 3, 96, 96, requires_grad=True), torch.randn(8, 3, 5, 5, requires_grad=True)
    gradient = torch.randn(1, 8, 96, 96)
    try:
        torch.set_num_threads(2)
        found = [
            torch.autograd.grad(reference.conv2d(image, weight, padding=2), (image, weight), gradient)
            for _ in range(20)
        ]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for each in found for a, b in zip(each, found[0], strict=True))


PRIMITIVE: dict[str, Any] = dict(stride=(2, 1), pad=(1, 2), dilation=(1, 2), groups=2)


def test_the_three_primitives_are_one_form() -> None:
    """<fprop(x, w), y> = <x, dgrad(y, w)> = <w, wgrad(x, y)>, because all of them are T(x, w, y)."""
    x, weight, y = (torch.randn(shape, dtype=torch.float64) for shape in ((2, 4, 7, 6), (6, 2, 3, 2), (2, 6, 4, 8)))
    terms = reference.fprop(x, weight, (4, 8), **PRIMITIVE) * y
    of_x = (reference.dgrad(y, weight, (7, 6), **PRIMITIVE) * x).sum()
    of_weight = (reference.wgrad(x, y, (3, 2), **PRIMITIVE) * weight).sum()
    for form in (of_x, of_weight):  # the terms cancel, so their sum may be far smaller than its error
        assert_close(form, terms.sum(), "float64", scale=terms.norm().item())


def test_fewer_positions_than_fit() -> None:
    """The primitives compute the `size` that they are given, also if the image has room for more positions."""
    x, weight = torch.randn(2, 4, 7, 9, dtype=torch.float64), torch.randn(6, 2, 3, 2, dtype=torch.float64)
    whole = reference.fprop(x, weight, (4, 11), **PRIMITIVE)
    y = reference.fprop(x, weight, (2, 5), **PRIMITIVE)
    assert_close(y, whole[:, :, :2, :5], "float64")
    assert reference.wgrad(x, y, (3, 2), **PRIMITIVE).shape == weight.shape


def test_the_form_itself() -> None:
    """fprop equals the sum that is written out index by index."""
    x, weight = torch.randn(1, 2, 4, 3, dtype=torch.float64), torch.randn(4, 1, 2, 2, dtype=torch.float64)
    y = reference.fprop(x, weight, (3, 2), stride=(2, 1), pad=(1, 0), dilation=(1, 1), groups=2)
    expected = torch.zeros(1, 4, 3, 2, dtype=torch.float64)
    for f in range(4):
        for p in range(3):
            for q in range(2):
                for r in range(2):
                    for s in range(2):
                        h, w = 2 * p + r - 1, q + s
                        if 0 <= h < 4 and 0 <= w < 3:
                            expected[0, f, p, q] += x[0, f // 2, h, w] * weight[f, 0, r, s]
    assert_close(y, expected, "float64")


def test_fold_is_the_adjoint_of_unfold() -> None:
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    patches = reference.unfold(x, (3, 2), (2, 9), stride=(3, 1), pad=(1, 2), dilation=(1, 2), groups=2)
    assert patches.shape == (2, 2, 2, 3, 2, 2, 9)
    other = torch.randn_like(patches)
    spread = reference.fold(other, (5, 6), stride=(3, 1), pad=(1, 2), dilation=(1, 2))
    terms = patches * other
    assert_close(terms.sum(), (x * spread).sum(), "float64", scale=terms.norm().item())
