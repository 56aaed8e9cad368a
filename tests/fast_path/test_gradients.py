"""A backward pass is kept for each memory order of the gradient of the result.

It returns what autograd asks for: the gradients of some operands, or gradients that are added up.
"""

import pytest
import torch
from torch import Tensor

from tests.support.fast_path import Kept, assert_as_the_long_way, assert_identical, drawn, gradients

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]


@pytest.mark.parametrize("layout", ["expanded", "channels_last", "transposed", "offset"])
def test_gradients_in_each_memory_order_are_kept_by_themselves(kept: Kept, layout: str, device: str) -> None:
    """The gradient of a sum is expanded, and has strides of 0. Another may be transposed, or start elsewhere."""
    shape = kept.problem.shapes[3]
    gradient = {
        "expanded": lambda: torch.ones((), device=device).expand(shape),
        "channels_last": lambda: drawn(*shape, device=device).to(memory_format=torch.channels_last),
        "transposed": lambda: drawn(*shape[::-1], device=device).permute(3, 2, 1, 0),
        "offset": lambda: torch.cat([kept.gradient.new_zeros(1), kept.gradient.flatten()])[1:].view(shape),
    }[layout]()
    y = kept.forward()
    assert_as_the_long_way(lambda: gradients(kept, y, gradient))
    assert_as_the_long_way(lambda: gradients(kept, y, gradient), backward=1)
    assert_as_the_long_way(lambda: gradients(kept, y, kept.gradient), backward=1)


def test_gradients_of_some_operands_alone(kept: Kept) -> None:
    """`inputs` asks for fewer gradients than forward has said."""
    y, expected = kept.forward(), kept.step()[1:]
    for operand, gradient in zip(kept.operands, expected, strict=True):

        def run(operand: Tensor = operand) -> list[Tensor]:
            return [*torch.autograd.grad(y, operand, kept.gradient, retain_graph=True)]

        assert_identical(assert_as_the_long_way(run, backward=1), [gradient])


def test_accumulated_gradients(kept: Kept) -> None:
    """`backward` adds the gradients of two steps in the leaves' `grad`, and none shares memory with another."""

    def run() -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in kept.operands]
        for _ in range(2):
            kept.problem(*leaves).backward(kept.gradient)
        return [t.grad for t in leaves]

    found = assert_as_the_long_way(run, forward=2, backward=2)
    assert all(torch.equal(t, 2 * each) for t, each in zip(found, kept.step()[1:], strict=True))
    assert len({t.untyped_storage().data_ptr() for t in found}) == 3
