"""Fuzzing: for random arguments, both implementations raise what torch raises, or return the same shape and dtype."""

import random
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import tritonconv
from tritonconv import reference

pytestmark = pytest.mark.usefixtures("on_reference")

INPUTS = [(2, 4, 6, 5), (4, 6, 5)]
WRONG_INPUTS = [(), (4,), (2, 4), (1, 2, 4, 6, 5), (2, 3, 6, 5), (2, 4, 0, 5), (2, 4, 1, 1), (0, 4, 6, 5), (0, 3, 6, 5)]
WEIGHTS = {False: [(6, 4, 3, 3), (4, 4, 3, 2)], True: [(4, 6, 3, 3), (4, 2, 3, 2)]}
WRONG_WEIGHTS = [(), (6, 4, 3), (6, 4, 3, 3, 1), (6, 2, 3, 3), (5, 4, 3, 3), (0, 4, 3, 3), (6, 4, 0, 3), (6, 4, 9, 9)]
WRONG_BIASES = [(), (0,), (4,), (5,), (6, 1)]
WRONG_DTYPES = [torch.float64, torch.complex64, torch.float16, torch.int64]
WRONG_SIZES: list[Any] = [0, -1, 1.5, None, "1", True, (), (1, -1), (0, 1), (1, 1, 1), [1.0, 1], (1, None), ("a", 1)]
RARE_SIZES = [(1,), torch.tensor(2), torch.tensor([1, 2]), range(1, 3), torch.Size([1, 2])]
WRONG_GROUPS: list[Any] = [0, -1, 3, 1.0, None, True, "1", (1,), torch.tensor(1)]


def draw(seed: int) -> tuple[str, list[Any], dict[str, Any]]:
    """Return a function's name, and random operands and keyword arguments. For some seeds an argument is wrong."""
    rng = random.Random(seed)
    transposed = rng.random() < 0.5

    def one_of(right: list[Any], wrong: list[Any]) -> Any:
        return rng.choice(wrong) if rng.random() < 0.15 else rng.choice(right)

    def tensor(right: list[Any], wrong: list[Any]) -> Any:
        shape = one_of(right, wrong)
        return None if shape is None else torch.ones(shape, dtype=one_of([torch.float32], WRONG_DTYPES))

    def size(*right: int) -> Any:
        n = rng.choice(right)
        return one_of([n, (n, n), [n, n]], WRONG_SIZES + RARE_SIZES)

    operands = [
        tensor(INPUTS, WRONG_INPUTS),
        tensor(WEIGHTS[transposed], WRONG_WEIGHTS),
        tensor([None, (6,)], WRONG_BIASES),
    ]
    if rng.random() < 0.05:
        operands[rng.randrange(3)] = rng.choice([3, "x", [1.0]])
    arguments = dict(
        stride=size(1, 2), padding=size(0, 1), dilation=size(1, 2), groups=one_of([1, 1, 1, 2], WRONG_GROUPS)
    )
    if rng.random() < 0.1:
        arguments["padding"] = rng.choice(["same", "valid", "foo"])
    if transposed:
        arguments["output_padding"] = size(0)
    given = {name: value for name, value in arguments.items() if rng.random() < 0.6}
    return "conv_transpose2d" if transposed else "conv2d", operands, given


def outcome(module: Any, name: str, operands: list[Any], arguments: dict[str, Any]) -> Any:
    """Call the function, and return shape and dtype of its result, or the class of its error if it raises one."""
    try:
        result = getattr(module, name)(*operands, **arguments)
    except Exception as error:  # of any class, because the class is compared
        return type(error)
    return result.shape, result.dtype


def torch_is_lenient(operands: list[Any]) -> bool:
    """Whether torch's checks depend on its backend: the batch is empty, dtypes differ, or the numbers are int64."""
    tensors = [t for t in operands if isinstance(t, torch.Tensor)]
    return 0 in tensors[0].shape[:1] or len({t.dtype for t in tensors}) > 1 or tensors[0].dtype == torch.int64


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own
@pytest.mark.parametrize("ours", [reference, tritonconv], ids=["reference", "tritonconv"])
def test_fuzz(ours: ModuleType) -> None:
    refused = accepted = 0
    for seed in range(3000):
        name, operands, arguments = draw(seed)
        theirs = outcome(functional, name, operands, arguments)
        if not isinstance(theirs, type) and torch_is_lenient(operands):
            continue
        if isinstance(theirs, type):
            refused += 1
        else:
            accepted += 1
        shown = [getattr(t, "shape", t) for t in operands], [getattr(t, "dtype", "") for t in operands]
        assert outcome(ours, name, operands, arguments) == theirs, (seed, name, *shown, arguments)
    assert min(refused, accepted) > 500


def draw_module(seed: int) -> tuple[str, tuple[Any, ...], dict[str, Any], tuple[Any, ...]]:
    """Return a layer's name, its random positional and keyword arguments, and an attribute with its new value.

    The caller sets the attribute, unless that tuple is empty, which it is for nine of ten seeds.
    """
    rng = random.Random(f"module {seed}")
    transposed = rng.random() < 0.5

    def one_of(right: list[Any], wrong: list[Any]) -> Any:
        return rng.choice(wrong) if rng.random() < 0.1 else rng.choice(right)

    sizes = [1, 2, (1, 2), [2, 1]]
    arguments: dict[str, Any] = {
        "stride": one_of(sizes, [0, -1, 1.5, "1", None, (1, 2, 3), "same"]),
        "padding": one_of([0, 1, (0, 1)], [-1, 1.5, None, (1, 2, 3), "same", "valid", "foo"]),
        "dilation": one_of(sizes, [0, -1, 1.5, None, (1, 2, 3)]),
        "groups": one_of([1, 1, 2], [0, -1, 3, 1.0, None]),
        "padding_mode": one_of(["zeros"], ["reflect", "circular", "foo"]),
        "bias": one_of([True, False], [None, 1]),
    }
    if transposed:
        arguments["output_padding"] = one_of([0], [1, (0, 1), -1, 1.5, None, (1, 2, 3)])
    given = {name: value for name, value in arguments.items() if rng.random() < 0.5}
    positional = (one_of([4], [5, 0, -1]), one_of([6], [5, -1]), one_of([3, (2, 3)], [0, 9, (1, 2, 3)]))
    changes = {"stride": 2, "padding": 1, "dilation": 2, "padding_mode": "circular", "groups": 2}
    change = rng.choice([*changes.items()]) if rng.random() < 0.1 else ()
    return "ConvTranspose2d" if transposed else "Conv2d", positional, given, change


def module_outcome(module: Any, name: str, positional: tuple[Any, ...], given: dict[str, Any], change: Any) -> Any:
    """Build and call a layer, and return shape and dtype of its result, or the class of its error if it raises one."""
    try:
        layer = getattr(module, name)(*positional, **given)
        if change:
            setattr(layer, *change)
        result = layer(torch.ones(2, 4, 7, 6))
    except Exception as error:  # of any class, because the class is compared
        return type(error)
    return result.shape, result.dtype


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own
@pytest.mark.parametrize("ours", [reference, tritonconv], ids=["reference", "tritonconv"])
def test_fuzz_modules(ours: ModuleType) -> None:
    outcomes = []
    for seed in range(2000):
        drawn = draw_module(seed)
        outcomes.append(module_outcome(nn, *drawn))
        assert module_outcome(ours, *drawn) == outcomes[-1], (seed, *drawn)
    refused = sum(isinstance(outcome, type) for outcome in outcomes)
    assert 400 < refused < 1600
