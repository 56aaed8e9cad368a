"""Shrinking: find the simplest problem that is still wrong."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

from tests.support.cases import Case, pair
from tests.sweep.problems import legal


def shrink(case: Case, wrong: Callable[[Case], bool]) -> Case:
    """Return a case for which `wrong` still holds, reached from `case` by one change of a field after another.

    `wrong` must hold for `case`. It holds for none of the cases that `simpler` yields for the result.
    """
    smaller: Case | None = case
    while smaller is not None:
        case, smaller = smaller, next((each for each in simpler(smaller) if wrong(each)), None)
    return case


def simpler(case: Case) -> Iterator[Case]:
    """Yield the possible cases that differ from `case` in one field, which is simpler. Large changes come first."""
    for field in fields(case):
        value = getattr(case, field.name)
        if field.name in ("name", "transposed") or value == field.default:
            continue
        for change in changes(field.name, value, field.default, case.groups):
            each = replace(case, **{field.name: change})
            if change != value and possible(each):
                yield each


def changes(name: str, value: Any, default: Any, groups: int) -> Iterator[Any]:
    """Yield simpler values for the field `name`: the default, smaller numbers, or fewer letters over which it varies.

    Numbers of channels stay multiples of `groups`. The caller drops values that are equal to `value` or impossible.
    """
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
    """Whether torch and tritonconv accept this case."""
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
