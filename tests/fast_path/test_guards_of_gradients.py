"""A backward pass that was made before goes the long way if the gradient of the result is of another type.

These are subclasses, tensors of torch's transforms, and tensors with dispatch keys of their own. The gradients have the
same bits as ever, and the errors are the same.
"""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad

from tests.support.fast_path import (
    CONV2D,
    Kept,
    Subclass,
    WithoutFunction,
    Wrapper,
    assert_as_the_long_way,
    assert_identical,
    assert_same_error,
    gradients,
)

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]


@pytest.mark.parametrize("kind", [Subclass, WithoutFunction])
def test_gradients_of_other_types_go_the_long_way(kept_conv2d: Kept, kind: type[Tensor]) -> None:
    y, gradient = kept_conv2d.forward(), kept_conv2d.gradient.as_subclass(kind)
    found = assert_as_the_long_way(lambda: gradients(kept_conv2d, y, gradient))
    assert_identical([t.as_subclass(Tensor) for t in found], kept_conv2d.step()[1:])


def test_wrapped_gradients_see_the_operators(kept_conv2d: Kept) -> None:
    y, gradient = kept_conv2d.forward(), Wrapper(kept_conv2d.gradient)

    def run() -> list[Tensor]:
        found = gradients(kept_conv2d, y, gradient)
        assert {type(t) for t in found} == {Wrapper}
        return [t.held for t in found]

    assert_identical(assert_as_the_long_way(run), kept_conv2d.step()[1:])


def test_a_gradient_that_is_a_parameter_takes_the_fast_path(kept_conv2d: Kept) -> None:
    y, gradient = kept_conv2d.forward(), nn.Parameter(kept_conv2d.gradient)
    assert_as_the_long_way(lambda: gradients(kept_conv2d, y, gradient), backward=1)


def test_fake_gradients_go_the_long_way(kept_conv2d: Kept) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        gradient = mode.from_tensor(kept_conv2d.gradient)
        y = mode.from_tensor(kept_conv2d.forward().detach())
    assert type(y) is type(gradient)
    y = kept_conv2d.forward()
    with mode:
        found = assert_as_the_long_way(lambda: gradients(kept_conv2d, y, gradient))
        assert {type(t) for t in found} == {type(gradient)}


def test_negative_gradients_go_the_long_way(device: str) -> None:
    """The memory of an imaginary part of a conjugate tensor holds the numbers with the other sign."""
    operands, complex_one = CONV2D.operands(device), CONV2D.gradient(device, torch.complex64)
    CONV2D.keep(operands, complex_one.imag)
    negative = complex_one.conj().imag
    assert negative.is_neg()
    assert (negative.data_ptr(), negative.stride()) == (complex_one.imag.data_ptr(), complex_one.imag.stride())
    y = CONV2D(*operands)
    found = assert_as_the_long_way(lambda: [*torch.autograd.grad(y, operands, negative, retain_graph=True)])
    opposite = torch.autograd.grad(y, operands, complex_one.imag)
    assert_identical([-t for t in found], [t + 0 for t in opposite])


def test_zero_gradients_go_the_long_way(kept_conv2d: Kept, device: str) -> None:
    """Tensors that have no memory."""
    y, gradient = kept_conv2d.forward(), torch._efficientzerotensor(kept_conv2d.problem.shapes[3], device=device)
    found = assert_as_the_long_way(lambda: gradients(kept_conv2d, y, gradient))
    assert not any(t.any() for t in found)


def test_sparse_gradients_are_refused_as_before(kept_conv2d: Kept) -> None:
    y, gradient = kept_conv2d.forward(), kept_conv2d.gradient.to_sparse()
    assert_same_error(lambda: gradients(kept_conv2d, y, gradient), "[Ss]parse|storage|layout")


def test_gradients_that_have_left_their_transform_go_the_long_way(kept_conv2d: Kept) -> None:
    """What a function in a transform has leaked is a wrapper of functorch, though its type is Tensor."""
    leaked: list[Tensor] = []
    torch.func.grad(lambda t: leaked.append(t) or t.sum())(kept_conv2d.gradient)
    assert type(leaked[0]) is Tensor
    y = kept_conv2d.forward()
    found = assert_as_the_long_way(lambda: gradients(kept_conv2d, y, leaked[0]))
    assert_identical(found, kept_conv2d.step()[1:])


def test_a_dual_gradient_is_refused_as_before(kept_conv2d: Kept) -> None:
    """Forward mode over backward, where forward did not know of it, is refused by torch."""
    y = kept_conv2d.forward()
    with forward_ad.dual_level():
        gradient = forward_ad.make_dual(kept_conv2d.gradient, torch.ones_like(kept_conv2d.gradient))
        assert_same_error(lambda: gradients(kept_conv2d, y, gradient), "forward mode AD|jvp")
