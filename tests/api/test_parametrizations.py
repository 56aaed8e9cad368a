"""Parametrizations, norms and pruning outlive a change of class, from a layer of torch.nn to one of ours.

Parametrizing before the change must have the same effect as parametrizing after it.
"""

import copy
from collections.abc import Callable
from threading import Barrier, Thread
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrizations, parametrize, prune

import tritonconv
from tests.support.oracle import assert_close
from tritonconv import reference

pytestmark = [pytest.mark.oldest, pytest.mark.usefixtures("on_reference")]

Change = Callable[[Any], Any]
NAMES = pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])

torch.manual_seed(0)
x = torch.randn(2, 4, 5, 5)


class Scaled(nn.Module):
    def forward(self, original: Tensor) -> Tensor:
        return original * 2

    def right_inverse(self, value: Tensor) -> Tensor:
        return value / 2


def scaled(layer: Any, *names: str) -> Any:
    for name in names or ("weight",):
        parametrize.register_parametrization(layer, name, Scaled())
    return layer


PARAMETRIZED: dict[str, Change] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "scaled": scaled,
    "scaled bias": lambda layer: scaled(layer, "bias"),
    "both scaled": lambda layer: scaled(layer, "bias", "weight"),
    "two of one": lambda layer: scaled(parametrizations.weight_norm(layer)),
}


def pair(ours: ModuleType, name: str, change: Change) -> list[Any]:
    """Return two equal layers of ours that were torch's: one changed before its class was, and one after that."""
    layers = []
    for before in (True, False):
        torch.manual_seed(1)
        layer = getattr(nn, name)(4, 6, 3)
        if before:
            layer = change(layer)
        layer.__class__ = getattr(ours, name)
        layers.append(layer if before else change(layer))
    return layers


def seen(layer: Any, given: Tensor = x) -> dict[str, Any]:
    """Return what a step of the layer gives, and then the layer's class and state."""
    result = layer(given)
    layer.zero_grad()
    result.square().sum().backward()
    gradients = [parameter.grad for parameter in layer.parameters()]
    names = [name for name, _ in layer.named_parameters()]
    classes = [each.__name__ for each in type(layer).__mro__]
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    return dict(result=result, gradients=gradients, names=names, classes=classes, state=state, said=repr(layer))


def assert_same(left: Any, right: Any) -> None:
    """Assert that values, tensors in lists and dicts among them, are equal."""
    assert type(left) is type(right)
    if isinstance(left, Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert [*left] == [*right]
        assert_same([*left.values()], [*right.values()])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    else:
        assert left == right


@NAMES
@pytest.mark.parametrize("change", PARAMETRIZED.values(), ids=PARAMETRIZED)
def test_before_is_as_after(ours: ModuleType, name: str, change: Change) -> None:
    before, after = pair(ours, name, change)
    assert_same(seen(before), seen(after))
    assert type(before).__mro__[1] is getattr(ours, name)


def assigned(layer: Any) -> Any:
    layer.weight = torch.ones((4, 6, 3, 3) if layer.transposed else (6, 4, 3, 3))
    return layer.state_dict()


def loaded(layer: Any) -> Any:
    return str(layer.load_state_dict({name: tensor + 1 for name, tensor in layer.state_dict().items()}))


def cached(layer: Any) -> Any:
    with parametrize.cached():
        return layer.weight is layer.weight, layer(x)


def asked(layer: Any) -> Any:
    return [parametrize.is_parametrized(layer, name) for name in (None, "weight", "bias", "padding")]


def evaluated(layer: Any) -> Any:
    """Power iteration of spectral_norm runs once in each training call, and never in eval."""
    return [layer.train(mode)(x) for mode in (False, False, True, True, False)]


FIRST: dict[str, Change] = {
    "weight": lambda layer: layer.weight,
    "bias": lambda layer: layer.bias,
    "asked": asked,
    "removed": lambda layer: [parametrize.remove_parametrizations(layer, "weight").weight, asked(layer)],
    "undone": lambda layer: parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False).weight,
    "a second one": lambda layer: scaled(layer).weight,
    "one of the bias": lambda layer: scaled(layer, "bias").bias,
    "state": lambda layer: layer.state_dict(),
    "loaded": loaded,
    "copied": lambda layer: copy.deepcopy(layer)(x),
    "copied after a call": lambda layer: [layer(x), copy.deepcopy(layer)(x)],
    "assigned": assigned,
    "cached": cached,
    "train and eval": evaluated,
    "moved": lambda layer: layer.double().float().weight,
    "the list": lambda layer: [name for name, _ in layer.parametrizations.weight.named_parameters()],
}


USES = [
    pytest.param(change, use, id=f"{change.__name__}, {first}")
    for change in (parametrizations.spectral_norm, scaled)
    for first, use in FIRST.items()
    if change is scaled or use is not assigned  # which spectral_norm can not invert
]


