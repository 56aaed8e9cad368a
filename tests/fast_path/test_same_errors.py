"""A call that torch refuses is refused in the same words after an equal or a neighbouring call was kept."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import tritonconv
from tests.support.cases import Case
from tests.support.fast_path_keys import DULL_OF
from tests.support.outcomes import alone, outcome, same
from tests.support.ways import noted_long_ways
from tritonconv.fast_path import forward
from tritonconv.launch import bounded_cache

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest, pytest.mark.filterwarnings("ignore::UserWarning")]  # torch's own

TINY = Case("", 1, (4, 4), (4, 4), (3, 3))
CASES = {
    case.name_of_function: case
    for case in (
        TINY,
        Case("", 1, (4, 4), (2, 2), (3, 3), transposed=True),
        Case("", 1, (4, 4), (4, 4), (3, 3), varies="p q"),
        Case("", 1, (4, 4), (2, 2), (3, 3), varies="p q", transposed=True),
        Case("", 1, (4, 4), (4, 4), (3, 3), varies="b"),
        Case("", 1, (4, 4), (4, 4), (3, 3), varies="b p q"),
    )
}
# What no function takes. Values of the arguments, or functions that make a tensor of the right one.
SIZES: list[Any] = [-1, 1.5, None, "1", (), (1, 1, 1), (1, -1), [1.0, 1], (1, None), ("a", 1), [[1], [1]], 2**63]
TENSORS: list[Any] = [
    3,
    "x",
    [1.0],
    Tensor.half,
    Tensor.double,
    lambda tensor: tensor.to(torch.complex64),
    lambda tensor: tensor[0],
    lambda tensor: tensor[None],
    lambda tensor: tensor.new_empty(()),
]
WRONG: dict[str, list[Any]] = {
    "input": [
        None,
        *TENSORS,
        lambda x: x[0, 0],
        lambda x: x[:, :3],
        lambda x: x[:, :0],
        lambda x: x[..., :0, :],
        lambda x: torch.cat([x, x], 1),
    ],
    "weight": [
        None,
        *TENSORS,
        lambda weight: weight[..., 0],
        lambda weight: weight[..., :0],
        lambda weight: weight.transpose(-3, -4)[..., :3, :, :, :].transpose(-3, -4),
        lambda weight: torch.cat([weight] * 2, -3)[..., :3, :, :, :],
    ],
    "bias": [*TENSORS[:6], lambda bias: bias[..., :3], lambda bias: bias[:0], lambda bias: bias[0], lambda b: b[None]],
    "stride": [0, (0, 1), *SIZES],
    "padding": ["foo", "SAME", *SIZES],
    "output_padding": [1, (0, 1), 7, *SIZES],
    "dilation": [0, (0, 1), *SIZES],
    "groups": [0, -1, 3, 8, 1.0, 1.5, None, "1", (1,), [1], 2**63],
}


class Made:
    """A call that `outcomes.outcome` runs: a function, or a layer, and its arguments by their names."""

    def __init__(self, function: Callable[..., Tensor], arguments: dict[str, Any]) -> None:
        self.function, self.arguments = function, arguments

    def run(self) -> tuple[Tensor, ...]:
        return (self.function(**self.arguments).detach(),)

    def changed(self, name: str, wrong: Any) -> "Made":
        """Return the same call with another value of one argument, or with what `wrong` makes of its tensor."""
        value = wrong(self.arguments[name]) if callable(wrong) else wrong
        return Made(self.function, self.arguments | {name: value})

    def on(self, function: Callable[..., Tensor]) -> "Made":
        return Made(function, self.arguments)


def good(name: str, device: str, bias: bool = True) -> Made:
    """Return a call that torch accepts, of the function of this name, whose operands require gradients."""
    operands = [each.requires_grad_() for each in CASES[name].operands(device=device) if each is not None]
    named = dict(zip(("input", "weight", "bias"), operands, strict=True)) | DULL_OF[name]
    return Made(getattr(tritonconv.functional, name), named if bias else named | {"bias": None})


@pytest.fixture(params=[True, False], ids=["grad", "no_grad"])
def in_mode(request: pytest.FixtureRequest) -> Iterator[None]:
    """Record gradients, or not."""
    with torch.set_grad_enabled(request.param):
        yield


def keep(call: Made) -> None:
    """Make a call, and check that it is then repeated by the fast path."""
    call.run()
    with noted_long_ways() as noted:
        call.run()
    assert not noted, "the call is not kept"


@pytest.mark.usefixtures("in_mode")
@pytest.mark.parametrize("name", CASES)
def test_functions_refuse_the_same(name: str, device: str) -> None:
    """The class of the error is torch's, too, for the functions that torch has."""
    call = good(name, device)
    refused = 0
    wrong = [(argument, each) for argument in call.arguments for each in WRONG[argument]]
    expected = [alone(call.changed(*each))[0] for each in wrong]
    bounded_cache.clear()
    keep(call)
    entries = {**forward.kept_forwards.entries}
    for each, alone_raises in zip(wrong, expected, strict=True):
        found = outcome(call.changed(*each))
        assert same(found, alone_raises), each
        if isinstance(found[0], Tensor):
            continue
        refused += 1
        if hasattr(functional, name):
            theirs = outcome(call.changed(*each).on(getattr(functional, name)))
            assert isinstance(theirs[0], Tensor) or found[0] is theirs[0], (each, found, theirs)
    assert refused >= len(wrong) - 2, "torch takes an input without a batch, and a bias that varies over samples"
    assert entries.items() <= forward.kept_forwards.entries.items()
    keep(call)


