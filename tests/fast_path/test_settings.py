"""A repeated call follows what is set around it: which gradients are required, `using`, `verify`, TF32 and so on."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tritonconv
from tests.support.fast_path import CONV2D, Kept, assert_as_the_long_way, assert_identical, assert_same_error
from tests.support.oracle import convolution_precision
from tests.support.ways import Repeated, repeated
from tritonconv.tools.warmup import step_calls

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]


def test_only_required_gradients_are_computed(kept: Kept) -> None:
    """Each set of required gradients has a backward pass of its own, which is kept when it is needed first."""
    for required in product((True, False), repeat=3):
        operands = [t.detach().requires_grad_(r) for t, r in zip(kept.operands, required, strict=True)]

        def step(operands: list[Tensor] = operands) -> list[Tensor]:
            y = kept.problem(*operands)
            leaves = [t for t in operands if t.requires_grad]
            return [y, *(torch.autograd.grad(y, leaves, kept.gradient) if leaves else ())]

        if not all(required):
            assert_as_the_long_way(step, forward=1)
        y, *gradients = assert_as_the_long_way(step, forward=1, backward=any(required))
        assert y.requires_grad == any(required)
        assert len(gradients) == sum(required)


def test_a_call_without_a_bias_is_kept_by_itself(kept: Kept) -> None:
    input, weight, _ = kept.operands

    def step() -> list[Tensor]:
        y = kept.problem(input, weight)
        return [y, *torch.autograd.grad(y, (input, weight), kept.gradient)]

    assert_as_the_long_way(step)
    step()
    assert_as_the_long_way(step, forward=1, backward=1)


def test_gradients_are_recorded_only_where_they_are_enabled(kept: Kept) -> None:
    with torch.no_grad():
        y = assert_as_the_long_way(kept.forward, forward=1)
        assert not y.requires_grad
        with torch.enable_grad():
            assert_as_the_long_way(kept.step, forward=1, backward=1)
    assert kept.forward().requires_grad


def test_inference_mode_takes_the_fast_path(kept: Kept) -> None:
    """Its results are tensors of inference mode."""
    with torch.inference_mode():
        y = assert_as_the_long_way(kept.forward, forward=1)
    assert y.is_inference()


def test_gradients_enabled_in_inference_mode_record_nothing(kept_conv2d: Kept) -> None:
    with torch.inference_mode(), torch.enable_grad():
        y = assert_as_the_long_way(kept_conv2d.forward)
    assert y.grad_fn is None
    with torch.inference_mode(), torch.inference_mode(False):
        assert_as_the_long_way(kept_conv2d.step, forward=1, backward=1)


@pytest.mark.parametrize("place", range(3), ids=["input", "weight", "bias"])
def test_tensors_of_inference_mode_outside_of_it(kept_conv2d: Kept, place: int) -> None:
    """They take the fast path only where gradients are off. Autograd refuses to save them, with torch's error."""
    with torch.inference_mode():
        made_inside = kept_conv2d.operands[place].detach().clone()
    operands = [t.detach() for t in kept_conv2d.operands]
    operands[place] = made_inside
    assert not assert_as_the_long_way(lambda: kept_conv2d.problem(*operands)).is_inference()
    with torch.no_grad():
        y = assert_as_the_long_way(lambda: kept_conv2d.problem(*operands), forward=1)
    assert not y.is_inference()
    for other in {0, 1} - {place}:
        operands[other] = operands[other].detach().requires_grad_()
    if place == 2:  # the bias is not saved
        assert_as_the_long_way(lambda: kept_conv2d.problem(*operands))
    else:
        assert_same_error(lambda: kept_conv2d.problem(*operands), "Inference tensors cannot be saved for backward")


def test_verify_sees_every_call(kept: Kept) -> None:
    counts = []

    def step() -> list[Tensor]:
        with tritonconv.verify(probability=1) as seen:
            found = kept.step()
        counts.append(seen.checked)
        return found

    assert_as_the_long_way(step)
    assert counts == [3, 3]
    assert_as_the_long_way(kept.step, forward=1, backward=1)


def test_verify_sees_forward_alone(kept: Kept) -> None:
    with tritonconv.verify(probability=1) as seen, repeated() as count:
        y = kept.forward()
    assert (count, seen.checked) == (Repeated(), 1)
    assert_identical(kept.gradients(y), kept.step()[1:])


def test_verify_sees_backward_alone(kept: Kept) -> None:
    with repeated() as count:
        y = kept.forward()
        with tritonconv.verify(probability=1) as seen:
            gradients = kept.gradients(y)
    assert count == Repeated(forward=1)
    assert seen.checked == 2
    assert_identical(gradients, kept.step()[1:])


