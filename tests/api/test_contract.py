"""Both implementations accept and refuse the same arguments as torch.nn, with the same dtypes and memory formats."""

from collections.abc import Callable
from math import sqrt
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.oracle import assert_close, widened
from tritonconv import reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("on_reference"),
]


torch.manual_seed(0)
x, w, b = torch.randn(2, 4, 5, 5), torch.randn(6, 4, 3, 3), torch.randn(6)
wt = torch.randn(4, 6, 3, 3)

Call = Callable[[Any], Tensor]  # the argument is a Python module with conv2d and conv_transpose2d

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
    """The exception has the class of torch's, and torch's message where torch has a readable one."""
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
    "same, even kernel": lambda m: m.conv2d(x, w[..., :2, :], padding="same", dilation=(1, 2)),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepts_what_torch_accepts(name: str, ours: ModuleType) -> None:
    assert_close(ACCEPTED[name](ours), ACCEPTED[name](nn.functional).double(), "float32")


@pytest.mark.parametrize("transposed", [False, True])
def test_empty_batch_has_zero_gradients(ours: ModuleType, transposed: bool) -> None:
    layer = (ours.ConvTranspose2d if transposed else ours.Conv2d)(4, 6, 3)
    layer(torch.zeros(0, 4, 5, 5, requires_grad=True)).sum().backward()
    assert not layer.weight.grad.any()
    assert not layer.bias.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("given", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("transposed", [False, True])
def test_autocast(ours: ModuleType, dtype: torch.dtype, given: torch.dtype, transposed: bool, device: str) -> None:
    """Result and gradients have the dtypes of torch's."""
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
    ((2, 4, 6, 5), (1, 4, 3, 3)),
    ((2, 4, 1, 1), (4, 4, 3, 3)),
    ((2, 1, 1, 1), (1, 1, 3, 3)),
    ((2, 4, 3, 3), (4, 4, 5, 5)),
    ((1, 4, 3, 3), (4, 4, 3, 3)),
]


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
@pytest.mark.parametrize("last", range(8))
@pytest.mark.parametrize(("image_shape", "weight_shape"), SHAPES)
def test_channels_last_follows_torch(
    ours: ModuleType, image_shape: tuple[int, ...], weight_shape: tuple[int, ...], last: int, name: str
) -> None:
    """The result is channels_last if either operand is. The gradients of leaves have the leaves' memory formats.

    The memory format of the incoming gradient does not matter. The result's strides are torch's also where it has one
    channel or one pixel, because the next layer asks them for the memory format.
    """
    if name == "conv_transpose2d":
        weight_shape = (weight_shape[1], weight_shape[0], *weight_shape[2:])
    operands = [torch.randn(image_shape), torch.randn(weight_shape)]
    results = []
    for module in (ours, nn.functional):
        leaves = [formatted(t, last >> i & 1).requires_grad_() for i, t in enumerate(operands)]
        y = getattr(module, name)(*leaves, padding=1)
        gradient = formatted(torch.ones(y.shape), last >> 2 & 1)
        raw = torch.autograd.grad(y, leaves, gradient, retain_graph=True) if module is not reference else ()
        y.backward(gradient)
        results.append([y.stride(), *(strides(t) for t in (*(leaf.grad for leaf in leaves), *raw))])
    assert results[0] == results[1][: len(results[0])]


@pytest.mark.parametrize("between", [1, 4])
def test_channels_last_passes_through_one_channel(ours: ModuleType, between: int) -> None:
    image = formatted(torch.randn(2, 8, 6, 6), 1)
    models = [nn.Sequential(m.Conv2d(8, between, 3, padding=1), m.Conv2d(between, 4, 3, padding=1)) for m in (ours, nn)]
    assert models[0](image).stride() == models[1](image).stride() == (144, 1, 24, 4)


def strides(tensor: Tensor) -> list[int]:
    """Return the strides of the dimensions with more than one index. The other strides are arbitrary."""
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
        # The few sums of the bias's gradient may all cancel, so their error is measured by the terms of one sum.
        terms = 2 * steps[1][0].norm().item() / sqrt(6)
        for actual, expected, scale in zip(*steps, (1e-30, 1e-30, terms), strict=True):
            assert actual.dtype == dtype
            assert_close(actual, expected, "float32" if dtype == torch.complex64 else "float64", scale=scale)
        assert weight.shape == layers[0].weight.shape
