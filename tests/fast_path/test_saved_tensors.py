"""What torch does with the tensors that are saved for backward: hooks, checkpoints, checks, and second derivatives."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from tests.support.fast_path import (
    CONV2D,
    PROBLEMS,
    Kept,
    Problem,
    Wrapper,
    assert_as_the_long_way,
    assert_identical,
    assert_same_error,
)
from tests.support.ways import Repeated, repeated

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]


def offset(t: Tensor) -> Tensor:
    """Return a copy that starts one element behind the start of its storage, so that it is aligned otherwise."""
    return torch.cat([t.new_zeros(1), t.detach().flatten()])[1:].view(t.shape)


@pytest.mark.parametrize("times", [1, 2])
def test_each_hook_is_called_once_for_each_saved_tensor(kept: Kept, times: int) -> None:
    """It packs once, and unpacks once in each backward pass."""
    packed, unpacked = [], []

    def run() -> list[Tensor]:
        packed.clear()
        unpacked.clear()
        with saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: unpacked.append(t) or t):
            y = kept.forward()
        for _ in range(times):
            found = [*torch.autograd.grad(y, kept.operands, kept.gradient, retain_graph=True)]
        assert (len(packed), len(unpacked)) == (2, 2 * times)
        return found

    assert_as_the_long_way(run, forward=1, backward=times)


UNPACKED: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda t: t.detach().to(memory_format=torch.channels_last) if t.ndim == 4 else offset(t),
    "transposed": lambda t: t.detach().transpose(0, 1).contiguous().transpose(0, 1),
    "offset": offset,
}


@pytest.mark.parametrize("how", UNPACKED)
def test_hooks_may_unpack_other_strides(kept: Kept, how: str) -> None:
    """The gradients are those of the tensors that were unpacked, and are kept for those."""

    def run() -> list[Tensor]:
        with saved_tensors_hooks(lambda t: t, UNPACKED[how]):
            y = kept.forward()
        return [*torch.autograd.grad(y, kept.operands, kept.gradient)]

    assert_as_the_long_way(run, forward=1)
    assert_as_the_long_way(run, forward=1, backward=1)
    assert_as_the_long_way(kept.step, forward=1, backward=1)


def test_hooks_may_unpack_other_numbers(kept: Kept) -> None:
    def run() -> list[Tensor]:
        with saved_tensors_hooks(lambda t: t.detach() * 2, lambda t: t * 2):
            y = kept.forward()
        return [*torch.autograd.grad(y, kept.operands, kept.gradient)]

    of_input, of_weight, _ = assert_as_the_long_way(run, forward=1, backward=1)
    _, input, weight, _ = kept.step()
    assert torch.equal(of_input, 4 * input)
    assert torch.equal(of_weight, 4 * weight)


def test_hooks_may_unpack_a_subclass(kept: Kept) -> None:
    def run() -> list[Tensor]:
        with saved_tensors_hooks(lambda t: t.detach(), Wrapper):
            y = kept.forward()
        found = torch.autograd.grad(y, kept.operands, kept.gradient)
        assert [type(t) for t in found[:2]] == [Wrapper, Wrapper]
        return [t.held if isinstance(t, Wrapper) else t for t in found]

    assert_identical(assert_as_the_long_way(run, forward=1), kept.step()[1:])


def test_hooks_may_unpack_negative_views(kept_conv2d: Kept) -> None:
    def run() -> list[Tensor]:
        with saved_tensors_hooks(lambda t: t.detach(), torch._neg_view):
            y = kept_conv2d.forward()
        return [*torch.autograd.grad(y, kept_conv2d.operands, kept_conv2d.gradient)]

    found = assert_as_the_long_way(run, forward=1)
    assert all(torch.equal(-one, other) for one, other in zip(found[:2], kept_conv2d.step()[1:3], strict=True))


def test_saving_on_the_cpu(kept_conv2d: Kept) -> None:
    def run() -> list[Tensor]:
        with save_on_cpu():
            y = kept_conv2d.forward()
        return [y, *torch.autograd.grad(y, kept_conv2d.operands, kept_conv2d.gradient)]

    assert_as_the_long_way(run, forward=1, backward=1)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints(kept: Kept, reentrant: bool) -> None:
    """Forward runs twice, the second time within backward, both times by the fast path."""

    def run() -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in kept.operands]
        y = checkpoint(lambda *operands: kept.problem(*operands).relu(), *leaves, use_reentrant=reentrant)
        y.backward(kept.gradient)
        return [y.detach(), *(t.grad for t in leaves)]

    assert_as_the_long_way(run, forward=2, backward=1)


@pytest.mark.parametrize("saved", [False, True])
def test_selective_checkpoints_see_the_operator(kept_conv2d: Kept, saved: bool) -> None:
    """A result that the policy saves is not computed again."""
    seen: list[str] = []

    def policy(context: Any, operator: Any, *_: Any, **__: Any) -> CheckpointPolicy:
        if operator.namespace == "tritonconv":
            seen.append(f"{operator} {context.is_recompute}")
        must = saved and operator.namespace == "tritonconv"
        return CheckpointPolicy.MUST_SAVE if must else CheckpointPolicy.PREFER_RECOMPUTE

    contexts = partial(create_selective_checkpoint_contexts, policy)

    def run() -> list[Tensor]:
        y = checkpoint(kept_conv2d.problem, *kept_conv2d.operands, use_reentrant=False, context_fn=contexts)
        return [y, *torch.autograd.grad(y, kept_conv2d.operands, kept_conv2d.gradient)]

    for _ in range(2):
        assert_as_the_long_way(run)
    half = len(seen) // 4
    assert seen == 4 * seen[:half]
    assert any(each.endswith("False") for each in seen)


def of_fresh_leaves(kept: Kept) -> tuple[list[Tensor], Tensor]:
    """Return new leaves, whose version is 0, and the result of a call on them."""
    leaves = [t.detach().clone().requires_grad_() for t in kept.operands]
    return leaves, kept.problem(*leaves)


@pytest.mark.parametrize("place", range(2), ids=["input", "weight"])
def test_saved_tensors_that_change_are_refused_as_before(kept_conv2d: Kept, place: int) -> None:
    def run() -> None:
        leaves, y = of_fresh_leaves(kept_conv2d)
        with torch.no_grad():
            leaves[place].add_(1)
        y.backward(kept_conv2d.gradient)

    assert_same_error(run, "modified by an inplace operation.*is at version 1; expected version 0", forward=1)


def test_a_bias_may_change_before_backward(kept_conv2d: Kept) -> None:
    def run() -> list[Tensor]:
        leaves, y = of_fresh_leaves(kept_conv2d)
        with torch.no_grad():
            leaves[2].add_(1)
        return [*torch.autograd.grad(y, leaves, kept_conv2d.gradient)]

    assert_as_the_long_way(run, forward=1, backward=1)


def test_results_may_change_in_place(kept_conv2d: Kept) -> None:
    """The result is not saved, and is no view."""

    def run() -> list[Tensor]:
        leaves, y = of_fresh_leaves(kept_conv2d)
        y.mul_(2)
        return [y, *torch.autograd.grad(y, leaves, kept_conv2d.gradient)]

    assert_as_the_long_way(run, forward=1, backward=1)


def test_a_second_backward_needs_the_graph(kept: Kept) -> None:
    def twice(retain: bool) -> list[Tensor]:
        leaves, y = of_fresh_leaves(kept)
        y.backward(kept.gradient, retain_graph=retain)
        y.backward(kept.gradient)
        return [t.grad for t in leaves]

    assert_as_the_long_way(lambda: twice(True), forward=1, backward=2)
    assert_same_error(lambda: twice(False), "backward through the graph a second time", forward=1, backward=1)


def test_anomaly_mode_names_the_line_of_forward(kept_conv2d: Kept) -> None:
    gradient = torch.full_like(kept_conv2d.gradient, float("nan"))

    def run() -> None:
        with torch.autograd.detect_anomaly(check_nan=True):
            y = kept_conv2d.problem(*kept_conv2d.operands)  # this line
            with pytest.warns(
                UserWarning, match=r"Traceback of forward call(.|\n)*kept_conv2d.operands\)  # this line"
            ):
                torch.autograd.grad(y, kept_conv2d.operands, gradient)

    with pytest.warns(UserWarning, match="Anomaly Detection has been enabled"):
        assert_same_error(run, "'ConvolutionBackward' returned nan values", forward=1, backward=1)


def integers(problem: Problem, device: str) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Return operands, the gradient of the result, and vectors of the operands' shapes: integers, so sums are exact."""
    shapes = [*problem.shapes, *problem.shapes[:3]]
    input, weight, bias, gradient, *vectors = (torch.randint(-2, 3, s, device=device).float() for s in shapes)
    return [t.requires_grad_() for t in (input, weight, bias)], gradient.requires_grad_(), vectors


