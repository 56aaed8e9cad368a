"""A call that was made before goes the long way in a mode that must see it, or below autograd.

A default device is no such mode. Either way the call gives the same bits, the same gradients and the same errors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from tests.support.fast_path import PROBLEMS, Kept, SeesFunctions, SeesOperators, assert_as_the_long_way
from tests.support.processes import python

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]


@pytest.mark.parametrize("mode", [SeesOperators, SeesFunctions])
def test_modes_see_the_operator(kept: Kept, mode: Any) -> None:
    """A mode around a step sees all that it sees of the long way, and the operators among it."""
    seen: list[list[str]] = []

    def step() -> list[Tensor]:
        with mode() as active:
            found = kept.step()
        seen.append(active.seen)
        return found

    assert_as_the_long_way(step)
    assert seen[0] == seen[1]
    if mode is SeesOperators:
        of_forward = "dgrad" if kept.problem is PROBLEMS["conv_transpose2d"] else "fprop"
        assert f"tritonconv.{of_forward}.default" in seen[0]
        assert any(f"tritonconv.{name}.default" in seen[0] for name in ("wgrad", "wgrad_with_bias"))


def test_a_mode_ends_with_its_block(kept_conv2d: Kept) -> None:
    for mode in (SeesOperators(), SeesFunctions(), FlopCounterMode(display=False)):
        with mode:
            kept_conv2d.step()
        assert_as_the_long_way(kept_conv2d.step, forward=1, backward=1)


def test_flops_are_counted(kept: Kept) -> None:
    counts: list[dict[str, dict[Any, int]]] = []

    def step() -> list[Tensor]:
        with FlopCounterMode(display=False) as counter:
            found = kept.step()
        counts.append(counter.get_flop_counts())
        return found

    assert_as_the_long_way(step)
    assert counts[0] == counts[1]
    assert len(counts[0]["Global"]) >= 2
    assert all(flops > 0 for flops in counts[0]["Global"].values())


def test_the_mode_of_fake_tensors_sees_the_call(kept_conv2d: Kept) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        found = assert_as_the_long_way(kept_conv2d.forward)
    assert isinstance(found, torch._subclasses.FakeTensor)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    """Set the default device within this block."""
    before = torch.get_default_device()
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None if before == torch.device("cpu") else before)


@pytest.mark.parametrize("block", [torch.device, default_device])
@pytest.mark.parametrize("default", ["cpu", "meta"])
def test_a_default_device_leaves_the_fast_path(kept_conv2d: Kept, block: Any, default: str) -> None:
    """No result or gradient is allocated on the default device."""
    with block(default):
        assert_as_the_long_way(kept_conv2d.step, forward=1, backward=1)


def test_default_devices_in_each_other_leave_the_fast_path(kept_conv2d: Kept) -> None:
    with torch.device("cpu"), torch.device("meta"):
        assert_as_the_long_way(kept_conv2d.step, forward=1, backward=1)


def test_without_a_question_to_torch_all_calls_go_the_long_way(tmp_path: Path) -> None:
    """The questions are private to torch. A version that lacks one of them still computes."""
    code = """
import torch
del torch._C._dispatch_tls_is_dispatch_key_excluded
import tritonconv
from tritonconv.fast_path import forward, guards
operands = [torch.ones(shape, requires_grad=True) for shape in ((1, 2, 3, 3), (4, 2, 2, 2), (4,))]
sums = [tritonconv.conv2d(*operands).sum() for _ in range(3)]
[total.backward() for total in sums]
print(guards.AVAILABLE, len(forward.kept_forwards.entries), *map(float, sums), float(operands[2].grad.sum()))
"""
    done = python("-c", code, cwd=tmp_path, TRITON_INTERPRET="1")
    assert done.stdout.split() == ["False", "0", "144.0", "144.0", "144.0", "48.0"], done.stderr


def test_a_default_device_beside_a_mode_goes_the_long_way(kept_conv2d: Kept) -> None:
    for outer, inner in ((torch.device("cpu"), SeesFunctions()), (SeesFunctions(), torch.device("cpu"))):
        with outer, inner:
            assert_as_the_long_way(kept_conv2d.step)


def test_below_autograd_nothing_is_recorded(kept_conv2d: Kept) -> None:
    with torch._C._AutoDispatchBelowAutograd():
        y = assert_as_the_long_way(kept_conv2d.forward)
    assert y.grad_fn is None
    assert not y.requires_grad


def test_the_body_of_a_custom_operator_records_nothing(kept_conv2d: Kept) -> None:
    """The body runs below autograd, and its weight, which it does not get as an argument, requires a gradient."""
    _, weight, bias = kept_conv2d.operands
    name = "tritonconv_test_of_guards::layer"

    @torch.library.custom_op(name, mutates_args=())
    def layer(x: Tensor) -> Tensor:
        y = kept_conv2d.problem(x, weight, bias)
        assert not y.requires_grad
        return y

    assert_as_the_long_way(lambda: layer(kept_conv2d.operands[0].detach()))
