"""Conjugate, negative and noncontiguous views count as the tensors that they show (torch's TestMathBits)."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.testing._internal.common_utils import noncontiguous_like

from tests.support.opinfo import FEW, IN_PYTORCH, Problem, assert_exact, integers_like, problems, step, wide

# Each function makes a lazy view. If it is resolved, it has the numbers of the tensor that it was made of.
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "conj": lambda t: t.conj().resolve_conj().conj(),
    "neg": lambda t: torch._neg_view(-t),
    "neg_conj": lambda t: torch._neg_view((-t).conj().resolve_conj().conj()),
}


def check_views(problem: Problem, view: Callable[[Tensor], Tensor], operands: Sequence[Tensor]) -> None:
    """Assert that every subset of the operands may be views, and the incoming gradient, too."""
    expected_result = problem.theirs(*wide(operands))
    gradient = integers_like(expected_result).to(operands[0].device, operands[0].dtype)
    expected = step(problem.theirs, wide(operands), *wide([gradient]))
    every = 2 ** len(operands) - 1
    # Of the kernels, which see resolved tensors only, all operands are views at once.
    for subset in range(every if problem.implementation == "triton" else 1, every + 1):
        given = [view(t) if subset >> i & 1 else t for i, t in enumerate(operands)]
        assert_exact(step(problem.ours, given, gradient), expected)
        assert_exact(step(problem.ours, given, view(gradient)), expected)
    assert_exact(step(problem.ours, operands, view(gradient)), expected)


@pytest.mark.parametrize("view", VIEWS)
@problems(IN_PYTORCH, quick=FEW)
def test_complex_views(problem: Problem, view: str) -> None:
    """The kernels take no complex numbers."""
    operands = problem.operands(torch.complex128)
    made = VIEWS[view](operands[0])
    assert (made.is_conj(), made.is_neg()) == ("conj" in view, "neg" in view)
    check_views(problem, VIEWS[view], operands)


@problems(in_triton=FEW)
def test_negative_views_of_real_numbers(problem: Problem) -> None:
    check_views(problem, VIEWS["neg"], problem.operands())


@problems()
def test_noncontiguous_tensors(problem: Problem) -> None:
    """torch's noncontiguous tensors have NaN in their gaps. The incoming gradient has gaps, too."""
    operands = problem.operands()
    gaps = [noncontiguous_like(t) for t in operands]
    gradient = integers_like(problem.theirs(*wide(operands))).to(operands[0].device, operands[0].dtype)
    assert not any(t.is_contiguous() for t in gaps if t.numel() > 1)
    expected = step(problem.theirs, wide(operands), *wide([gradient]))
    assert_exact(step(problem.ours, gaps, noncontiguous_like(gradient)), expected)
