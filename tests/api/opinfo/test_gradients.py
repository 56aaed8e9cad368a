"""gradcheck and gradgradcheck, with every check that torch's OpInfo claims for its convolutions (TestGradients).

The kernels compute in float32 at most, in which finite differences are no evidence. `test_transforms.py` compares their
derivatives with torch's.
"""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from tests.support.opinfo import FEW, IN_PYTORCH, Problem, leaves, problems


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=["float64", "complex128"])
@problems(IN_PYTORCH)
def test_gradcheck(problem: Problem, dtype: torch.dtype) -> None:
    info = problem.opinfo
    assert gradcheck(
        problem.ours,
        leaves(problem.operands(dtype)),
        check_grad_dtypes=True,
        check_undefined_grad=True,
        check_batched_grad=info.check_batched_grad,
        check_forward_ad=info.supports_forward_ad,
        check_batched_forward_grad=info.check_batched_forward_grad,
        fast_mode=info.gradcheck_fast_mode,
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=["float64", "complex128"])
@problems(IN_PYTORCH, quick=FEW)
def test_gradgradcheck(problem: Problem, dtype: torch.dtype) -> None:
    info = problem.opinfo
    assert gradgradcheck(
        problem.ours,
        leaves(problem.operands(dtype)),
        gen_non_contig_grad_outputs=True,
        check_grad_dtypes=True,
        check_undefined_grad=True,
        check_batched_grad=info.check_batched_gradgrad,
        check_fwd_over_rev=info.supports_fwgrad_bwgrad,
        check_rev_over_rev=info.supports_gradgrad,
        fast_mode=info.gradcheck_fast_mode,
    )
