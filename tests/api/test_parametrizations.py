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
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrizations, parametrize, prune

import tritonconv
from tests.support.changed_class import Change, assert_same, pair, scaled, seen, x
from tests.support.oracle import assert_close
from tritonconv import reference

pytestmark = pytest.mark.usefixtures("on_reference")

NAMES = pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])

PARAMETRIZED: dict[str, Change] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "scaled": scaled,
    "scaled bias": lambda layer: scaled(layer, "bias"),
    "both scaled": lambda layer: scaled(layer, "bias", "weight"),
    "two of one": lambda layer: scaled(parametrizations.weight_norm(layer)),
}


@pytest.mark.oldest
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


@pytest.mark.oldest
@NAMES
@pytest.mark.parametrize(("change", "use"), USES)
def test_whatever_is_done_first(ours: ModuleType, name: str, use: Change, change: Change) -> None:
    before, after = pair(ours, name, change)
    assert_same(use(before), use(after))
    assert_same(seen(before), seen(after))
    shared = getattr(ours, name)
    assert not any(hasattr(shared, tensor) for tensor in ("weight", "bias"))  # properties are the layer's alone


@pytest.mark.oldest
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
    assert_same(compiled(nn.Sequential(layer), x), expected(x))
    assert_same(seen(layer), seen(expected))


def compiled(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a function that torch.compile has traced, as a whole."""
    try:
        return torch.compile(function, fullgraph=True, backend="eager")(*arguments)
    finally:
        torch._dynamo.reset()


@pytest.mark.oldest
def test_read_by_compiled_code_before_any_use(ours: ModuleType) -> None:
    layer, expected = pair(ours, "Conv2d", parametrizations.weight_norm)
    for _ in range(2):
        assert_same(compiled(lambda: [layer.weight * 2, layer.bias]), [expected.weight * 2, expected.bias])
        assert_same(seen(layer), seen(expected))


@pytest.mark.oldest
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


@pytest.mark.oldest
@pytest.mark.parametrize(
    "mode",
    [torch.inference_mode, torch.no_grad, FakeTensorMode, lambda: torch.device("meta")],
    ids=["inference", "no_grad", "fake", "meta"],
)
def test_modes_at_the_first_use(ours: ModuleType, mode: Callable[[], Any]) -> None:
    layer, expected = pair(ours, "Conv2d", parametrizations.weight_norm)
    with mode():
        assert parametrize.is_parametrized(layer)
    assert_same(seen(layer), seen(expected))


@pytest.mark.oldest
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


def test_an_error_of_a_parametrization_is_seen(ours: ModuleType) -> None:
    """An AttributeError in a parametrization is raised as it is, not taken for a missing weight."""

    class Wrong(nn.Module):
        def forward(self, original: Any) -> Any:
            return original.nothing

    layers = pair(
        ours, "Conv2d", lambda layer: parametrize.register_parametrization(layer, "weight", Wrong(), unsafe=True)
    )
    for layer in layers:
        with pytest.raises(AttributeError, match=r"'(Parameter|Tensor)' object has no attribute 'nothing'"):
            layer(x)