@pytest.mark.parametrize("name", CASES)
def test_functions_refuse_an_implementation(name: str, device: str) -> None:
    """An unknown one, and Triton for a dtype that no kernel takes. Most functions also refuse the stride."""
    call = good(name, device)
    doubles = {each: value.double() for each, value in call.arguments.items() if isinstance(value, Tensor)}
    wrong = [
        call.changed("implementation", "foo"),
        Made(call.function, call.arguments | doubles | {"implementation": "triton"}),
        call.changed("implementation", "triton").changed("stride", 2**15),
    ]
    expected = [alone(each)[0] for each in wrong]
    bounded_cache.clear()
    keep(call.changed("implementation", "triton"))
    keep(call)
    found = [outcome(each) for each in wrong]
    assert all(map(same, found, expected))
    assert [each[0] for each in found[:2]] == [ValueError, NotImplementedError]
    assert issubclass(found[2][0], RuntimeError)


LAYERS: dict[str, tuple[Any, ...]] = {
    "Conv2d": (4, 4, 3),
    "ConvTranspose2d": (4, 4, 3),
    "LocallyConnected2d": (4, 4, 3, 4),
    "LocallyConnectedTranspose2d": (4, 4, 3, 2),
}
# Attributes of a layer that are set to what it can not run with.
WRONG_ATTRIBUTES: dict[str, list[Any]] = {
    "stride": [0, (0, 1), (1, 1, 1), 1.5, (1.5, 1), None, "same"],
    "padding": [-1, (0, -1), (1, 1, 1), 1.5, None, "foo"],
    "output_padding": [1, (0, 1), (-1, 0), (1, 1, 1), 1.5, None],
    "dilation": [0, (1, 0), (1, 1, 1), 1.5, None],
    "groups": [0, -1, 3, 1.0, None, "1"],
    "weight": WRONG["weight"][len(TENSORS) - 5 :],
    "bias": WRONG["bias"][3:5],
    "padding_mode": ["foo"],
}


class Layer:
    """A call of a layer that `outcomes.outcome` runs, perhaps with another value of one of its attributes."""

    def __init__(self, layer: nn.Module, x: Tensor, name: str = "", wrong: Any = None, **named: Any) -> None:
        self.layer, self.x, self.named = copy.deepcopy(layer), x, named
        if name == "input":
            self.x = wrong(x)
        elif name in ("weight", "bias"):
            with torch.no_grad():
                setattr(self.layer, name, None if wrong is None else nn.Parameter(wrong(getattr(layer, name))))
        elif name:
            setattr(self.layer, name, wrong)

    def run(self) -> tuple[Tensor, ...]:
        return (self.layer(self.x, **self.named).detach(),)


