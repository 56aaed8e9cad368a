"""No channels, no filters, no pixels, no taps and no images: as torch has them, in both packages.

torch accepts transposed results without pixels in float32 and 16 bits on a CPU. It refuses them in float64.
"""

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tritonconv

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("on_reference")]

# Shapes of image and weight, and arguments: an image has no channels.
NO_CHANNELS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ((2, 0, 5, 6), (3, 0, 3, 3), {}),
    "unbatched": ((0, 5, 6), (3, 0, 3, 3), {}),
    "empty batch": ((0, 0, 5, 6), (3, 0, 3, 3), {}),
    "strided": ((2, 0, 5, 6), (3, 0, 3, 2), dict(stride=(2, 1), padding=1, dilation=(1, 2))),
    "groups": ((2, 0, 5, 6), (4, 0, 3, 3), dict(groups=2)),
    "same": ((2, 0, 5, 6), (3, 0, 2, 3), dict(padding="same")),
    "no pixels, padded": ((2, 0, 0, 6), (3, 0, 1, 1), dict(padding=1)),
}


def step(module: Any, x: Tensor, weight: Tensor, bias: Tensor | None, arguments: dict[str, Any]) -> list[Any]:
    """Return shape, strides and dtype of the result of `conv2d`, and each gradient as shape and values."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, weight, bias) if t is not None]
    y = module.conv2d(*leaves, **arguments)
    gradients = torch.autograd.grad(y.sum(), leaves)
    return [y.shape, y.stride(), y.dtype, *((g.shape, g.flatten().tolist()) for g in gradients)]


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", NO_CHANNELS)
def test_no_channels(ours: ModuleType, name: str, bias: bool) -> None:
    """torch's result has no channels either, whatever the number of filters. The gradients are zeros."""
    image, filters, arguments = NO_CHANNELS[name]
    operands = torch.ones(image), torch.ones(filters), torch.ones(filters[0]) if bias else None
    assert step(ours, *operands, arguments) == step(nn.functional, *operands, arguments)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")  # torch's own
def test_modules_without_channels(ours: ModuleType) -> None:
    lazy = ours.LazyConv2d(33, 3, stride=2)
    lazy(torch.ones(2, 0, 7, 9))
    shapes = []
    for layer in (nn.Conv2d(0, 33, 3, stride=2), ours.Conv2d(0, 33, 3, stride=2), lazy):
        x = torch.ones(2, 0, 7, 9, requires_grad=True)
        y = layer(x)
        y.sum().backward()
        assert (x.grad.shape, layer.weight.grad.shape) == (x.shape, layer.weight.shape)
        assert not layer.bias.grad.any()
        shapes.append(y.shape)
    assert shapes == [torch.Size([2, 0, 3, 4])] * 3


def test_second_derivatives_and_transforms_without_channels(ours: ModuleType) -> None:
    x, weight, bias = torch.ones(2, 0, 4, 4).double(), torch.ones(3, 0, 2, 2).double(), torch.ones(3).double()
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    gradients = torch.autograd.grad(ours.conv2d(*leaves).sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(g.sum() for g in gradients), leaves, allow_unused=True)
    assert all(g is None or not g.any() for g in second)
    constants = [t.detach() for t in leaves]
    value, tangent = torch.func.jvp(ours.conv2d, tuple(constants), tuple(map(torch.ones_like, constants)))
    assert value.shape == tangent.shape == (2, 0, 3, 3)
    mapped = torch.func.vmap(ours.conv2d, in_dims=(None, 0, None))(
        constants[0], constants[1][None].expand(5, -1, -1, -1, -1), constants[2]
    )
    assert mapped.shape == (5, 2, 0, 3, 3)