class Layer(nn.Module):
    """A kept problem as a module."""

    def __init__(self, kept: Kept) -> None:
        super().__init__()
        _, weight, bias = kept.operands
        self.problem, self.weight, self.bias = kept.problem, nn.Parameter(weight.detach()), nn.Parameter(bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        return self.problem(x, self.weight, self.bias)


def test_explain_sees_each_call(kept: Kept) -> None:
    with repeated() as count:
        rows = tritonconv.explain(Layer(kept), kept.operands[0])
    assert count == Repeated()
    assert [row.computes for row in rows] == ["forward", "input gradient", "weight gradient"]
    assert {row.implementation for row in rows} == {"triton"}
    assert_as_the_long_way(kept.step, forward=1, backward=1)


def test_warmup_sees_each_call(kept: Kept) -> None:
    with repeated() as count:
        calls = step_calls(Layer(kept), (kept.operands[0],))
    assert count == Repeated()
    assert sorted(call.operator for call in calls) == ["dgrad", "fprop", "wgrad"]
    assert_as_the_long_way(kept.step, forward=1, backward=1)


def test_using_takes_effect_at_once(kept: Kept) -> None:
    reference = getattr(tritonconv.reference, kept.problem.function.__name__)
    expected = reference(*kept.operands, **kept.problem.more)
    for block in (tritonconv.using("reference"), nullcontext()):
        with block, repeated() as count:
            more = {"implementation": "reference"} if isinstance(block, nullcontext) else {}
            y = kept.problem(*kept.operands, **more)
        assert count == Repeated()
        assert_identical(y.detach(), expected.detach())
    assert_as_the_long_way(kept.step, forward=1, backward=1)


def test_a_wish_for_triton_is_kept_by_itself(kept_conv2d: Kept) -> None:
    with tritonconv.using("triton"):
        assert_as_the_long_way(kept_conv2d.forward)
        kept_conv2d.forward()
        assert_as_the_long_way(kept_conv2d.forward, forward=1)
    run = lambda: kept_conv2d.problem(*kept_conv2d.operands, implementation="triton")  # noqa: E731
    assert_as_the_long_way(run, forward=1)


def test_an_unknown_implementation_is_refused(kept_conv2d: Kept) -> None:
    assert_same_error(
        lambda: kept_conv2d.problem(*kept_conv2d.operands, implementation="none"), "implementation must be one of"
    )


def test_backward_follows_the_choice_of_its_forward(kept: Kept) -> None:
    def triton_first() -> tuple[Tensor, ...]:
        y = kept.forward()
        with tritonconv.using("reference"):
            return kept.gradients(y)

    def reference_first() -> tuple[Tensor, ...]:
        with tritonconv.using("reference"):
            y = kept.forward()
        return kept.gradients(y)

    assert_as_the_long_way(triton_first, forward=1, backward=1)
    assert_as_the_long_way(reference_first)


def test_tf32_has_plans_of_its_own(kept_conv2d: Kept) -> None:
    """In each position of torch's switch, the first step is planned for that, and later ones repeat it."""
    before = torch.backends.cudnn.conv.fp32_precision
    other = "ieee" if before == "tf32" else "tf32"
    with convolution_precision(other):
        assert_as_the_long_way(kept_conv2d.step)
        kept_conv2d.step()
        kept_conv2d.step()
        assert_as_the_long_way(kept_conv2d.step, forward=1, backward=1)
        with convolution_precision(before):
            assert_as_the_long_way(kept_conv2d.step, forward=1, backward=1)


def test_tf32_may_differ_between_forward_and_backward(kept_conv2d: Kept) -> None:
    other = "ieee" if torch.backends.cudnn.conv.fp32_precision == "tf32" else "tf32"

    def run() -> tuple[Tensor, ...]:
        y = kept_conv2d.forward()
        with convolution_precision(other):
            return kept_conv2d.gradients(y)

    assert_as_the_long_way(run, forward=1)
    assert_as_the_long_way(run, forward=1, backward=1)


@contextmanager
def deterministic(fill: bool) -> Iterator[None]:
    """Use deterministic algorithms within this block. `fill` says whether torch fills new memory with NaN."""
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = filled


@pytest.mark.parametrize("fill", [False, True])
def test_deterministic_algorithms_take_the_fast_path(kept_conv2d: Kept, fill: bool) -> None:
    expected = kept_conv2d.step()
    with deterministic(fill):
        found: Any = assert_as_the_long_way(kept_conv2d.step, forward=1, backward=1)
    assert_identical(found, expected)


def test_tensors_that_change_in_place_give_new_results(kept: Kept) -> None:
    before = kept.step()
    for operand in kept.operands:
        with torch.no_grad():
            operand.add_(1)
        after = assert_as_the_long_way(kept.step, forward=1, backward=1)
        assert not torch.equal(after[0], before[0])
        before = after


def test_layers_take_the_fast_path(device: str) -> None:
    """Conv2d and ConvTranspose2d, LocallyConnected2d and LocallyConnectedTranspose2d."""
    x = torch.randn(CONV2D.shapes[0], device=device)
    for layer in (
        tritonconv.Conv2d(4, 6, 2, device=device),
        tritonconv.ConvTranspose2d(4, 6, 2, device=device),
        tritonconv.LocallyConnected2d(4, 6, 2, input_size=(3, 3), device=device),
        tritonconv.LocallyConnectedTranspose2d(4, 6, 2, input_size=(3, 3), device=device),
    ):

        def step(layer: nn.Module = layer) -> list[Tensor]:
            y = layer(x)
            return [y, *torch.autograd.grad(y.square().sum(), list(layer.parameters()))]

        step()
        step()
        assert_as_the_long_way(step, forward=1, backward=1)
