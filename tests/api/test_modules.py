"""The modules behave as torch's: constructors, attributes, state, lazy forms, and torch's utilities for modules."""

import copy
import pickle
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.oracle import assert_close

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("on_reference"),
]

torch.manual_seed(0)
x = torch.randn(2, 4, 5, 5)


LAYERS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("Conv2d", (4, 6, 3), {}),
    ("Conv2d", (4, 6, (3, 2), 2, (1, 0), 1, 2, False), {}),
    ("Conv2d", (4, 6, [3, 3]), dict(padding="same", dilation=2)),
    ("Conv2d", (4, 6, 3), dict(padding="same", padding_mode="circular")),
    ("Conv2d", (4, 6, 3), dict(padding=(0, 1), padding_mode="circular")),
    ("Conv2d", (4, 6, 3), dict(padding=(2, 1), padding_mode="reflect", dtype=torch.float64)),
    ("Conv2d", (4, 6, 3), dict(padding=1, padding_mode="replicate", stride=2)),
    ("ConvTranspose2d", (4, 6, 3), {}),
    ("ConvTranspose2d", (4, 6, (3, 2), 2, 1, 1, 2, False, (1, 3)), {}),
    ("ConvTranspose2d", (4, 6, 3), dict(stride=3, output_padding=2, dtype=torch.float64)),
]


