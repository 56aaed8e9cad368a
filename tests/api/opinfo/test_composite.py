"""torch's checks of composite compliance: tensor subclasses and modes see every operation (torch.testing._internal).

The reference is a composite of torch's operators, so every check applies to it. tritonconv calls operators of its own.
There the checks see what surrounds an operator: views, checks of arguments, and derivatives. The tensors below an
operator are always plain. So with the kernels there is nothing more to see, and only the first check runs.
"""

from typing import Any

from torch.testing._internal import composite_compliance
from torch.testing._internal.common_utils import noncontiguous_like

from tests.support.opinfo import FEW, IN_PYTORCH, Problem, assert_exact, leaves, problems


def exact(actual: Any, expected: Any, equal_nan: bool = False) -> None:
    """Compare as torch's checks want it. No number is NaN."""
    assert_exact(actual, expected)


@problems(in_triton=FEW)
def test_with_mode(problem: Problem) -> None:
    composite_compliance.check_with_mode(problem.ours, problem.operands(), {}, exact)


@problems(IN_PYTORCH)
def test_all_permutations(problem: Problem) -> None:
    composite_compliance.check_all_permutations(problem.ours, problem.operands(), {}, exact)


@problems(IN_PYTORCH)
def test_backward_formula(problem: Problem) -> None:
    operands = leaves(map(noncontiguous_like, problem.operands()))
    composite_compliance.check_backward_formula(problem.ours, operands, {}, assert_equal_fn=exact)


@problems(IN_PYTORCH, quick=FEW)
def test_forward_ad_formula(problem: Problem) -> None:
    operands = leaves(problem.operands())
    composite_compliance.check_forward_ad_formula(problem.ours, operands, {}, assert_equal_fn=exact)
