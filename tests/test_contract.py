"""Both implementations keep torch.nn's interface: what it accepts, what it refuses, and what its modules promise."""

import copy
import pickle
from collections.abc import Callable
from math import sqrt
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reference
import tritonconv
from tests.oracle import assert_close, widened

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("on_reference"),
]


@pytest.fixture(params=[reference, tritonconv], ids=["reference", "tritonconv"])
def ours(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


torch.manual_seed(0)
x, w, b = torch.randn(2, 4, 5, 5), torch.randn(6, 4, 3, 3), torch.randn(6)
wt = torch.randn(4, 6, 3, 3)

Call = Callable[[Any], Tensor]  # takes a module that has conv2d and conv_transpose2d

REFUSED: dict[str, tuple[str | None, Call]] = {
    "rank 2": ("Expected 3D .unbatched. or 4D .batched. input to conv2d", lambda m: m.conv2d(x[0, 0], w)),
    "rank 5": ("Expected 3D .unbatched. or 4D .batched. input to conv2d", lambda m: m.conv2d(x[None], w)),
    "transposed rank 2": ("Expected 3D .* input to conv_transpose2d", lambda m: m.conv_transpose2d(x[0, 0], wt)),
    "weight rank 3": (None, lambda m: m.conv2d(x, w[0])),
    "weight rank 5": (None, lambda m: m.conv2d(x, w[None])),
    "transposed weight rank 5": (None, lambda m: m.conv_transpose2d(x, wt[None])),
    "weight rank 3, same": (None, lambda m: m.conv2d(x, w[0], padding="same")),
    "channels": ("to have 4 channels, but got 3 channels", lambda m: m.conv2d(x[:, :3], w)),
    "unbatched channels": ("to have 4 channels, but got 3 channels", lambda m: m.conv2d(x[0, :3], w)),
    "transposed channels": ("to have 4 channels, but got 3 channels", lambda m: m.conv_transpose2d(x[:, :3], wt)),
    "grouped channels": ("to have 8 channels, but got 4 channels", lambda m: m.conv2d(x, w, groups=2)),
    "groups do not divide": (
        "expected weight to be divisible by 2 at dimension 0",
        lambda m: m.conv2d(x, torch.ones(5, 2, 3, 3), groups=2),
    ),
    "transposed groups do not divide": (
        "expected weight to be divisible by 3 at dimension 0",
        lambda m: m.conv_transpose2d(x, wt, groups=3),
    ),
    "more groups than filters": ("expected weight to be at least 4", lambda m: m.conv2d(x, w[:2], groups=4)),
    "no filters": ("expected weight to be at least 1", lambda m: m.conv2d(x, w[:0])),
    "bias shape": ("expected bias to be 1-dimensional with 6 elements", lambda m: m.conv2d(x, w, b[:4])),
    "bias rank": ("expected bias to be 1-dimensional with 6 elements", lambda m: m.conv2d(x, w, b[None])),
    "transposed bias": ("expected bias to be 1-dimensional with 6", lambda m: m.conv_transpose2d(x, wt, b[:4])),
    "kernel too large": ("Kernel size can't be greater than actual input", lambda m: m.conv2d(x[..., :2, :2], w)),
    "output too small": (None, lambda m: m.conv_transpose2d(x[..., :1, :1], wt, padding=2)),
    "no pixels": (None, lambda m: m.conv2d(x[:, :, :0], w)),
    "no pixels, padded": ("Only zero batch", lambda m: m.conv2d(x[:, :, :0], w, padding=2)),
    "transposed no pixels": ("Only zero batch", lambda m: m.conv_transpose2d(x[:, :, :0], wt)),
    "no taps": (None, lambda m: m.conv2d(x, w[:, :, :0])),
    "dtype": (None, lambda m: m.conv2d(x.double(), w)),
    "bias dtype": ("Input type .* and bias type .* should be the same", lambda m: m.conv2d(x, w, b.double())),
    "transposed dtype": (None, lambda m: m.conv_transpose2d(x.double(), wt)),
    "real weight": ("Input type .* and weight type .* should be the same", lambda m: m.conv2d(x.cfloat(), w)),
    "same, strided": (
        "padding='same' is not supported for strided",
        lambda m: m.conv2d(x, w, padding="same", stride=2),
    ),
    "unknown padding": ("Invalid padding string", lambda m: m.conv2d(x, w, padding="foo")),
    "transposed string": ("must be tuple of ints, not str", lambda m: m.conv_transpose2d(x, wt, padding="same")),
    "output padding too large": (
        "output padding must be smaller than either stride or dilation",
        lambda m: m.conv_transpose2d(x, wt, output_padding=1),
    ),
    "negative output padding": ("negative output_padding", lambda m: m.conv_transpose2d(x, wt, output_padding=-1)),
    "three output paddings": (
        "output_padding to be a single",
        lambda m: m.conv_transpose2d(x, wt, output_padding=(0,) * 3),
    ),
    "input None": (None, lambda m: m.conv2d(None, w)),
    "weight None": (None, lambda m: m.conv2d(x, None)),
    "bias a list": (None, lambda m: m.conv2d(x, w, [1.0])),
    "groups 0": ("non-positive groups is not supported", lambda m: m.conv2d(x, w, groups=0)),
    "groups 1.0": (None, lambda m: m.conv2d(x, w, groups=1.0)),
    "groups None": (None, lambda m: m.conv2d(x, w, groups=None)),
    "groups True": (None, lambda m: m.conv2d(x, w, groups=True)),
    "stride 0": ("non-positive stride is not supported", lambda m: m.conv2d(x, w, stride=0)),
    "dilation 0": ("non-positive dilation is not supported", lambda m: m.conv2d(x, w, dilation=0)),
    "dilation -1": (None, lambda m: m.conv2d(x, w, dilation=-1)),
    "padding -1": ("negative padding is not supported", lambda m: m.conv2d(x, w, padding=-1)),
    "transposed stride 0": ("non-positive stride", lambda m: m.conv_transpose2d(x, wt, stride=0)),
    "transposed padding -1": ("negative padding", lambda m: m.conv_transpose2d(x, wt, padding=-1)),
}
for _name in ("stride", "padding", "dilation"):
    for _value in ((1, 1, 1), ()):
        REFUSED[f"{_name} {_value}"] = (
            f"expected {_name} to be a single integer value or a list of 2 values",
            lambda m, name=_name, value=_value: m.conv2d(x, w, **{name: value}),
        )
    for _value in (1.5, None, [1.0, 1.0], True):
        REFUSED[f"{_name} {_value}"] = (None, lambda m, name=_name, value=_value: m.conv2d(x, w, **{name: value}))


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_torch_refuses(name: str, ours: ModuleType) -> None:
    """The same class of exception, and torch's words where torch has any of its own."""
    gist, call = REFUSED[name]
    with pytest.raises(Exception, match=gist) as theirs:
        call(nn.functional)
    with pytest.raises(type(theirs.value), match=gist):
        call(ours)


ACCEPTED: dict[str, Call] = {
    "one-element stride": lambda m: m.conv2d(x, w, stride=(2,)),
    "tensor stride": lambda m: m.conv2d(x, w, stride=torch.tensor(2)),
    "tensor groups": lambda m: m.conv2d(x, w[:, :2], groups=torch.tensor(2)),
    "size as stride": lambda m: m.conv2d(x, w, stride=torch.Size([2, 1])),
    "list of padding": lambda m: m.conv2d(x, w, padding=[1, 2]),
    "positional": lambda m: m.conv2d(x, w, b, 2, 1, 1, 1),
    "positional transposed, dilation last": lambda m: m.conv_transpose2d(x, wt, None, 2, 1, 1, 1, 2),
    "keywords": lambda m: m.conv2d(input=x, weight=w, bias=b, stride=1, padding=0, dilation=1, groups=1),
    "unbatched": lambda m: m.conv2d(x[0], w, b),
    "transposed unbatched": lambda m: m.conv_transpose2d(x[0], wt),
    "empty batch": lambda m: m.conv2d(x[:0], w, b),
    "transposed empty batch": lambda m: m.conv_transpose2d(x[:0], wt, b),
    "nothing left": lambda m: m.conv_transpose2d(x[..., :1, :1], wt[..., :2, :2], padding=1),
    "same, even kernel": lambda m: m.conv2d(x, w[..., :2, :], padding="same", dilation=(1, 2)),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepts_what_torch_accepts(name: str, ours: ModuleType) -> None:
    assert_close(ACCEPTED[name](ours), ACCEPTED[name](nn.functional).double(), "float32")


def test_no_channels_are_refused(ours: ModuleType) -> None:
    """torch returns a tensor without the output's channels; there is no sum to form."""
    with pytest.raises(RuntimeError, match="Only zero batch"):
        ours.conv2d(x[:, :0], w[:, :0])


@pytest.mark.parametrize("transposed", [False, True])
def test_empty_batch_has_zero_gradients(ours: ModuleType, transposed: bool) -> None:
    layer = (ours.ConvTranspose2d if transposed else ours.Conv2d)(4, 6, 3)
    layer(torch.zeros(0, 4, 5, 5, requires_grad=True)).sum().backward()
    assert not layer.weight.grad.any()
    assert not layer.bias.grad.any()


# Modules

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
    """Same initial weights under the same seed, same result, repr and state; they survive pickle and deepcopy."""
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("given", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("transposed", [False, True])
def test_autocast(ours: ModuleType, dtype: torch.dtype, given: torch.dtype, transposed: bool, device: str) -> None:
    """The dtypes of the result and of the gradients are torch's."""
    name, weight = ("conv_transpose2d", wt) if transposed else ("conv2d", w)

    def dtypes(module: Any) -> list[torch.dtype]:
        operands = [t.to(device, given, copy=True).requires_grad_() for t in (x, weight, b)]
        with torch.autocast(device, dtype):
            result = getattr(module, name)(*operands)
        return [result.dtype, *(g.dtype for g in torch.autograd.grad(result.sum(), operands))]

    assert dtypes(ours) == dtypes(nn.functional)
    operands = [t.to(device) for t in (x, weight, b)]
    with torch.autocast(device, dtype):
        result = getattr(ours, name)(*operands)
    rounded = [t.to(dtype).double() for t in operands]
    assert_close(result, getattr(nn.functional, name)(*rounded), str(dtype).removeprefix("torch."))


SHAPES = [
    ((2, 4, 6, 5), (4, 4, 3, 3)),
    ((2, 1, 6, 5), (1, 1, 3, 3)),
    ((2, 4, 1, 1), (4, 4, 3, 3)),
    ((2, 4, 3, 3), (4, 4, 3, 3)),
]


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
@pytest.mark.parametrize("last", range(8))
@pytest.mark.parametrize(("image_shape", "weight_shape"), SHAPES)
def test_channels_last_follows_torch(
    ours: ModuleType, image_shape: tuple[int, ...], weight_shape: tuple[int, ...], last: int, name: str
) -> None:
    """The result is channels_last if either operand is, and leaves' gradients follow the leaves, whatever comes in."""
    operands = [torch.randn(image_shape), torch.randn(weight_shape)]
    results = []
    for module in (ours, nn.functional):
        leaves = [formatted(t, last >> i & 1).requires_grad_() for i, t in enumerate(operands)]
        y = getattr(module, name)(*leaves, padding=1)
        gradient = formatted(torch.ones(y.shape), last >> 2 & 1)
        raw = torch.autograd.grad(y, leaves, gradient, retain_graph=True) if module is not reference else ()
        y.backward(gradient)
        results.append([strides(t) for t in (y, *(leaf.grad for leaf in leaves), *raw)])
    assert results[0] == results[1][: len(results[0])]


def strides(tensor: Tensor) -> list[int]:
    """Those that say anything: of dimensions with more than one index."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def formatted(tensor: Tensor, channels_last: int) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def test_meta_tensors(ours: ModuleType) -> None:
    for name, out in (("Conv2d", (2, 8, 6, 6)), ("ConvTranspose2d", (2, 8, 10, 10))):
        layer = getattr(ours, name)(3, 8, 3, device="meta")
        y = layer(torch.empty(2, 3, 8, 8, device="meta"))
        assert y.shape == out
        y.sum().backward()
        assert layer.weight.grad.shape == layer.weight.shape


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [("LazyConv2d", (6, 3), dict(padding=1, groups=2)), ("LazyConvTranspose2d", (6, 3, 2), dict(bias=False))],
)
def test_lazy_variants(ours: ModuleType, name: str, args: Any, kwargs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They become our classes, and never run torch's convolution, the first call included."""
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
    """Parametrizations, pruning, fusion with BatchNorm, and another class assigned to a layer that exists."""
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.complex128])
def test_wide_and_complex_dtypes(ours: ModuleType, dtype: torch.dtype) -> None:
    for name, weight in (("Conv2d", w), ("ConvTranspose2d", wt)):
        image = torch.randn(2, 4, 5, 5, dtype=dtype)
        images = image, widened(image)
        layers = [
            getattr(module, name)(4, 6, 3, stride=2, dtype=each.dtype)
            for module, each in zip((ours, nn), images, strict=True)
        ]
        layers[1].load_state_dict(layers[0].state_dict())
        steps = []
        for layer, each in zip(layers, images, strict=True):
            y = layer(each)
            y.abs().square().sum().backward()
            steps.append((y.detach(), layer.weight.grad, layer.bias.grad))
        terms = 2 * steps[1][0].norm().item() / sqrt(6)  # of one of the bias's gradients, whose few sums may all cancel
        for actual, expected, scale in zip(*steps, (1e-30, 1e-30, terms), strict=True):
            assert actual.dtype == dtype
            assert_close(actual, expected, "float32" if dtype == torch.complex64 else "float64", scale=scale)
        assert weight.shape == layers[0].weight.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("given", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_autocast_of_modules(ours: ModuleType, dtype: torch.dtype, given: torch.dtype, name: str, device: str) -> None:
    """A float32 module, fed whatever: the same dtypes as torch.nn, or the same refusal."""

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
