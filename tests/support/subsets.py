"""Small problems, all subsets of their operands, and a comparison of gradients that tells None from zeros."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

import tritonconv
from tests.support.cases import Case
from tests.support.oracle import assert_close, one_by_one
from tritonconv import reference

Function = Callable[..., Tensor]
Subset = tuple[int, ...]

_CONV = Case("", 3, (4, 6), (3, 4), (3, 2), (2, 1), (1, 2), (1, 2), 2)
_TRANSPOSED = replace(_CONV, transposed=True)
# The weight is shared, as in torch.nn.
SHARED = [
    replace(_CONV, name="conv2d"),
    replace(_CONV, name="conv2d_without_bias", bias=False),
    replace(_CONV, name="conv2d_unbatched", batch=None),
    replace(_TRANSPOSED, name="conv_transpose2d"),
    replace(_TRANSPOSED, name="conv_transpose2d_without_bias", bias=False),
    replace(_TRANSPOSED, name="conv_transpose2d_unbatched", batch=None),
]


def varied(case: Case, name: str, varies: str, *biases: str) -> list[Case]:
    """Return cases whose weight varies, one for each of `biases`, the letters that the bias varies over."""
    size = (3, 3 if case.transposed else 2)
    varying = replace(case, batch=2, channels=(4, 2), size=size, varies=varies)
    return [replace(varying, name=f"{name}-bias_{bias.replace(' ', '')}", bias_varies=bias) for bias in biases]


# The weight varies, with a bias of each kind.
VARYING = [
    *varied(_CONV, "local", "p q", "", "p q"),
    *varied(_TRANSPOSED, "local_transpose", "p q", "", "p q"),
    *varied(_CONV, "per_sample", "b", "", "b"),
    *varied(_CONV, "dynamic", "b p q", "", "b", "p q", "b p q"),
]


# Shared weights in few products, for Triton's interpreter.
TINY = Case("tiny", 1, (2, 3), (2, 3), (2, 2), (2, 1), (1, 0))


class Problem(NamedTuple):
    """Our function, torch's function, and the operands: input, weight and, in a case with one, bias."""

    ours: Function
    theirs: Function
    operands: tuple[Tensor, ...]


def problem_of(
    case: Case,
    package: Any = tritonconv,
    dtype: torch.dtype = torch.float64,
    implementation: str = "reference",
) -> Problem:
    """Return the problem of `case` for `package`, which is tritonconv or its reference.

    Only tritonconv has an `implementation`. The default runs in float64, through the formulas of tritonconv's autograd.
    """
    ours = case.function(package)
    if package is not reference:
        ours = partial(ours, implementation=implementation)
    theirs = partial(one_by_one, case) if case.varies else case.function(torch.nn)
    return Problem(ours, theirs, tuple(torch.randn_like(t, dtype=dtype) for t in case.operands() if t is not None))


def subsets(members: int | Sequence[int]) -> list[Subset]:
    """Return every subset that is not empty, of these numbers or of range(members)."""
    numbers = range(members) if isinstance(members, int) else members
    return [chosen for size in range(1, len(numbers) + 1) for chosen in combinations(numbers, size)]


def gradients(result: Tensor, leaves: Sequence[Tensor], **options: Any) -> tuple[Tensor | None, ...]:
    """Return the gradients of `result`, with None for a leaf that it does not depend on.

    torch records one node for all gradients of a convolution. So its result can need a gradient and yet depend on none
    of the leaves. Ours then needs no gradient.
    """
    if not result.requires_grad:
        return (None,) * len(leaves)
    return torch.autograd.grad(result, leaves, allow_unused=True, **options)


def assert_alike(
    actual: Sequence[Tensor | None],
    expected: Sequence[Tensor | None],
    what: str,
    precision: str = "float64",
    zeros: bool = False,
) -> None:
    """Assert that the tensors agree, and that the same ones are None. With `zeros`, None and zeros are the same."""
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        if a is None or e is None:
            same = zeros and not any(t is not None and t.any() for t in (a, e))
            assert a is e or same, f"{what}: number {i} is {'not ' * (e is None)}None"
        else:
            assert_close(a, e, precision, f"{what}: number {i}")
