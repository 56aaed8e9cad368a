"""A call that was made before goes the long way if its tensors are of other types, or hold their numbers otherwise.

These are subclasses, tensors of torch's compiler and transforms, and tensors with dispatch keys of their own. The call
gives the same bits, the same gradients and the same errors as ever.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from tests.support.fast_path import (
    CONV2D,
    Kept,
    Subclass,
    WithoutFunction,
    Wrapper,
    assert_as_the_long_way,
    assert_same_error,
    drawn,
)
from tests.support.ways import Repeated, repeated

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]


class SpecialParameter(nn.Parameter):
    """A subclass of Parameter."""


TYPES: dict[str, Callable[[Tensor], Tensor]] = {
    "subclass": lambda t: t.detach().as_subclass(Subclass).requires_grad_(),
    "without_function": lambda t: t.detach().as_subclass(WithoutFunction).requires_grad_(),
    "special_parameter": lambda t: SpecialParameter(t.detach()),
    "parameter_of_a_subclass": lambda t: nn.Parameter(t.detach().as_subclass(Subclass)),
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("place", range(3), ids=["input", "weight", "bias"])
def test_operands_of_other_types_go_the_long_way(kept_conv2d: Kept, kind: str, place: int) -> None:
    operands = list(kept_conv2d.operands)
    operands[place] = TYPES[kind](operands[place])
    step = assert_as_the_long_way(lambda: kept_conv2d.problem.step(operands, kept_conv2d.gradient))
    assert (type(step[0]) is Subclass) == ("subclass" in kind)


@pytest.mark.parametrize("place", range(3), ids=["input", "weight", "bias"])
def test_wrappers_see_the_operator(kept_conv2d: Kept, place: int) -> None:
    operands = list(kept_conv2d.operands)
    operands[place] = Wrapper(operands[place])

    def step() -> list[Any]:
        found = kept_conv2d.problem.step(operands, kept_conv2d.gradient)
        assert type(found[0]) is Wrapper
        return [t.held if isinstance(t, Wrapper) else t for t in found]

    assert_as_the_long_way(step)


def test_parameters_and_tensors_take_the_fast_path(kept: Kept) -> None:
    input, weight, bias = (t.detach() for t in kept.operands)
    operands = [input.requires_grad_(), nn.Parameter(weight), nn.Buffer(bias).requires_grad_()]
    assert_as_the_long_way(lambda: kept.problem.step(operands, kept.gradient), forward=1, backward=1)


@pytest.mark.parametrize("within", [False, True])
def test_fake_tensors_go_the_long_way(kept_conv2d: Kept, within: bool) -> None:
    """Within their mode and outside of it."""

    def step() -> list[Tensor]:
        with FakeTensorMode() as mode:
            operands = [mode.from_tensor(t) for t in kept_conv2d.operands]
            gradient = mode.from_tensor(kept_conv2d.gradient)
        with mode if within else nullcontext():
            return kept_conv2d.problem.step(operands, gradient)

    with repeated() as count:
        found = step()
    assert count == Repeated()
    for one, other in zip(found, kept_conv2d.step(), strict=True):
        assert (one.shape, one.stride(), one.dtype, one.device) == (
            other.shape,
            other.stride(),
            other.dtype,
            other.device,
        )
    assert all(isinstance(t, torch._subclasses.FakeTensor) for t in found)


def test_functional_tensors_go_the_long_way(kept_conv2d: Kept) -> None:
    """Those that `torch.compile` makes of graphs with changes in place."""

    def run() -> Tensor:
        with torch.no_grad():
            operands = [torch._to_functional_tensor(t) for t in kept_conv2d.operands]
            y = kept_conv2d.problem(*operands)
            assert torch._is_functional_tensor(y)
            return torch._from_functional_tensor(y)

    assert_as_the_long_way(run)


@pytest.mark.parametrize("place", range(3), ids=["input", "weight", "bias"])
def test_negative_views_go_the_long_way(device: str, place: int) -> None:
    """Imaginary parts of conjugate tensors: the memory holds the numbers with the other sign."""
    complex_one = drawn(*CONV2D.shapes[place], device=device, dtype=torch.complex64)
    operands = CONV2D.operands(device)
    operands[place] = complex_one.imag.requires_grad_()
    gradient = CONV2D.gradient(device)
    CONV2D.keep(operands, gradient)
    negative = complex_one.conj().imag
    assert negative.is_neg()
    assert (negative.data_ptr(), negative.stride()) == (operands[place].data_ptr(), operands[place].stride())
    opposite = [*operands]
    opposite[place] = negative.requires_grad_()
    found = assert_as_the_long_way(lambda: CONV2D.step(opposite, gradient))
    opposite[place] = (-complex_one.imag).requires_grad_()
    torch.testing.assert_close(found, CONV2D.step(opposite, gradient))


def test_conjugate_views_go_the_long_way(device: str) -> None:
    input, weight, bias = CONV2D.operands(device, torch.complex64)
    operands = [input, weight.detach().conj().requires_grad_(), bias]
    assert operands[1].is_conj()
    gradient = CONV2D.gradient(device, torch.complex64)
    for _ in range(2):
        assert_as_the_long_way(lambda: CONV2D.step(operands, gradient))


@pytest.mark.parametrize("place", range(3), ids=["input", "weight", "bias"])
def test_zero_tensors_go_the_long_way(kept_conv2d: Kept, place: int, device: str) -> None:
    """Tensors that autograd makes for gradients of zero have no memory."""
    operands = list(kept_conv2d.operands)
    operands[place] = torch._efficientzerotensor(operands[place].shape, device=device)
    found = assert_as_the_long_way(lambda: kept_conv2d.problem(*operands))
    operands[place] = torch.zeros(operands[place].shape, device=device)
    assert torch.equal(found, kept_conv2d.problem(*operands))


@pytest.mark.parametrize("place", range(3), ids=["input", "weight", "bias"])
def test_sparse_tensors_are_refused_as_before(kept_conv2d: Kept, place: int) -> None:
    operands = [t.detach() for t in kept_conv2d.operands]
    operands[place] = operands[place].to_sparse()
    assert_same_error(lambda: kept_conv2d.problem(*operands), "[Ss]parse|storage")


def test_tensors_without_data_go_the_long_way(kept_conv2d: Kept) -> None:
    operands = [t.detach().to("meta").requires_grad_() for t in kept_conv2d.operands]
    assert_as_the_long_way(lambda: kept_conv2d.problem.step(operands, kept_conv2d.gradient.to("meta")))


def test_tensors_that_have_left_their_transform_go_the_long_way(kept_conv2d: Kept) -> None:
    """What a function in a transform has leaked is a wrapper of functorch, though its type is Tensor."""
    leaked: list[Tensor] = []

    def leaking(weight: Tensor) -> Tensor:
        leaked.append(weight)
        return weight.sum()

    torch.func.grad(leaking)(kept_conv2d.operands[1].detach())
    input, _, bias = kept_conv2d.operands
    assert type(leaked[0]) is Tensor
    assert_as_the_long_way(lambda: kept_conv2d.problem(input, leaked[0], bias))
