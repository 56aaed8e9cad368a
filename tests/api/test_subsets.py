"""Gradients of every order are torch's, for every subset of the tensors that need one.

A convolution skips what is not needed, so each subset takes another way through the formulas. Most operators run as the
reference in float64, and on tiny images some run in Triton.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import tritonconv
from tests.support.cases import Case
from tests.support.oracle import convolution_precision
from tests.support.subsets import SHARED, TINY, VARYING, Function, Subset, assert_alike, gradients, problem_of, subsets
from tritonconv import reference
from tritonconv.operators import autograd

pytestmark = pytest.mark.gpu
EVERY = pytest.mark.parametrize("case", SHARED + VARYING, ids=str)
NAMES = ("gradient", "input", "weight", "bias")


def named(members: Sequence[int]) -> str:
    """Return the names of these tensors, where the incoming gradient is number 0."""
    return " and ".join(NAMES[i] for i in members)


def both_orders(
    function: Function, tensors: Sequence[Tensor], along: Sequence[Tensor], needing: Subset, uses: Sequence[Subset]
) -> dict[Subset, Sequence[Tensor | None]]:
    """Return gradients where only the tensors `needing` need one. Numbers 0 to 3 mean those of `NAMES`.

    Under () are the gradients of one backward pass. Under each subset in `uses` are the gradients of the products of
    its first gradients with `along`.
    """
    leaves = [t.detach().requires_grad_(i in needing) for i, t in enumerate(tensors)]
    operands = [i for i in needing if i > 0]
    y = function(*leaves[1:])
    y.backward(tensors[0], retain_graph=True)
    found: dict[Subset, Sequence[Tensor | None]] = {(): [t.grad for t in leaves]}
    first = torch.autograd.grad(y, [leaves[i] for i in operands], leaves[0], create_graph=True)
    products = {i: (g * along[i]).sum().real for i, g in zip(operands, first, strict=True)}
    for used in uses:
        result = torch.stack([products[i] for i in used]).sum()
        found[used] = gradients(result, [leaves[i] for i in needing], retain_graph=True)
    return found


def check_both_orders(case: Case, package: Any, dtype: torch.dtype) -> None:
    ours, theirs, operands = problem_of(case, package, dtype)
    tensors = [torch.randn_like(theirs(*operands)), *operands]
    along = [torch.randn_like(t) for t in tensors]
    one_operator = package is tritonconv and not case.transposed and not case.varies
    for needing in subsets(len(tensors))[1:]:
        uses = subsets([i for i in needing if i > 0])
        actual, expected = (both_orders(function, tensors, along, needing, uses) for function in (ours, theirs))
        for used, wanted in expected.items():
            what = f"{named(needing)} need a gradient, {named(used)} are used"
            # conv2d's operator for the gradients of weight and bias gives zeros for a use of the latter.
            zeros = one_operator and {2, 3} <= set(needing) and 3 in used and 2 not in used
            assert_alike(actual[used], wanted, what, zeros=zeros)


@EVERY
def test_first_and_second_order(case: Case) -> None:
    """Any of the incoming gradient and the operands need a gradient, and any of their gradients are used."""
    check_both_orders(case, tritonconv, torch.float64)


@pytest.mark.parametrize("case", SHARED, ids=str)
def test_first_and_second_order_of_the_reference(case: Case) -> None:
    check_both_orders(case, reference, torch.float64)


@pytest.mark.parametrize("case", SHARED[::3] + VARYING[1:6:4], ids=str)
def test_first_and_second_order_of_complex_numbers(case: Case) -> None:
    check_both_orders(case, tritonconv, torch.complex128)


@EVERY
def test_only_what_is_needed_is_computed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weight's gradient comes first, and for conv2d it comes together with the bias's."""
    ours, _, operands = problem_of(case)
    with_bias = "wgrad" if case.transposed or case.varies else "wgrad_with_bias"
    names: list[str] = []

    def noted(name: str, call: Function, *arguments: Any) -> Any:
        names.append(name)
        return call(*arguments)

    for name, call in autograd.DIRECT.items():
        monkeypatch.setitem(autograd.DIRECT, name, partial(noted, name, call))
    for needing in subsets(len(operands)):
        names.clear()
        ours(*(t.detach().requires_grad_(i in needing) for i, t in enumerate(operands))).sum().backward()
        weight = [with_bias if 2 in needing else "wgrad"] if 1 in needing else []
        assert names == weight + ["fprop" if case.transposed else "dgrad"] * (0 in needing), needing