@NAMES
@pytest.mark.parametrize(("change", "use"), USES)
def test_whatever_is_done_first(ours: ModuleType, name: str, use: Change, change: Change) -> None:
    before, after = pair(ours, name, change)
    assert_same(use(before), use(after))
    assert_same(seen(before), seen(after))
    shared = getattr(ours, name)
    assert not any(hasattr(shared, tensor) for tensor in ("weight", "bias"))  # properties are the layer's alone


@NAMES
def test_weight_norm_is_removed(ours: ModuleType, name: str) -> None:
    layers = pair(ours, name, parametrizations.weight_norm)
    for layer in layers:
        parametrize.remove_parametrizations(layer, "weight")
        assert type(layer) is getattr(ours, name)
    assert_same(*map(seen, layers))


@NAMES
def test_the_class_may_change_again(name: str) -> None:
    layer, expected = pair(reference, name, parametrizations.weight_norm)
    for package in (tritonconv, reference):
        assert_same(layer.weight, expected.weight)
        layer.__class__ = getattr(package, name)
    assert_same(seen(layer), seen(expected))


def test_locally_connected_layers() -> None:
    torch.manual_seed(1)
    layer = parametrizations.weight_norm(reference.LocallyConnected2d(4, 6, 3, 5))
    expected = layer(x)
    layer.__class__ = tritonconv.LocallyConnected2d
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize(
    ("name", "change"),
    [("Conv2d", parametrizations.weight_norm), ("ConvTranspose2d", lambda layer: scaled(layer, "bias"))],
)
def test_compiled_before_any_use(name: str, change: Change) -> None:
    layer, expected = pair(tritonconv, name, change)
    network = nn.Sequential(layer)
    try:
        result = torch.compile(network, fullgraph=True, backend="eager")(x)
    finally:
        torch._dynamo.reset()
    assert_same(result, expected(x))
    assert_same(seen(layer), seen(expected))


@NAMES
def test_many_threads_may_be_the_first(ours: ModuleType, name: str) -> None:
    layer, expected = pair(ours, name, parametrizations.weight_norm)
    barrier, results = Barrier(8), []

    def read() -> None:
        barrier.wait()
        results.append(layer.weight)

    threads = [Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same(results, [expected.weight] * 8)
    assert_same(seen(layer), seen(expected))


@pytest.mark.parametrize(
    "mode", [torch.inference_mode, torch.no_grad, FakeTensorMode, lambda: torch.device("meta")], ids=repr
)
def test_modes_at_the_first_use(ours: ModuleType, mode: Callable[[], Any]) -> None:
    layer, expected = pair(ours, "Conv2d", parametrizations.weight_norm)
    with mode():
        assert parametrize.is_parametrized(layer)
    assert_same(seen(layer), seen(expected))


def test_what_is_missing_is_missing(ours: ModuleType) -> None:
    """Errors are torch's, with and without parametrizations, and so is the look-up in classes behind ours."""

    class Behind(nn.Module):
        def __getattr__(self, name: str) -> Any:
            return 7 if name == "seven" else super().__getattr__(name)

    class Mixed(ours.Conv2d, Behind):  # type: ignore[name-defined]
        pass

    assert Mixed(4, 6, 3).seven == 7
    for layer in (ours.Conv2d(4, 6, 3), *pair(ours, "Conv2d", scaled)):
        with pytest.raises(
            AttributeError, match=r"^'(Parametrized)?Conv2d' object has no attribute 'nothing'$"
        ) as error:
            layer.nothing  # noqa: B018
        assert error.value.__context__ is None
    with pytest.raises(AttributeError, match="no attribute 'parametrizations'"):
        ours.Conv2d(4, 6, 3).parametrizations  # noqa: B018


HOOKS: dict[str, tuple[Change, Change]] = {
    "weight_norm": (torch.nn.utils.weight_norm, torch.nn.utils.remove_weight_norm),
    "spectral_norm": (torch.nn.utils.spectral_norm, torch.nn.utils.remove_spectral_norm),
    "pruned": (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), lambda layer: prune.remove(layer, "weight")),
    "pruned bias": (lambda layer: prune.l1_unstructured(layer, "bias", 0.5), lambda layer: prune.remove(layer, "bias")),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@NAMES
@pytest.mark.parametrize(("hook", "remove"), HOOKS.values(), ids=HOOKS)
def test_hooks_of_the_old_style(ours: ModuleType, name: str, hook: Change, remove: Change) -> None:
    layers = pair(ours, name, hook)
    found = [seen(layer) for layer in layers]
    assert_same(*found)
    torch.manual_seed(1)
    theirs = hook(getattr(nn, name)(4, 6, 3))
    assert_close(found[0]["result"], theirs(x).double(), "float32")
    for layer in layers:
        remove(layer)
    assert_same(*map(seen, layers))
