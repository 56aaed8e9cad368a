"""Each field of the fast path's keys is needed: two calls that differ in nothing else need different plans.

Tensors on another device are those without data, on the meta device, which every computer has. No such call is plain,
so the tests of these fields leave out the question whether a call is.
"""

from enum import IntEnum
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.fast_path_keys import (
    BACKWARD,
    DULL_OF,
    FORWARD,
    differing,
    parts_of_backward,
    parts_of_forward,
    without,
)
from tests.support.fast_path_pairs import BACKWARD_PAIRS, FORWARD_PAIRS, plain, plain_pass, transposed
from tests.support.neighbours import NOT_NEEDED, pairs
from tests.support.oracle import convolution_precision
from tests.support.outcomes import alone, outcome, same
from tests.support.ways import noted_long_ways
from tritonconv import runtime
from tritonconv.fast_path import backward, forward, function
from tritonconv.launch import bounded_cache
from tritonconv.launch.kept_plan import KeptPlan

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]

# With these fields, a wrong plan is wrong only for a compiled kernel, or for the user, who asked for something else.
HIDDEN = {
    "implementation",
    "tf32",
    "weight.dtype",
    *(field for field in (*FORWARD, *BACKWARD) if field.endswith(".address")),
}
BOTH = [
    *(pytest.param(forward, parts_of_forward, field, FORWARD_PAIRS[field], id=f"forward-{field}") for field in FORWARD),
    *(
        pytest.param(backward, parts_of_backward, field, BACKWARD_PAIRS[field], id=f"backward-{field}")
        for field in BACKWARD
    ),
]
each_field = pytest.mark.parametrize(("module", "parts", "field", "made"), BOTH)