def second_order(function: Callable[..., Tensor], operands: list[Tensor], given: Tensor, vectors: list[Tensor]) -> Any:
    """Return the result, its gradients, and the gradients of those, each times its vector, with respect to all."""
    y = function(*operands)
    first = torch.autograd.grad(y, operands, given, create_graph=True)
    total = sum((t * v).sum() for t, v in zip(first, vectors, strict=True))
    return [y, *first, *torch.autograd.grad(total, [*operands[:2], given])]


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_second_derivatives_equal_those_of_torch(name: str, device: str) -> None:
    """Backward records gradients, so it goes the long way, which computes them exactly. Forward is repeated."""
    problem = PROBLEMS[name]
    operands, gradient, vectors = integers(problem, device)
    problem.keep(operands, gradient.detach())
    found = assert_as_the_long_way(lambda: second_order(problem, operands, gradient, vectors), forward=1)
    assert all(t.requires_grad for t in found[:4])
    theirs = partial(getattr(torch.nn.functional, name), **problem.more)
    wide = [t.detach().double().requires_grad_() for t in operands]
    expected = second_order(theirs, wide, gradient.detach().double().requires_grad_(), [v.double() for v in vectors])
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.double(), other)


def test_second_derivatives(kept: Kept) -> None:
    """`create_graph` goes the long way, and backward without it takes the fast path as before."""
    gradient = kept.gradient.clone().requires_grad_()
    vectors = [torch.randn_like(t) for t in kept.operands]
    assert_as_the_long_way(lambda: second_order(kept.problem, kept.operands, gradient, vectors), forward=1)
    assert_as_the_long_way(kept.step, forward=1, backward=1)


def test_gradients_require_gradients_only_with_create_graph(kept_conv2d: Kept) -> None:
    for create in (True, False):
        y = kept_conv2d.forward()
        with repeated() as count:
            found = torch.autograd.grad(y, kept_conv2d.operands, kept_conv2d.gradient, create_graph=create)
        assert count == Repeated(backward=not create)
        # The gradient of the bias is a sum of what is given, which requires none.
        assert [t.requires_grad for t in found[:2]] == [create, create]
        assert_identical([t.detach() for t in found], kept_conv2d.step()[1:])


def test_the_node_has_the_name_of_the_operators_node(kept_conv2d: Kept) -> None:
    """Hooks, anomaly mode and pictures of graphs show it."""
    assert kept_conv2d.forward().grad_fn.name() == CONV2D(*CONV2D.operands("cpu", torch.float64)).grad_fn.name()