@pytest.mark.parametrize(("name", "args", "kwargs"), LAYERS)
def test_modules_are_torch_modules(ours: ModuleType, name: str, args: Any, kwargs: Any) -> None:
    """A module has torch's initial weights, result, repr and state, also after pickle and deepcopy."""
    torch.manual_seed(7)
    theirs = getattr(nn, name)(*args, **kwargs)
    torch.manual_seed(7)
    layer = getattr(ours, name)(*args, **kwargs)
    assert isinstance(layer, getattr(nn, name))
    assert repr(layer) == repr(theirs)
    assert_same_state(layer, theirs)

    image = torch.randn(2, 4, 7, 6, dtype=layer.weight.dtype)
    expected = theirs.double()(image.double())
    for copied in (layer, pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert_same_state(copied, layer)
        assert_close(copied(image), expected, str(image.dtype).removeprefix("torch."))


@pytest.mark.parametrize(("name", "args", "kwargs"), LAYERS)
def test_state_dicts_load_both_ways(ours: ModuleType, name: str, args: Any, kwargs: Any) -> None:
    layer, theirs = getattr(ours, name)(*args, **kwargs), getattr(nn, name)(*args, **kwargs)
    theirs.load_state_dict(layer.state_dict())
    assert_same_state(theirs, layer)
    fresh = getattr(nn, name)(*args, **kwargs)
    layer.load_state_dict(fresh.state_dict())
    assert_same_state(layer, fresh)


def assert_same_state(a: nn.Module, b: nn.Module) -> None:
    left, right = a.state_dict(), b.state_dict()
    assert list(left) == list(right)
    assert all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("size", [[13, 11], [14, 12], [2, 6, 13, 12]])
def test_output_size(ours: ModuleType, size: list[int]) -> None:
    layer = ours.ConvTranspose2d(4, 6, 3, stride=2)
    theirs = nn.ConvTranspose2d(4, 6, 3, stride=2)
    theirs.load_state_dict(layer.state_dict())
    image = torch.randn(2, 4, 6, 5)
    assert layer(image, output_size=size).shape[2:] == tuple(size[-2:])
    assert_close(layer(image, output_size=size), theirs.double()(image.double(), output_size=size), "float32")


@pytest.mark.parametrize("size", [[12, 11], [15, 12], [13], [2, 3, 4, 13, 12]])
def test_output_size_refused(ours: ModuleType, size: list[int]) -> None:
    with pytest.raises(ValueError, match="output"):
        ours.ConvTranspose2d(4, 6, 3, stride=2)(torch.randn(2, 4, 6, 5), output_size=size)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("Conv2d", dict(groups=0)),
        ("Conv2d", dict(groups=3)),
        ("Conv2d", dict(padding="foo")),
        ("Conv2d", dict(padding="same", stride=2)),
        ("Conv2d", dict(padding_mode="foo")),
        ("ConvTranspose2d", dict(padding_mode="circular")),
        ("ConvTranspose2d", dict(groups=3)),
    ],
)
def test_constructors_refuse(ours: ModuleType, name: str, kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - torch's own message, by inheritance
        getattr(ours, name)(4, 6, 3, **kwargs)


def test_conv_forward_is_the_hook(ours: ModuleType) -> None:
    class Halved(ours.Conv2d):  # type: ignore[name-defined]
        def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return super()._conv_forward(input, weight / 2, bias)

    layer = Halved(4, 6, 3, bias=False)
    assert_close(layer(x), nn.functional.conv2d(x.double(), layer.weight.double() / 2), "float32")


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [("LazyConv2d", (6, 3), dict(padding=1, groups=2)), ("LazyConvTranspose2d", (6, 3, 2), dict(bias=False))],
)
def test_lazy_variants(ours: ModuleType, name: str, args: Any, kwargs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lazy modules become our classes, and never run torch's convolution, not even in the first call."""
    layers = []
    for module in (ours, nn):
        torch.manual_seed(3)
        layers.append(getattr(module, name)(*args, **kwargs))
    ours_lazy, theirs = layers
    assert isinstance(ours_lazy, getattr(nn, name))
    assert repr(ours_lazy) == repr(theirs)
    torch.manual_seed(4)
    expected = theirs(x)
    torch.manual_seed(4)
    function = name.removeprefix("Lazy").replace("ConvTranspose2d", "conv_transpose2d").lower()
    with monkeypatch.context() as patch:
        patch.setattr(nn.functional, function, None)
        result = ours_lazy(x)
    assert type(ours_lazy) is getattr(ours, name.removeprefix("Lazy"))
    assert_same_state(ours_lazy, theirs)
    assert_close(result, expected.double(), "float32")
    pickle.loads(pickle.dumps(ours_lazy))(x)


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_what_torch_does_to_modules(ours: ModuleType, name: str) -> None:
    """Parametrizations, pruning and fusion with BatchNorm work, and so does assigning our class to torch's layer."""
    from torch.nn.utils import fusion, parametrizations, prune

    layers = [getattr(module, name)(4, 6, 3) for module in (ours, nn)]
    layers[1].load_state_dict(layers[0].state_dict())

    def both(change: Callable[[nn.Module], nn.Module]) -> None:
        results = []
        for layer in layers:
            torch.manual_seed(5)
            changed = change(copy.deepcopy(layer))
            results.append(changed(x))
            results[-1].sum().backward()
        assert isinstance(change(copy.deepcopy(layers[0])), getattr(nn, name))
        assert_close(results[0], results[1].double(), "float32")

    both(parametrizations.weight_norm)
    both(parametrizations.spectral_norm)
    both(lambda layer: prune.random_unstructured(layer, "weight", 0.5))
    norm = nn.BatchNorm2d(6)(torch.randn(8, 6, 4, 4)) is not None and nn.BatchNorm2d(6)
    norm.running_mean.normal_()
    both(lambda layer: fusion.fuse_conv_bn_eval(layer.eval(), norm.eval(), transpose=name == "ConvTranspose2d"))

    plain = copy.deepcopy(layers[1])
    plain.__class__ = getattr(ours, name)
    assert_close(plain(x), layers[1](x).double(), "float32")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("given", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_autocast_of_modules(ours: ModuleType, dtype: torch.dtype, given: torch.dtype, name: str, device: str) -> None:
    """For inputs of any dtype, a float32 module gives the dtypes of torch.nn, or raises the same class of error."""

    def outcome(module: ModuleType) -> Any:
        layer = getattr(module, name)(4, 6, 3, device=device)
        image = x.to(device, given, copy=True).requires_grad_()
        try:
            with torch.autocast(device, dtype):
                y = layer(image)
        except RuntimeError as error:
            return type(error)
        y.sum().backward()
        return y.dtype, image.grad.dtype, layer.weight.grad.dtype, layer.bias.grad.dtype

    assert outcome(ours) == outcome(nn)