@pytest.fixture
def any_device_is_plain(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let calls with a tensor on the meta device take the fast path, in tests of devices."""
    if field.endswith(".device"):
        for module in (forward, function):
            monkeypatch.setattr(module, "is_plain", lambda *_: True)


def switched(field: str, second: bool) -> Any:
    """Return the context in which the first or `second` call of a pair is made: with TF32 or without."""
    return convolution_precision("tf32" if field == "tf32" and not second else "ieee")


def kept(module: Any) -> dict[Any, Any]:
    """Return what the module, `forward` or `backward`, has kept."""
    cache = forward.kept_forwards if module is forward else backward.kept_backwards
    return cache.entries


def test_these_are_all_fields(device: str) -> None:
    """A new field of a key needs a pair of calls."""
    assert sorted(FORWARD_PAIRS) == sorted(FORWARD)
    assert sorted(BACKWARD_PAIRS) == sorted(BACKWARD)
    with torch.device(device):
        call, of_pass = plain(), plain_pass()
    with convolution_precision("tf32"):
        call.run()
        of_pass.run()
        (of_call,), (of_gradients,) = forward.kept_forwards.entries, backward.kept_backwards.entries
    tensors = {"input": call.input, "weight": call.weight, "bias": call.bias}
    assert list(parts_of_forward(of_call).items()) == list(
        zip(
            FORWARD,
            ["fprop", "", 1, 0, 0, 1, 1, "triton", True, *described(tensors), True],
            strict=True,
        )
    )
    tensors = {"gradient": of_pass.gradient, "first": of_pass.first, "weight": of_pass.weight}
    assert of_gradients == (of_pass.saved_call, of_pass.needed, True, *described(tensors))


def described(tensors: dict[str, Any]) -> list[Any]:
    return [
        field
        for tensor in tensors.values()
        for field in (tensor.device, tensor.dtype, tensor.shape, tensor.stride(), tensor.data_ptr() % 16)
    ]


@each_field
@pytest.mark.usefixtures("any_device_is_plain")
def test_the_second_call_takes_the_long_way_and_is_right(
    module: Any, parts: Any, field: str, made: Any, device: str
) -> None:
    for first, second in pairs(made, device):
        with switched(field, True):
            expected, _ = alone(second)
        bounded_cache.clear()
        with noted_long_ways() as noted:
            with switched(field, False):
                first.run()
                assert len(noted) == 1
                first.run()
                assert len(noted) == 1, "the first call is not kept"
            with switched(field, True):
                found = outcome(second)
        assert len(noted) == 2
        assert same(found, expected)


@each_field
@pytest.mark.usefixtures("any_device_is_plain")
def test_without_the_field_the_second_call_gets_a_wrong_plan(
    module: Any, parts: Any, field: str, made: Any, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the key lacked the field, the second call of each pair would get what the first has kept, which is wrong.

    For the fields in HIDDEN, the second call's own kernels would be compiled for something else, or it has none. For
    all others, the result is wrong in the interpreter.
    """
    key, keys = module.key, []

    def shorter(*given: Any) -> Any:
        keys.append(key(*given))
        return without(parts(keys[-1]), field)

    for first, second in pairs(made, device):
        with switched(field, True):
            expected, needed = alone(second)
        with switched(field, False):
            _, compiled = alone(first)
        with monkeypatch.context() as patch, noted_long_ways() as noted:
            patch.setattr(module, "key", shorter)
            # A shorter key has something else in the place of the switch for TF32.
            patch.setattr(KeptPlan, "follows_switch", lambda *_, **__: True)
            bounded_cache.clear()
            with switched(field, False):
                first.run()
                of_first = keys[-1]
            if field not in HIDDEN and not runtime.interpreted():
                continue  # a wrong plan may read beyond its operands
            with switched(field, True):
                found = outcome(second)
        assert differing(parts(of_first), parts(keys[-1])) == [field]
        assert len(noted) == 1, "the second call did not get what the first has kept"
        if field in HIDDEN:
            assert (compiled != needed) == (field != NOT_NEEDED)
        else:
            assert not same(found, expected)


class One(IntEnum):
    ONE = 1


class Text(str):
    """A string of a type of its own."""


# Numbers that equal 1 or (1, 1), or mean the same to torch. Torch refuses some of them.
EQUAL = {
    "bool": True,
    "float": 1.0,
    "int64": np.int64(1),
    "array": np.array(1),
    "tensor": torch.tensor(1),
    "enum": One.ONE,
    "text": "1",
    "list": [1, 1],
    "size": torch.Size([1, 1]),
    "range": range(1, 3),
    "bools": (True, True),
    "floats": (1.0, 1),
    "int64s": (1, np.int64(1)),
    "enums": (One.ONE, 1),
    "nested": ((1,), (1,)),
    "none": None,
}


@pytest.mark.parametrize("value", EQUAL.values(), ids=EQUAL)
def test_numbers_that_equal_ints_go_the_long_way(value: Any, device: str) -> None:
    """Whether torch takes or refuses them, they never find what an equal call with ints has kept."""
    with torch.device(device):
        calls = [(make(), number) for make in (plain, transposed) for number in DULL_OF[make().function]]
    for call, number in calls:
        given = {"stride": 2} if number == "output_padding" else {}
        second = call._replace(numbers=given | {number: value})
        expected, _ = alone(second)
        for ints in (1, (1, 1)):
            if number == "groups" and ints != 1:
                continue
            first = call._replace(numbers=given | {number: ints})
            bounded_cache.clear()
            first.run()
            assert len(forward.kept_forwards.entries) == 1
            with noted_long_ways() as noted:
                first.run()
                assert not noted, "the first call is not kept"
                assert same(outcome(second), expected)
                assert same(outcome(second), expected)
                assert noted == ["forward"] * 2
            assert len(forward.kept_forwards.entries) == 1


@pytest.mark.parametrize(
    "padding", [Text("same"), ["same"], ("same",), b"same"], ids=["text", "list", "tuple", "bytes"]
)
def test_padding_that_is_no_string_of_pythons_own_goes_the_long_way(padding: Any, device: str) -> None:
    with torch.device(device):
        first = plain(numbers={"padding": "same"})
    second = first._replace(numbers={"padding": padding})
    expected, _ = alone(second)
    bounded_cache.clear()
    first.run()
    with noted_long_ways() as noted:
        first.run()
        assert not noted, "the first call is not kept"
        assert same(outcome(second), expected)
        assert noted == ["forward"]


def test_a_list_that_is_changed_after_the_call(device: str) -> None:
    """The second call uses the numbers that the list then holds."""
    with torch.device(device):
        call = plain()
    padding = [0, 0]
    changing = call._replace(numbers={"padding": padding})
    changing.run()
    padding[:] = [1, 0]
    assert same(changing.run(), alone(call._replace(numbers={"padding": (1, 0)}))[0])


def test_a_call_equals_itself_with_new_tensors(device: str) -> None:
    """What is kept does not depend on the numbers in the tensors, nor on their addresses modulo more than 16."""
    with torch.device(device):
        calls = [plain(), plain(), transposed(), transposed()]
    expected = [alone(call)[0] for call in calls]
    bounded_cache.clear()
    with noted_long_ways() as noted:
        found = [call.run() for call in calls]
    assert noted == ["forward"] * 2
    assert all(map(same, found, expected))
