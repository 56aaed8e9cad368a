"""Under autocast a repeated call takes the fast path, and gives what the long way gives. It is never stale."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.fast_path import CONV2D, Kept, assert_as_the_long_way, assert_same_error

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]

DTYPES = [torch.bfloat16, torch.float16]


def step_under(kept: Kept, device: str, **how: Any) -> list[Tensor]:
    """Return the result under autocast, and the gradients, which are computed after its block."""
    with torch.autocast(device, **how):
        y = kept.forward()
    return [y, *torch.autograd.grad(y, kept.operands, kept.gradient.to(y.dtype))]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_step_under_autocast(kept: Kept, dtype: torch.dtype, device: str) -> None:
    """It is kept beside the step without autocast. The gradients have the dtypes of the operands."""

    def step() -> list[Tensor]:
        return step_under(kept, device, dtype=dtype)

    assert_as_the_long_way(step)
    step()
    y, *gradients = assert_as_the_long_way(step, forward=1, backward=1)
    assert y.dtype == dtype
    assert {t.dtype for t in gradients} == {torch.float32}
    assert_as_the_long_way(kept.step, forward=1, backward=1)


def test_backward_inside_of_autocast(kept: Kept, device: str) -> None:
    def step() -> list[Tensor]:
        with torch.autocast(device, dtype=torch.bfloat16):
            y = kept.forward()
            return [y, *torch.autograd.grad(y, kept.operands, kept.gradient.to(y.dtype))]

    step()
    step()
    assert_as_the_long_way(step, forward=1, backward=1)


def test_backward_alone_under_autocast(kept: Kept, device: str) -> None:
    """Autocast changes nothing about it."""
    y = kept.forward()
    with torch.autocast(device, dtype=torch.bfloat16):

        def gradients() -> tuple[Tensor, ...]:
            return torch.autograd.grad(y, kept.operands, kept.gradient, retain_graph=True)

        assert {t.dtype for t in assert_as_the_long_way(gradients, backward=1)} == {torch.float32}


def test_blocks_of_autocast_within_each_other(kept_conv2d: Kept, device: str) -> None:
    """The innermost block decides: its dtype, or that there is no autocast. After it, the outer one does again."""
    for dtype in DTYPES:
        for _ in range(2):
            step_under(kept_conv2d, device, dtype=dtype)

    def result(dtype: torch.dtype) -> None:
        assert assert_as_the_long_way(kept_conv2d.forward, forward=1).dtype == dtype

    with torch.autocast(device, dtype=torch.bfloat16):
        result(torch.bfloat16)
        with torch.autocast(device, dtype=torch.float16):
            result(torch.float16)
            with torch.autocast(device, enabled=False):
                result(torch.float32)
            result(torch.float16)
        result(torch.bfloat16)
        with torch.autocast(device, enabled=False):
            result(torch.float32)
    result(torch.float32)


def test_a_changed_dtype_of_autocast(kept_conv2d: Kept, device: str) -> None:
    before = torch.get_autocast_dtype(device)
    try:
        for dtype in DTYPES:
            torch.set_autocast_dtype(device, dtype)
            for _ in range(2):
                step_under(kept_conv2d, device)
            y, *_ = assert_as_the_long_way(lambda: step_under(kept_conv2d, device), forward=1, backward=1)
            assert y.dtype == dtype
    finally:
        torch.set_autocast_dtype(device, before)


def test_autocast_of_another_device_changes_nothing(kept: Kept, device: str) -> None:
    with torch.autocast("cpu" if device == "cuda" else "xpu", dtype=torch.bfloat16):
        y, *_ = assert_as_the_long_way(kept.step, forward=1, backward=1)
    assert y.dtype == torch.float32


@pytest.mark.parametrize("cached", [False, True])
def test_weights_that_change_in_place_under_autocast(kept: Kept, cached: bool, device: str) -> None:
    """Torch caches a converted weight until autocast ends. A weight that has changed since is converted again."""
    how: dict[str, Any] = dict(dtype=torch.bfloat16, cache_enabled=cached)
    for _ in range(2):
        step_under(kept, device, **how)
    results = []
    with torch.autocast(device, **how):
        for _ in range(2):
            results.append(assert_as_the_long_way(kept.forward, forward=1))
            with torch.no_grad():
                kept.operands[1].mul_(2)
                kept.operands[2].mul_(2)
    results.append(assert_as_the_long_way(lambda: step_under(kept, device, **how), forward=1, backward=1)[0])
    assert torch.equal(results[1], 2 * results[0])  # bfloat16 is exact about powers of two
    assert torch.equal(results[2], 4 * results[0])


def test_float64_keeps_its_dtype(kept_conv2d: Kept, device: str) -> None:
    operands = [t.detach().double().requires_grad_() for t in kept_conv2d.operands]
    gradient = kept_conv2d.gradient.double()
    with torch.autocast(device, dtype=torch.bfloat16):
        for _ in range(2):
            found = assert_as_the_long_way(lambda: CONV2D.step(operands, gradient))
    assert {t.dtype for t in found} == {torch.float64}


@pytest.mark.parametrize("place", range(3), ids=["input", "weight", "bias"])
def test_dtypes_that_differ_are_refused_as_before(kept_conv2d: Kept, place: int, device: str) -> None:
    """Without autocast they are. Under autocast those that it converts may differ, and those that it leaves may not."""
    operands = list(kept_conv2d.operands)
    operands[place] = operands[place].half()
    assert_same_error(lambda: CONV2D(*operands), "should be the same")
    with torch.autocast(device, dtype=torch.bfloat16):
        CONV2D(*kept_conv2d.operands)
        assert_as_the_long_way(lambda: CONV2D(*operands), forward=1)
        operands[place] = operands[place].double()
        assert_same_error(lambda: CONV2D(*operands), "should be the same")
    assert_same_error(lambda: CONV2D(*operands), "should be the same")


def test_dtypes_may_differ_after_they_did_not(kept_conv2d: Kept, device: str) -> None:
    """The gradients have the dtypes of the operands, and follow them."""
    input, weight, bias = kept_conv2d.operands
    with torch.autocast(device, dtype=torch.float16):
        for operands in ([input, weight, bias], [input.detach().half().requires_grad_(), weight, bias]):

            def step(operands: list[Tensor] = operands) -> list[Tensor]:
                y = CONV2D(*operands)
                return [y, *torch.autograd.grad(y, operands, kept_conv2d.gradient.to(y.dtype))]

            step()
            step()
            _, *gradients = assert_as_the_long_way(step, forward=1, backward=1)
            assert [t.dtype for t in gradients] == [t.dtype for t in operands]
