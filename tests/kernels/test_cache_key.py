"""Each field of the plan cache's key is needed: two calls that differ in nothing else need different plans."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.kept import compiled_for, find, keep, newly_started, numbers, started
from tests.support.neighbours import CALLS, DESCRIBED, FIELDS, HIDDEN, NOT_NEEDED, TENSORS, ints, pairs, simple
from tests.support.oracle import convolution_precision
from tests.support.plans import planned
from tritonconv import dispatch, runtime
from tritonconv.call import Call
from tritonconv.launch import bounded_cache, plan_cache
from tritonconv.operators.compute import compute

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]

Key = tuple[Any, ...]


def switched(field: str, second: bool) -> Any:
    """Return the context in which the first or `second` call of a pair is made: with TF32 or without."""
    return convolution_precision("tf32" if field == "tf32" and not second else "ieee")


def without(key: Key, field: str) -> Key:
    """Return a key without the field: a constant stands in its place."""
    parts = dict(zip(("name", "settings", "tf32", *TENSORS), key, strict=True))
    part, _, inside = field.partition(".")
    if part == "settings":
        parts[part] = parts[part]._replace(**{inside: None})
    elif inside and parts[part] is not None:
        parts[part] = tuple(v for name, v in zip(DESCRIBED, parts[part], strict=True) if name != inside)
    elif not inside:
        parts[part] = True if part == "tf32" else None
    return tuple(parts.values())


def test_these_are_all_fields(device: str) -> None:
    """A new field of the key needs a pair of calls here."""
    assert list(CALLS) == FIELDS
    with torch.device(device):
        each = simple(bias=ints(4))
    described = [
        (tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.data_ptr() % 16)
        for tensor in (*each.factors, each.bias)
        if tensor is not None
    ]
    with convolution_precision("tf32"):
        assert plan_cache.key(each) == (each.name, each.settings, True, *described)


@pytest.mark.parametrize("field", FIELDS)
def test_calls_that_differ_in_one_field_have_plans_of_their_own(field: str, device: str) -> None:
    for first, second in pairs(CALLS[field], device):
        with switched(field, False):
            keep(first)
            of_first = plan_cache.key(first)
            assert find(first) is not None
        with switched(field, True):
            of_second = plan_cache.key(second)
            assert find(second) is None
        assert of_first != of_second
        assert without(of_first, field) == without(of_second, field), "the calls differ in something else, too"


@pytest.mark.parametrize("field", [field for field in FIELDS if field not in HIDDEN])
def test_the_second_call_is_right_after_the_first(field: str, device: str) -> None:
    for first, second in pairs(CALLS[field], device):
        bounded_cache.clear()
        expected = compute(second)
        bounded_cache.clear()
        compute(first)
        assert same(compute(second), expected)


def same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    """Whether results are equal, in their memory formats and dtypes, too."""
    return len(found) == len(expected) and all(
        f.shape == e.shape and f.stride() == e.stride() and f.dtype == e.dtype and torch.equal(f, e)
        for f, e in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("field", FIELDS)
def test_without_the_field_the_second_call_is_wrong(field: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the key lacked the field, the second call of each pair would get the wrong plan of the first."""
    key = plan_cache.key
    monkeypatch.setattr(plan_cache, "key", lambda call: without(key(call), field))
    for first, second in pairs(CALLS[field], device):
        bounded_cache.clear()
        if field in HIDDEN:
            assert is_wrong_plan(field, first, second) == (field != NOT_NEEDED)
        elif runtime.interpreted():  # a wrong plan may read beyond its operands
            assert is_wrong_result(first, second)


def is_wrong_plan(field: str, first: Call, second: Call) -> bool:
    """Whether the plan of the first call is found for the second one, and is not what that needs.

    It is not if the second call should be planned otherwise, or not at all, or if the kernels were compiled for other
    tensors.
    """
    with switched(field, False):
        new = keep(first)
    with switched(field, True):
        found = find(second)
        assert found is not None
        if dispatch.choose(second)[0] != "triton":
            return True
        try:
            needed = planned(second)
        except RuntimeError:
            return True
    kept, starts = newly_started(new), started(found, new)
    return compiled_for(starts) != compiled_for(kept) or numbers(starts) != numbers(newly_started(needed))


def is_wrong_result(first: Call, second: Call) -> bool:
    """Whether the plan of the first call is found for the second one, and computes something else or fails."""
    expected = compute(second)
    bounded_cache.clear()
    compute(first)
    assert find(second) is not None
    try:
        return not same(compute(second), expected)
    except AssertionError:  # an address beyond the operands
        return True