def three_orders(function: Function, operands: Sequence[Tensor], needing: Subset) -> list[Tensor | None]:
    """Return gradients of first to third order of a function that is not linear, of the operands `needing` one."""
    leaves = [t.detach().requires_grad_(i in needing) for i, t in enumerate(operands)]
    wanted = [leaves[i] for i in needing]
    result, found = function(*leaves), []
    for _ in range(3):
        weighting = torch.linspace(-1, 2, result.numel(), dtype=result.dtype).view(result.shape)
        first = torch.autograd.grad((result.square() * weighting).sum(), wanted, create_graph=True)
        found += first
        result = torch.cat([g.flatten() for g in first])
        result = result / result.detach().square().mean().sqrt()
    return found


@pytest.mark.parametrize("case", SHARED[::3] + VARYING, ids=str)
def test_three_orders_of_what_is_not_linear(case: Case) -> None:
    """The incoming gradient depends on the operands, as it does in a network.

    If the weight varies, all operands need a gradient.
    """
    ours, theirs, operands = problem_of(case)
    every = subsets(len(operands))
    for needing in every[-1:] if case.varies else every:
        actual, expected = (three_orders(function, operands, needing) for function in (ours, theirs))
        assert_alike(actual, expected, f"operands {needing} need a gradient")
        assert all(e is not None and e.any() for e in expected), "zeros would be no evidence"


@EVERY
def test_gradients_of_a_batch_of_incoming_gradients(case: Case) -> None:
    """Backward is mapped over the incoming gradient alone, as `torch.autograd.functional.jacobian` does it."""
    ours, theirs, operands = problem_of(case)
    incoming = torch.randn(3, *theirs(*operands).shape, dtype=torch.float64)

    def batched(function: Function, needing: Subset) -> Sequence[Tensor]:
        leaves = [t.detach().requires_grad_(i in needing) for i, t in enumerate(operands)]
        wanted = [leaves[i] for i in needing]
        return torch.autograd.grad(function(*leaves), wanted, incoming, is_grads_batched=True)

    for needing in subsets(len(operands)):
        assert_alike(batched(ours, needing), batched(theirs, needing), f"operands {needing} need a gradient")


@pytest.mark.gpu
@pytest.mark.parametrize("needing", [(0, *some) for some in subsets((1, 2, 3))] + [(1, 2, 3)], ids=named)
@pytest.mark.parametrize("transposed", [False, True], ids=["conv2d", "conv_transpose2d"])
def test_first_and_second_order_in_triton(transposed: bool, needing: Subset, device: str) -> None:
    """All operators run in Triton in float32. All gradients are used."""
    ours, theirs, operands = problem_of(replace(TINY, transposed=transposed), implementation="triton")
    tensors = [t.to(device, torch.float32) for t in (torch.randn_like(theirs(*operands)), *operands)]
    along = [torch.randn_like(t) for t in tensors]
    uses = [tuple(i for i in needing if i > 0)]
    with convolution_precision("ieee"):
        actual = both_orders(ours, tensors, along, needing, uses)
    wide = ([t.double() for t in given] for given in (tensors, along))
    for used, wanted in both_orders(theirs, *wide, needing, uses).items():
        assert_alike(actual[used], wanted, f"{named(used)} are used", "float32")