@pytest.mark.usefixtures("in_mode")
@pytest.mark.parametrize("name", LAYERS)
def test_layers_refuse_the_same(name: str, device: str) -> None:
    """The class of the error is torch's, too, for the layers that torch has."""
    layer = getattr(tritonconv, name)(*LAYERS[name], device=device)
    theirs = getattr(nn, name)(*LAYERS[name], device=device) if hasattr(nn, name) else None
    size = 2 if "Transpose" in name else 4
    x = torch.ones(1, 4, size, size, device=device, requires_grad=True)
    wrong: list[tuple[Any, ...]] = [("input", each) for each in WRONG["input"] if callable(each)]
    attributes = [each for each in WRONG_ATTRIBUTES if each != "output_padding" or "Transpose" in name]
    wrong += [(each, value) for each in attributes for value in WRONG_ATTRIBUTES[each]]
    expected = [alone(Layer(layer, x, *each))[0] for each in wrong]
    bounded_cache.clear()
    keep(Layer(layer, x))
    refused = 0
    for each, alone_raises in zip(wrong, expected, strict=True):
        found = outcome(Layer(layer, x, *each))
        assert same(found, alone_raises), each
        if isinstance(found[0], Tensor):
            continue
        refused += 1
        if theirs is not None:
            of_torch = outcome(Layer(theirs, x, *each))
            assert isinstance(of_torch[0], Tensor) or found[0] is of_torch[0], (each, found, of_torch)
    assert refused == len(wrong) - 1, "torch takes only the input without a batch"
    keep(Layer(layer, x))


def test_a_transposed_layer_refuses_an_output_size(device: str) -> None:
    layer, x = tritonconv.ConvTranspose2d(4, 4, 3, device=device), torch.ones(1, 4, 2, 2, device=device)
    keep(Layer(layer, x))
    keep(Layer(layer, x, output_size=[4, 4]))
    for size in ([9, 9], [4], [3, 4]):
        found = outcome(Layer(layer, x, output_size=size))
        assert found[0] is ValueError
        assert same(found, outcome(Layer(nn.ConvTranspose2d(4, 4, 3, device=device), x, output_size=size)))


def right(y: Tensor) -> None:
    y.backward(torch.ones_like(y))


def of_shape(y: Tensor) -> None:
    y.backward(torch.ones(1, device=y.device))


def without_a_gradient(y: Tensor) -> None:
    y.backward()


def of_dtype(y: Tensor) -> None:
    y.backward(torch.ones_like(y, dtype=torch.complex64))


def twice(y: Tensor) -> None:
    y.backward(torch.ones_like(y))
    y.backward(torch.ones_like(y))


def after_a_change(y: Tensor) -> None:
    """The weight is saved for backward, and changed in place before."""
    with torch.no_grad():
        y.weight.add_(1)  # type: ignore[attr-defined]
    y.backward(torch.ones_like(y))


class Backward:
    """A call and a backward pass that `outcomes.outcome` runs."""

    def __init__(self, name: str, backward: Callable[[Tensor], None], device: str) -> None:
        self.call, self.backward = good(name, device), backward

    def run(self) -> tuple[()]:
        y = self.call.function(**self.call.arguments)
        y.weight = self.call.arguments["weight"]  # type: ignore[attr-defined]
        self.backward(y)
        return ()


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d", "locally_connected2d"])
def test_backward_passes_refuse_the_same(name: str, device: str) -> None:
    """A graph of the fast path raises what the operator's own graph raises."""
    ways = [of_shape, without_a_gradient, of_dtype, twice, after_a_change]
    expected = []
    for backward in ways:
        bounded_cache.clear()
        expected.append(outcome(Backward(name, backward, device)))
    assert [each[0] for each in expected] == [RuntimeError] * len(ways)
    bounded_cache.clear()
    for _ in range(2):
        Backward(name, right, device).run()
    with noted_long_ways() as noted:
        Backward(name, right, device).run()
        found = [outcome(Backward(name, backward, device)) for backward in ways]
    assert not noted, "the backward pass is not kept"
    assert found == expected
