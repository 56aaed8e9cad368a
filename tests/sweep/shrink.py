"""Shrinking: find the simplest problem that is still wrong."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

from tests.support.cases import Case, pair
from tests.sweep.problems import legal


def shrink(case: Case, wrong: Callable[[Case], bool]) -> Case:
    """Simplify `case` step by step as long as `wrong` holds.

    In the result, any further change to a default of `Case`, or to a smaller number, makes the error go away.
    """
    smaller: Case | None = case
    while smaller is not None:
        case, smaller = smaller, next((each for each in simpler(smaller) if wrong(each)), None)
    return case


def simpler(case: Case) -> Iterator[Case]:
    """Yield the legal cases that differ from `case` in one field that is simpler, the largest steps first."""
    for field in fields(case):
        value = getattr(case, field.name)
        if field.name in ("name", "transposed") or value == field.default:
            continue
        for change in changes(field.name, value, field.default, case.groups):
            each = replace(case, **{field.name: change})
            if change != value and possible(each):
                yield each


def changes(name: str, value: Any, default: Any, groups: int) -> Iterator[Any]:
    """Yield simpler values for a field: the default, and smaller numbers."""
    match name:
        case "channels" | "size" | "kernel":
            step = groups if name == "channels" else 1
            for axis in (0, 1):
                for less in (step, value[axis] // 2 // step * step, value[axis] - step):
                    if step <= less < value[axis]:
                        yield tuple(less if i == axis else n for i, n in enumerate(value))
        case "stride" | "dilation" | "padding" | "output_padding" if value != "same":
            yield default
            least = pair(default)[0]
            for axis in (0, 1):
                for less in (least, pair(value)[axis] - 1):
                    if less >= least:
                        yield tuple(less if i == axis else n for i, n in enumerate(pair(value)))
        case "varies":
            yield from ("", "b", "p q")
        case _:
            yield default
            if name == "batch" and value:
                yield from range(1, value)


def possible(case: Case) -> bool:
    """Whether torch and tritonconv accept such a convolution."""
    if any(n % case.groups for n in case.channels):
        return False
    if not set(case.bias_varies) <= set(case.varies) or (case.transposed and "b" in case.varies):
        return False
    if case.padding == "same" and pair(case.stride) != (1, 1):
        return False
    if case.transposed and not all(
        extra < max(s, d)
        for extra, s, d in zip(pair(case.output_padding), pair(case.stride), pair(case.dilation), strict=True)
    ):
        return False
    return legal(case)
