"""What torch's TestCommon checks of results: dtypes, autocast, requires_grad, memory of their own, and no `out`."""

from collections.abc import Sequence
from inspect import signature

import pytest
import torch
from torch import Tensor

import tritonconv
from tests.support.opinfo import (
    FEW,
    IN_PYTORCH,
    NAMES,
    OPINFOS,
    Problem,
    assert_exact,
    leaves,
    problems,
    step,
    wide,
)
from tests.support.oracle import assert_close, precision_on
from tritonconv import reference

# Integers have tests of their own.
DTYPES = sorted((t for t in OPINFOS["conv2d"].dtypes if t.is_floating_point or t.is_complex), key=str)


def check_step(problem: Problem, operands: Sequence[Tensor], dtype: torch.dtype, actual: Sequence[Tensor]) -> None:
    """Assert that `actual` is what `step` of torch's function returns in float64, for a gradient of ones.

    Sums of small integers are exact in all dtypes but bfloat16, which rounds some of the results.
    """
    wider = wide(operands)
    expected = step(problem.theirs, wider, torch.ones_like(problem.theirs(*wider)))
    if dtype != torch.bfloat16:
        assert_exact(actual, expected)
    precision = precision_on(problem.device, "bfloat16") if problem.implementation == "triton" else "bfloat16"
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, precision)


def ones(problem: Problem, operands: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.ones_like(problem.theirs(*wide(operands))).to(problem.device, dtype)


def test_both_functions_claim_the_same_dtypes() -> None:
    assert {torch.float16, torch.bfloat16, torch.float32, torch.complex64} < set(DTYPES)
    assert OPINFOS["conv_transpose2d"].dtypes == OPINFOS["conv2d"].dtypes


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@problems(IN_PYTORCH, quick=FEW)
def test_claimed_dtypes(problem: Problem, dtype: torch.dtype) -> None:
    operands = problem.operands(dtype)
    actual = step(problem.ours, operands, ones(problem, operands, dtype))
    assert {t.dtype for t in actual} == {dtype}
    check_step(problem, operands, dtype, actual)


@problems(in_triton=FEW)
def test_autocast(problem: Problem) -> None:
    """The result has autocast's dtype, and each gradient that of its operand. Small integers are exact in bfloat16."""
    operands = problem.operands(torch.float32)
    with torch.autocast(problem.device, torch.bfloat16):
        actual = step(problem.ours, operands, ones(problem, operands, torch.bfloat16))
    assert [t.dtype for t in actual] == [torch.bfloat16, *(t.dtype for t in operands)]
    check_step(problem, operands, torch.bfloat16, actual)


@problems(in_triton=FEW)
def test_results_share_no_memory(problem: Problem) -> None:
    """No result or gradient is a view of an input or of another, and no input is written to."""
    operands = problem.operands()
    gradient = ones(problem, operands, operands[0].dtype)
    inputs = [*operands, gradient]
    before, versions = [t.clone() for t in inputs], [t._version for t in inputs]
    given = leaves(operands)
    result = problem.ours(*given)
    gradients = torch.autograd.grad(result, given, gradient)
    memories = [t.untyped_storage().data_ptr() for t in (*inputs, result, *gradients)]
    assert len(set(memories)) == len(memories)
    if problem.implementation == "operator":  # the tests put guard bands around what kernels write
        assert all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in (result, *gradients))
    assert_exact(inputs, before)
    assert [t._version for t in inputs] == versions


@problems(IN_PYTORCH)
def test_lazy_copies_stay_lazy(problem: Problem) -> None:
    """Copy-on-write inputs are not copied, because nothing writes to them. The kernels take addresses, which copies."""
    operands = problem.operands()
    gradient = ones(problem, operands, operands[0].dtype)
    lazy = [torch._lazy_clone(t) for t in (*operands, gradient)]
    step(problem.ours, lazy[:-1], lazy[-1])
    assert all(torch._C._is_cow_tensor(t) for t in lazy)


@problems(in_triton=FEW)
def test_requires_grad(problem: Problem) -> None:
    """The result requires a gradient if any operand does. Then exactly these operands get one, as from torch."""
    operands = problem.operands()
    expected = step(problem.theirs, wide(operands), ones(problem, operands, torch.float64).cpu())[1:]
    for subset in range(2 ** len(operands)):
        needed = [bool(subset >> i & 1) for i in range(len(operands))]
        given = [t.detach().clone().requires_grad_(need) for t, need in zip(operands, needed, strict=True)]
        result = problem.ours(*given)
        assert (result.requires_grad, result.is_leaf) == (any(needed), not any(needed))
        if any(needed):
            result.sum().backward()
        assert [t.grad is not None for t in given] == needed
        for t, e in zip(given, expected, strict=True):
            assert t.grad is None or torch.equal(t.grad.cpu().double(), e)
    with torch.no_grad():
        assert not problem.ours(*leaves(operands)).requires_grad


@pytest.mark.parametrize("package", [reference, tritonconv], ids=["reference", "tritonconv"])
@pytest.mark.parametrize("name", NAMES)
def test_there_is_no_out(name: str, package: object) -> None:
    assert not OPINFOS[name].supports_out
    assert "out" not in signature(getattr(package, name)).parameters
