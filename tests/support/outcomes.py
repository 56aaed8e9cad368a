"""What calls and backward passes return, plan or raise, and comparisons of that."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tritonconv.launch import bounded_cache, planners
from tritonconv.launch.plan import Plan

# A call or a backward pass. Its method `run` makes it.
Problem = Any


def outcome(problem: Problem) -> Any:
    """Return the tensors that a call or a backward pass returns, or the class and message of its error."""
    try:
        return problem.run()
    except Exception as error:  # of any class, because the class is compared
        return type(error), str(error)


def same(found: Any, expected: Any) -> bool:
    """Whether two outcomes are the same error, or tensors with equal numbers, strides, dtypes and devices.

    NaN equals NaN: with an operand on the meta device, some results stay as they were allocated.
    """
    return len(found) == len(expected) and all(map(alike, found, expected))


def alike(one: Any, other: Any) -> bool:
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return type(one) is type(other) and bool(one == other)
    described = [(t.shape, t.stride(), t.dtype, t.device) for t in (one, other)]
    return described[0] == described[1] and (one.is_meta or bool(torch.isclose(one, other, 0, 0, True).all()))


def alone(problem: Problem) -> tuple[Any, list[Any]]:
    """Return what a call or a backward pass returns with empty caches, and what it plans.

    That is what its kernels are compiled for, and the shapes of the operands that are copied.
    """
    planned: list[Any] = []
    plan = planners.plan

    def noted(*given: Any) -> Plan:
        made = plan(*given)
        planned.extend(launch.variant for launch in made.launches)
        planned.append([original.shape for _, original, _ in made.copies])
        return made

    bounded_cache.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planners, "plan", noted)
        return outcome(problem), planned
