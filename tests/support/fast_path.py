"""Which way calls take, the fast path or the long one, and comparisons of what the two ways return."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import tritonconv
from tests.support.ways import Repeated, repeated, without_fast_path


def drawn(*shape: int, device: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return random numbers of which sums depend on their order, so that equal bits mean equal computations."""
    return torch.randn(shape, device=device).to(dtype)


@dataclass
class Problem:
    """A function of tritonconv, and the shapes of its input, weight, bias and result."""

    function: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]
    more: dict[str, Any] = field(default_factory=dict)

    def __call__(self, *operands: Tensor | None, **more: Any) -> Tensor:
        return self.function(*operands, **self.more, **more)

    def operands(self, device: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """Return input, weight and bias, which all require gradients."""
        return [drawn(*shape, device=device, dtype=dtype).requires_grad_() for shape in self.shapes[:3]]

    def gradient(self, device: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a gradient of the result."""
        return drawn(*self.shapes[3], device=device, dtype=dtype)

    def step(self, operands: Sequence[Tensor], gradient: Tensor) -> list[Tensor]:
        """Return the result and the gradients of all operands."""
        y = self(*operands)
        return [y, *torch.autograd.grad(y, operands, gradient)]

    def keep(self, operands: Sequence[Tensor], gradient: Tensor) -> None:
        """Make two steps, so that an equal one takes the fast path. Assert that it does, forward and backward.

        The first step keeps forward. The second repeats that, and keeps backward.
        """
        for _ in range(2):
            self.step(operands, gradient)
        with repeated() as count:
            self.step(operands, gradient)
        assert count == Repeated(forward=1, backward=1)


IMAGES = (2, 4, 3, 3)
CONV2D = Problem(tritonconv.conv2d, (IMAGES, (6, 4, 2, 2), (6,), (2, 6, 4, 4)), {"padding": 1})
PROBLEMS = {
    "conv2d": CONV2D,
    "conv_transpose2d": Problem(tritonconv.conv_transpose2d, (IMAGES, (4, 6, 2, 2), (6,), (2, 6, 4, 4))),
    "locally_connected2d": Problem(
        tritonconv.locally_connected2d, ((2, 4, 2, 3), (1, 2, 6, 4, 2, 2), (6, 1, 2), (2, 6, 1, 2))
    ),
    "per_sample_conv2d": Problem(tritonconv.per_sample_conv2d, (IMAGES, (2, 6, 4, 2, 2), (2, 6), (2, 6, 2, 2))),
}


class Kept:
    """A problem whose step was made before: `operands`, which require gradients, and the `gradient` of the result."""

    def __init__(self, problem: Problem, device: str) -> None:
        self.problem = problem
        self.operands = problem.operands(device)
        self.gradient = problem.gradient(device)
        problem.keep(self.operands, self.gradient)

    def step(self) -> list[Tensor]:
        return self.problem.step(self.operands, self.gradient)

    def forward(self) -> Tensor:
        return self.problem(*self.operands)

    def gradients(self, y: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(y, self.operands, self.gradient)


def gradients(kept: Kept, y: Tensor, gradient: Tensor) -> list[Tensor]:
    """Return the gradients of all operands. They can be computed again."""
    return [*torch.autograd.grad(y, kept.operands, gradient, retain_graph=True)]


class Subclass(Tensor):
    """A subclass with torch's default `__torch_function__`."""


class WithoutFunction(Tensor):
    """A subclass whose functions return plain tensors."""

    __torch_function__ = torch._C._disabled_torch_function_impl


class Wrapper(Tensor):
    """A subclass that sees torch's operators, as quantized and distributed tensors do, and passes them on."""

    @staticmethod
    def __new__(cls, held: Tensor) -> "Wrapper":
        return Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), dtype=held.dtype, device=held.device, requires_grad=held.requires_grad
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held.detach()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = torch.utils._pytree.tree_map_only(cls, lambda t: t.held, (args, kwargs or {}))
        return torch.utils._pytree.tree_map_only(Tensor, cls, function(*args, **kwargs))


class SeesOperators(TorchDispatchMode):
    """Takes note of the operators that torch's dispatcher calls."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


class SeesFunctions(TorchFunctionMode):
    """Takes note of the functions of torch that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


def same_bits(found: Iterable[Tensor], expected: Iterable[Tensor]) -> bool:
    """Whether each two tensors have the same dtype and the same numbers."""
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def assert_identical(found: Any, expected: Any) -> None:
    """Assert that two tensors, or each two in two sequences, are equal in all bits, and in everything else.

    Of tensors without data, which are fake or on the device meta, everything else is compared. None equals None.
    """
    if isinstance(expected, Sequence):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_identical(one, other)
        return
    assert type(found) is type(expected)
    if expected is None:
        return
    about = [
        (t.dtype, t.device, t.shape, t.stride(), t.requires_grad, t.is_inference(), t.is_neg(), t.is_conj(), t.is_leaf)
        for t in (found, expected)
    ]
    assert about[0] == about[1]
    if not (isinstance(expected, FakeTensor) or expected.is_meta):
        assert torch.equal(found, expected)
        assert not expected.isnan().any()  # NaN would be an element that no kernel has written


def assert_as_the_long_way(run: Callable[[], Any], forward: int = 0, backward: int = 0) -> Any:
    """Assert that `run` returns what it does if all its calls go the long way, and return that.

    `forward` and `backward` are how many of its passes must take the fast path.
    """
    with repeated() as count:
        found = run()
    assert count == Repeated(forward, backward)
    with without_fast_path(), repeated() as none:
        expected = run()
    assert none == Repeated()
    assert_identical(found, expected)
    return found


def assert_same_error(run: Callable[[], Any], match: str, forward: int = 0, backward: int = 0) -> None:
    """Assert that `run` raises the error that it does if all its calls go the long way, and that this one matches.

    `forward` and `backward` are how many of its passes must take the fast path.
    """
    with repeated() as count, pytest.raises(Exception, match=match) as found:
        run()
    assert count == Repeated(forward, backward)
    with without_fast_path(), pytest.raises(Exception, match=match) as expected:
        run()
    assert (found.type, str(found.value)) == (expected.type, str(expected.value))
