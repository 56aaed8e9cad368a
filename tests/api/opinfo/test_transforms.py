"""vmap, vjp and jvp of torch.func, nested, against torch's convolutions and a loop (functorch's tests)."""

from collections.abc import Callable, Iterator
from itertools import product

import pytest
import torch
from torch import Tensor

from tests.support.opinfo import FEW, IN_PYTORCH, Problem, assert_exact, integers_like, problems, wide

Tensors = tuple[Tensor, ...]
Function = Callable[..., Tensors]
BIASED, PLAIN = {"conv2d": (5,), "conv_transpose2d": (0,)}, {"conv2d": (8,), "conv_transpose2d": (11,)}
MAPPED = 3  # how many calls one vmap makes


def pulled_back(function: Function, n: int) -> Function:
    """Return the gradients of `function`, as a function of its `n` tensors and a gradient for each result."""
    return lambda *given: torch.func.vjp(function, *given[:n])[1](given[n:])


def pushed_forward(function: Function, n: int) -> Function:
    """Return results and tangents of `function`, as a function of its `n` tensors and their tangents."""

    def pushed(*given: Tensor) -> Tensors:
        results, tangents = torch.func.jvp(function, given[:n], given[n:])
        return *results, *tangents

    return pushed


def looped(function: Function, dims: tuple[int | None, ...], out_dim: int) -> Function:
    """Return what `torch.vmap` would return, computed by one call of `function` after the other."""

    def loop(*given: Tensor) -> Tensors:
        calls = [
            function(*(t if d is None else t.select(d, i) for t, d in zip(given, dims, strict=True)))
            for i in range(MAPPED)
        ]
        return tuple(torch.stack(each, out_dim) for each in zip(*calls, strict=True))

    return loop


def stacked(tensor: Tensor, dim: int | None) -> Tensor:
    """Return new integers for `MAPPED` tensors of this shape, along the axis `dim`, or `tensor` if `dim` is None."""
    if dim is None:
        return tensor
    return integers_like(torch.stack([tensor] * MAPPED)).movedim(0, dim)


def every_subset(n: int) -> Iterator[tuple[int | None, ...]]:
    """Yield in_dims for `n` tensors: every subset of them is mapped, along the first, second and last axis in turn."""
    for subset in range(1, 2**n):
        yield tuple((0, 1, -1)[(subset + i) % 3] if subset >> i & 1 else None for i in range(n))


class Pair:
    """Our function and torch's, as functions of the same tensors with a tuple of results, and the tensors.

    torch's function gets the tensors in float64.
    """

    def __init__(self, problem: Problem) -> None:
        self.ours: Function = lambda *given: (problem.ours(*given),)
        self.theirs: Function = lambda *given: (problem.theirs(*given),)
        self.given = problem.operands()

    def transform(self, name: str) -> "Pair":
        """Take the vjp, jvp or vmap of both functions. The further tensors that they then take are drawn."""
        n = len(self.given)
        match name:
            case "vjp":
                results = self.theirs(*wide(self.given))
                self.given = (*self.given, *(integers_like(t).to(self.given[0]) for t in results))
                self.ours, self.theirs = pulled_back(self.ours, n), pulled_back(self.theirs, n)
            case "jvp":
                self.given = (*self.given, *map(integers_like, self.given))
                self.ours, self.theirs = pushed_forward(self.ours, n), pushed_forward(self.theirs, n)
            case "vmap":
                self.map((0,) * n)
        return self

    def map(self, dims: tuple[int | None, ...], out_dim: int = 0) -> "Pair":
        """Take the vmap of both functions, torch's by a loop. Tensors whose entry in `dims` is not None are mapped."""
        self.given = tuple(stacked(t, d) for t, d in zip(self.given, dims, strict=True))
        self.ours, self.theirs = torch.vmap(self.ours, dims, out_dim), looped(self.theirs, dims, out_dim)
        return self

    def check(self) -> None:
        assert_exact(self.ours(*self.given), self.theirs(*wide(self.given)))


# The innermost transform comes first. "vjp vmap" is functorch's vmapvjp.
CHAINS = [
    "vjp",
    "jvp",
    "vmap",
    "vjp vjp",
    "vjp jvp",
    "jvp vjp",
    "jvp jvp",
    "vjp jvp jvp",
    "vmap vjp",
    "vmap jvp",
    "vmap vmap",
    "vjp vmap",
    "jvp vmap",
]
LONG_CHAINS = ["vjp vjp vmap", "vjp jvp vmap", "jvp jvp vmap", "vmap vjp vmap", "vmap jvp vmap", "vjp vmap jvp"]


@pytest.mark.parametrize("chain", CHAINS)
@problems(quick=FEW, in_triton={"conv2d": (5,)})
def test_chains(problem: Problem, chain: str) -> None:
    pair = Pair(problem)
    for name in chain.split():
        pair.transform(name)
    if "jvp jvp" in chain and problem.implementation == "triton":
        with pytest.raises(NotImplementedError, match="triton: torch differentiates no autograd Function"):
            pair.check()
    else:
        pair.check()


@pytest.mark.parametrize("chain", LONG_CHAINS)
@problems(IN_PYTORCH, quick=FEW)
def test_long_chains(problem: Problem, chain: str) -> None:
    test_chains(problem, chain)


def check_every_subset(problem: Problem, inner: str, n: int) -> None:
    """Map every subset of the `n` tensors that the function takes after the transform `inner`."""
    for turn, dims in enumerate(every_subset(n)):
        pair = Pair(problem)
        if inner:
            pair.transform(inner)
        # torch.vmap needs an out_dim of 0 where a result is not mapped, such as a gradient.
        pair.map(dims, 0 if inner else (0, -1, 1)[turn % 3]).check()


@problems(quick=PLAIN, in_triton={"conv2d": (5,)})
def test_vmap_over_every_subset(problem: Problem) -> None:
    check_every_subset(problem, "", len(problem.operands()))


@problems(IN_PYTORCH, quick=BIASED)
def test_vmap_of_vjp_over_every_subset(problem: Problem) -> None:
    check_every_subset(problem, "vjp", len(problem.operands()) + 1)


@problems(IN_PYTORCH, quick=PLAIN)
def test_vmap_of_jvp_over_every_subset(problem: Problem) -> None:
    check_every_subset(problem, "jvp", len(problem.operands()) * 2)


@pytest.mark.slow
@problems(in_triton=FEW)
def test_vmap_over_every_dimension(problem: Problem) -> None:
    n = len(problem.operands())
    for turn, dims in enumerate(product((None, 0, 1, -1), repeat=n)):
        if any(d is not None for d in dims):
            Pair(problem).map(dims, (0, -1, 1)[turn % 3]).check()
