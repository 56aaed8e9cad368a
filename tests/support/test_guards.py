"""Tests of the guards: each guard finds the error that it is for."""

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError

import tritonconv
from tests.support import guards
from tests.support.cases import LAYOUTS, laid_out
from tritonconv import runtime
from tritonconv.launch import start
from tritonconv.launch.plan import Plan

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]

needs_interpreter = pytest.mark.skipif(not runtime.interpreted(), reason="addresses are checked in the interpreter")


@triton.jit
def copy_kernel(x_ptr, y_ptr, length, SHIFT: tl.constexpr, UNMASKED: tl.constexpr):
    i = tl.arange(0, 16)
    x = tl.load(x_ptr + i) if UNMASKED else tl.load(x_ptr + i + SHIFT, mask=i < length, other=0.0)
    tl.store(y_ptr + i, x, mask=i < length)


@triton.jit
def copy_described_kernel(x_ptr, y_ptr, rows, DECLARED: tl.constexpr):
    """y[i,j] = x[i,j] for 8 x 16 elements, by TMA descriptors. The descriptor of x says that x has `DECLARED` rows."""
    x = tl.make_tensor_descriptor(x_ptr, [DECLARED, 16], [16, 1], [8, 16])
    y = tl.make_tensor_descriptor(y_ptr, [rows, 16], [16, 1], [8, 16])
    y.store([0, 0], x.load([0, 0]))


@needs_interpreter
def test_addresses_of_loads_are_checked() -> None:
    x, y = torch.arange(16.0), torch.zeros(16)
    with guards.checked_addresses():
        copy_kernel[(1,)](x[:10], y, 10, SHIFT=0, UNMASKED=False)
        assert torch.equal(y[:10], x[:10])
        for shift, unmasked in ((1, False), (-1, False), (0, True)):
            with pytest.raises(InterpreterError, match="addresses of a load lie outside every tensor"):
                copy_kernel[(1,)](x[:10], y, 10, SHIFT=shift, UNMASKED=unmasked)


@needs_interpreter
def test_addresses_of_stores_are_checked_in_every_launch_anew() -> None:
    """Memory that only an earlier launch was given counts as outside."""
    x, y = torch.arange(16.0), torch.zeros(16)
    with guards.checked_addresses():
        copy_kernel[(1,)](x, y, 16, SHIFT=0, UNMASKED=False)
        with pytest.raises(InterpreterError, match="6 addresses of a store lie outside every tensor"):
            copy_kernel[(1,)](x, y[:10], 16, SHIFT=0, UNMASKED=False)


@needs_interpreter
def test_addresses_of_descriptors_are_checked() -> None:
    x, y = torch.arange(128.0).view(8, 16), torch.zeros(8, 16)
    with guards.checked_addresses():
        copy_described_kernel[(1,)](x[:5], y, 8, DECLARED=5)
        assert torch.equal(y[:5], x[:5])
        assert not y[5:].any()
        with pytest.raises(InterpreterError, match="48 addresses of a load"):
            copy_described_kernel[(1,)](x[:5], y, 8, DECLARED=8)
        with pytest.raises(InterpreterError, match="16 addresses of a store"):
            copy_described_kernel[(1,)](x, y[:7], 8, DECLARED=8)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_guarded_tensor_is_the_same_between_nan(layout: str, device: str) -> None:
    tensor = laid_out(torch.arange(1.0, 121.0, device=device).view(2, 3, 4, 5), layout)
    result, storage = guards.with_guard_bands(tensor)
    assert torch.equal(result, tensor)
    assert result.stride() == tensor.stride()
    assert result.data_ptr() % 16 == tensor.data_ptr() % 16
    assert storage[: guards.MARGIN].isnan().all()
    assert storage[-guards.MARGIN :].isnan().all()


@pytest.mark.parametrize("at", [-1, 0, 1])
def test_a_write_beside_an_output_is_found(at: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write one element before an output, or one element after it, must be found; no stray write is no error."""

    def stray(plan: Plan) -> list[None]:
        (result,) = plan.results
        memory = result.as_strided((result.numel() + 2,), (1,), result.storage_offset() - 1)
        memory[1:-1] = 0.0
        if at:
            memory[0 if at < 0 else -1] = 0.0
        return [None]

    monkeypatch.setattr(start, "start_kernels", stray)
    operands = torch.ones(1, 2, 3, 3, device=device), torch.ones(2, 2, 1, 1, device=device)

    def call() -> None:
        with guards.guarded_memory():
            tritonconv.conv2d(*operands, implementation="triton")

    if at:
        with pytest.raises(AssertionError, match="wrote outside its output"):
            call()
    else:
        call()


def test_an_output_that_is_not_written_stays_nan(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "start_kernels", lambda _: [None])
    with guards.guarded_memory():
        y = tritonconv.conv2d(
            torch.ones(1, 2, 3, 3, device=device), torch.ones(2, 2, 1, 1, device=device), implementation="triton"
        )
    assert y.isnan().all()