@pytest.mark.parametrize("varying", ["locally_connected2d", "per_sample_conv2d", "dynamic_conv2d"])
def test_weights_that_vary_without_channels(ours: ModuleType, varying: str) -> None:
    """Equal filters everywhere give what the convolution gives: no channels."""
    lead = {"locally_connected2d": (3, 4), "per_sample_conv2d": (2,), "dynamic_conv2d": (2, 3, 4)}[varying]
    bias = {"locally_connected2d": (6, 3, 4), "per_sample_conv2d": (2, 6), "dynamic_conv2d": (2, 6, 3, 4)}[varying]
    leaves = [torch.ones(s, requires_grad=True) for s in ((2, 0, 5, 6), (*lead, 6, 0, 3, 3), bias)]
    y = getattr(ours, varying)(*leaves)
    assert y.shape == (2, 0, 3, 4)
    for gradient, leaf in zip(torch.autograd.grad(y.sum(), leaves), leaves, strict=True):
        assert gradient.shape == leaf.shape
        assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernels_take_no_channels(dtype: torch.dtype, device: str) -> None:
    """No program is started for an empty result, forward or backward."""
    implementation = "triton" if dtype == torch.float32 else "auto"
    leaves = [torch.ones(s, dtype=dtype, device=device, requires_grad=True) for s in ((2, 0, 5, 6), (4, 0, 3, 3), (4,))]
    y = tritonconv.conv2d(*leaves, groups=2, implementation=implementation)
    gradients = torch.autograd.grad(y.sum(), leaves)
    assert y.shape == (2, 0, 3, 4)
    assert not any(g.any() for g in gradients)


REFUSED = {
    "no filters": ("conv2d", (2, 4, 5, 5), (0, 4, 3, 3), {}, "expected weight to be at least 1 at dimension 0"),
    "no features": ("conv_transpose2d", (2, 0, 5, 5), (0, 4, 3, 3), {}, "expected weight to be at least 1"),
    "no channels of the result": (
        "conv_transpose2d",
        (2, 4, 5, 5),
        (4, 0, 3, 3),
        {},
        "non-empty .*weight tensor expected",
    ),
    "no rows of taps": ("conv2d", (2, 4, 5, 5), (3, 4, 0, 3), {}, "kernel size should be greater than zero"),
    "no columns of taps": ("conv2d", (2, 4, 5, 5), (3, 4, 3, 0), dict(padding=1), "kernel size should be greater"),
    "transposed, no taps": (
        "conv_transpose2d",
        (2, 4, 5, 5),
        (4, 3, 0, 3),
        dict(dilation=2),
        "kernel size should be greater",
    ),
    "transposed, no pixels": (
        "conv_transpose2d",
        (2, 4, 1, 1),
        (4, 3, 2, 2),
        dict(padding=1),
        r"\(0 x 0\). Output size is too small",
    ),
    "transposed, no rows": (
        "conv_transpose2d",
        (2, 4, 1, 3),
        (4, 3, 2, 2),
        dict(padding=(1, 0)),
        r"\(0 x 4\). Output size is too small",
    ),
    "transposed, fewer than no rows": (
        "conv_transpose2d",
        (2, 4, 1, 3),
        (4, 3, 2, 2),
        dict(padding=(2, 0)),
        r"\(-2 x 4\). Output size is too small",
    ),
    "no pixels, padded": (
        "conv2d",
        (2, 4, 0, 5),
        (3, 4, 1, 1),
        dict(padding=1),
        "Only zero batch or zero channel inputs",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(ours: ModuleType, name: str) -> None:
    function, image, filters, arguments, message = REFUSED[name]
    for module in (nn.functional, ours):
        with pytest.raises(RuntimeError, match=message):
            getattr(module, function)(torch.ones(image).double(), torch.ones(filters).double(), **arguments)


@pytest.mark.parametrize(
    ("function", "image", "filters", "result"),
    [
        ("conv2d", (0, 4, 0, 2), (4, 4, 1, 1), (0, 4, 2, 4)),
        ("conv_transpose2d", (0, 4, 1, 1), (4, 4, 2, 2), (0, 4, 0, 0)),
    ],
)
def test_an_empty_batch_may_have_no_pixels(
    ours: ModuleType, function: str, image: tuple[int, ...], filters: tuple[int, ...], result: tuple[int, ...]
) -> None:
    for module in (nn.functional, ours):
        x, weight = torch.ones(image, requires_grad=True), torch.ones(filters, requires_grad=True)
        y = getattr(module, function)(x, weight, padding=1)
        assert y.shape == result
        gradients = torch.autograd.grad(y.sum(), (x, weight))
        assert [g.shape for g in gradients] == [x.shape, weight.shape]
        assert not gradients[1].any()
