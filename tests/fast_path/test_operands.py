"""What could mislead the fast path: tensors with two roles, switches that other threads turn, lack of memory."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor

import tritonconv
from tests.support.fast_path import CONV2D, Kept, assert_as_the_long_way, drawn
from tests.support.oracle import convolution_precision
from tests.support.ways import Repeated, repeated
from tritonconv.fast_path import backward, forward
from tritonconv.launch import bounded_cache, kept_plan, plan_cache

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]


def gradients(function: Callable[..., Tensor], x: Tensor, weight: Tensor, gradient: Tensor) -> list[Tensor]:
    """Return the gradients of image and weight."""
    return [*torch.autograd.grad(function(x, weight), (x, weight), gradient)]


def exact(x: Tensor, weight: Tensor, gradient: Tensor, **more: Any) -> list[Tensor]:
    """Return what torch computes in float64."""
    leaves = [each.detach().double().requires_grad_() for each in (x, weight)]
    y = torch.nn.functional.conv2d(*leaves, **more)
    return [*torch.autograd.grad(y, leaves, gradient.detach().double())]


def integers(*shape: int, device: str) -> Tensor:
    return torch.randint(-2, 3, shape, device=device).float().requires_grad_()


def right(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(ours.double(), theirs) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("hooked", [False, True])
def test_a_gradient_that_is_the_image(hooked: bool, device: str) -> None:
    """It comes between steps whose tensors have one role each. The fast path repeats only those."""
    x, weight, gradient = (integers(*shape, device=device) for shape in ((1, 4, 4, 4), (4, 4, 1, 1), (1, 4, 4, 4)))

    def with_hook(*operands: Tensor) -> Tensor:
        y = tritonconv.conv2d(*operands)
        y.register_hook(lambda _: operands[0])
        return y

    for _ in range(2):
        assert right(gradients(tritonconv.conv2d, x, weight, gradient), exact(x, weight, gradient))
        for _ in range(3):
            found = gradients(with_hook, x, weight, gradient) if hooked else gradients(tritonconv.conv2d, x, weight, x)
            assert right(found, exact(x, weight, x))
        for _ in range(3):
            assert right(gradients(tritonconv.conv2d, x, weight, gradient), exact(x, weight, gradient))
    with repeated() as passes:
        gradients(tritonconv.conv2d, x, weight, gradient)
    assert passes == Repeated(forward=1, backward=1)


def test_a_weight_that_is_the_image(device: str) -> None:
    """Filters are correlated with themselves between convolutions of images of the same shape."""
    x, weight, both = (integers(4, 4, 3, 3, device=device) for _ in range(3))
    gradient = integers(4, 4, 3, 3, device=device)

    def padded(*operands: Tensor) -> Tensor:
        return tritonconv.conv2d(*operands, padding=1)

    for _ in range(2):
        assert right(gradients(padded, x, weight, gradient), exact(x, weight, gradient, padding=1))
        bounded_cache.clear()
        assert right(gradients(padded, x, weight, gradient), exact(x, weight, gradient, padding=1))
        for _ in range(2):
            (found,) = torch.autograd.grad(padded(both, both), both, gradient)
            assert right([found], [sum(exact(both, both, gradient, padding=1))])
        for _ in range(3):
            assert right(gradients(padded, x, weight, gradient), exact(x, weight, gradient, padding=1))


@pytest.mark.parametrize("module", [forward, backward], ids=["forward", "backward"])
def test_a_switch_that_is_turned_while_a_call_is_kept(
    module: Any, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread lets torch use TF32 between the key and the look-up of the plan. Nothing is kept under the key."""
    find, keep = plan_cache.find, module.keep
    operands, gradient = CONV2D.operands(device), CONV2D.gradient(device)

    def find_in_tf32(call: Any) -> Any:
        with convolution_precision("tf32"):
            return find(call)

    def turned(*of: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(plan_cache, "find", find_in_tf32)
            keep(*of)

    with convolution_precision("tf32"):
        for _ in range(2):
            CONV2D.step(operands, gradient)
    forward.kept_forwards.entries.clear()
    backward.kept_backwards.entries.clear()
    kept = (forward.kept_forwards if module is forward else backward.kept_backwards).entries
    with convolution_precision("ieee"):
        if module is backward:
            CONV2D(*operands)
        with monkeypatch.context() as patch:
            patch.setattr(module, "keep", turned)
            CONV2D.step(operands, gradient)
        assert not kept
        CONV2D.step(operands, gradient)
        CONV2D.step(operands, gradient)
        assert kept


def test_a_profiler_of_all_threads_sees_the_operators(kept_conv2d: Kept) -> None:
    """torch does not say of the thread itself that it is profiled."""
    config = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    with (
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], experimental_config=config) as profile,
        repeated() as passes,
    ):
        kept_conv2d.step()
    assert passes == Repeated()
    assert any(each.name == "tritonconv::fprop" for each in profile.events())


def test_tensors_that_were_all_made_in_inference_mode(kept_conv2d: Kept) -> None:
    """Outside of it, a call on these records no gradient, though one of them requires it: not at first, nor later."""
    with torch.inference_mode():
        operands = [drawn(*t.shape, device=t.device.type) for t in kept_conv2d.operands]
        operands[1].requires_grad_()
    for _ in range(2):
        assert_as_the_long_way(lambda: CONV2D(*operands))


def replaced(allocate_instead: Callable[[Any], Any]) -> AbstractContextManager[None]:
    """Replace the functions that allocate results and workspaces by what `allocate_instead` makes of torch's own."""

    @contextmanager
    def replacing() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for kind in kept_plan.allocators:
                patch.setitem(kept_plan.allocators, kind, allocate_instead(kept_plan.allocator_of(kind)))
            yield

    return replacing()


@pytest.mark.parametrize("which", range(5))
def test_a_backward_pass_without_memory(kept_conv2d: Kept, which: int) -> None:
    """Two results and two workspaces of wgrad, or the image's gradient can not be allocated. The bits are the same."""
    expected = kept_conv2d.step()[1:]
    y, allocated = kept_conv2d.forward(), count()

    def failing_once(allocate: Any) -> Any:
        def allocate_or_fail(*of: Any) -> Tensor:
            if next(allocated) == which:
                raise torch.OutOfMemoryError
            tensor: Tensor = allocate(*of)
            return tensor

        return allocate_or_fail

    with replaced(failing_once):
        found = kept_conv2d.gradients(y)
    assert next(allocated) > which
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_workspaces_are_freed_before_the_next_gradient_is_allocated(kept_conv2d: Kept) -> None:
    """When memory for the image's gradient is allocated, wgrad's partial sums are gone."""
    y = kept_conv2d.forward()
    there: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def noting(allocate: Any) -> Any:
        def noted(*of: Any) -> Tensor:
            alive.append(sum(each() is not None for each in there))
            tensor: Tensor = allocate(*of)
            there.append(weakref.ref(tensor))
            return tensor

        return noted

    with replaced(noting), repeated() as passes:
        kept_conv2d.gradients(y)
    assert passes.backward == 1
    # Two results and two workspaces are allocated for wgrad. Then only the two results are left.
    assert alive == [0, 1, 2, 3, 2]
