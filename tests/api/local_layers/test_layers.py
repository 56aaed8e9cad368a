"""The locally connected layers as modules must behave as users of torch.nn expect, in tritonconv and its reference."""

import copy
import io
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tritonconv
from tests.support.local_layers import ARGUMENTS, BOTH, PACKAGES, SIZE, Module
from tests.support.oracle import assert_close

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("on_reference")]


def pair_of(package: Module, name: str, arguments: dict[str, Any], **more: Any) -> tuple[nn.Module, nn.Module]:
    """Return torch's layer, and the local layer `name` that has its weights at every location, both in float64.

    `more` goes to the conversion.
    """
    shared = name.replace("LocallyConnected", "Conv")
    layer = getattr(nn, shared)(4, 6, **arguments, dtype=torch.float64)
    convert = {"Conv2d": "from_conv2d", "ConvTranspose2d": "from_conv_transpose2d"}[shared]
    return layer, getattr(getattr(package, name), convert)(layer, SIZE, **more)


@PACKAGES
@BOTH
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=range(3))
@pytest.mark.parametrize("batch", [(2,), ()], ids=["batched", "unbatched"])
def test_expanded_weights_are_a_convolution(
    package: Module, name: str, arguments: dict[str, Any], batch: tuple[int, ...]
) -> None:
    """Outputs and gradients agree. The gradient of the shared weight is the sum over all locations."""
    theirs, ours = pair_of(package, name, arguments)
    images = [torch.randn(*batch, 4, *SIZE, dtype=torch.float64).requires_grad_() for _ in range(2)]
    images[1].data.copy_(images[0])
    results = [layer(image) for layer, image in zip((theirs, ours), images, strict=True)]
    assert_close(results[1], results[0], "float64")
    for result in results:
        result.square().sum().backward()
    assert_close(images[1].grad, images[0].grad, "float64")
    assert_close(ours.weight.grad.sum((0, 1)), theirs.weight.grad, "float64")
    if theirs.bias is not None:
        assert_close(ours.bias.grad.sum((1, 2)), theirs.bias.grad, "float64")


@PACKAGES
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", ["same", "valid", (2, 1)])
def test_padding(package: Module, mode: str, padding: Any) -> None:
    arguments = dict(kernel_size=(3, 4), padding=padding, padding_mode=mode)
    theirs, ours = pair_of(package, "LocallyConnected2d", arguments)
    image = torch.randn(2, 4, *SIZE, dtype=torch.float64)
    assert_close(ours(image), theirs(image), "float64")
    if mode != "zeros":
        assert f"padding_mode={mode}" in repr(ours)


@PACKAGES
@BOTH
def test_parameters(package: Module, name: str) -> None:
    """Shapes, the order in memory, and initial values, which each location draws as torch does."""
    layer = getattr(package, name)(8, 12, 3, (9, 10), stride=2, padding=1, groups=2, dtype=torch.float32)
    local, fan_in = ((5, 5), 4 * 9) if name == "LocallyConnected2d" else ((9, 10), 6 * 9)
    channels = (12, 4) if name == "LocallyConnected2d" else (8, 6)
    assert layer.weight.shape == (*local, *channels, 3, 3)
    assert layer.weight.permute(0, 1, 2, 4, 5, 3).is_contiguous()
    assert layer.bias.shape == (12, *((5, 5) if name == "LocallyConnected2d" else (17, 19)))
    bound = 1 / math.sqrt(fan_in)
    for values in (layer.weight, layer.bias):
        assert values.abs().max() <= bound
        assert values.abs().max() > 0.95 * bound
        assert abs(values.std() - bound / math.sqrt(3)) < 0.05 * bound
    assert len(torch.unique(layer.weight[..., 0, 0, 0, 0])) > 1


@PACKAGES
@BOTH
def test_bias(package: Module, name: str) -> None:
    local, shared, none = (getattr(package, name)(2, 3, 2, (3, 4), bias=bias) for bias in (True, "shared", False))
    assert (local.bias.ndim, shared.bias.shape, none.bias) == (3, (3,), None)
    assert [str(layer).split("stride=(1, 1)")[1] for layer in (local, shared, none)] == [
        ")",
        ", bias='shared')",
        ", bias=False)",
    ]
    assert "kernel_size=(2, 2), input_size=(3, 4), stride" in str(local)
    for layer in (local, shared, none):
        assert layer(torch.zeros(1, 2, 3, 4)).shape[1] == 3
    with pytest.raises(ValueError, match="bias must be True, False or 'shared', but got 'both'"):
        getattr(package, name)(2, 3, 2, (3, 4), bias="both")


@PACKAGES
@BOTH
def test_moved_and_stored(package: Module, name: str) -> None:
    """Values and the weight's order in memory survive copies, changes of dtype and state dicts."""
    layer = getattr(package, name)(4, 6, (2, 3), SIZE, padding=1)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = getattr(package, name)(4, 6, (2, 3), SIZE, padding=1)
    other.load_state_dict(torch.load(file))
    image = torch.randn(2, 4, *SIZE)
    for each in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.double().float()):
        assert torch.equal(each(image), layer(image))
        assert each.weight.stride() == layer.weight.stride()
        assert str(each) == str(layer)
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert getattr(package, name)(4, 6, 3, SIZE, device="meta").weight.device.type == "meta"


@PACKAGES
@BOTH
@pytest.mark.parametrize(
    ("input_size", "error", "message"),
    [
        (None, TypeError, "argument 'input_size' must be tuple of ints, not NoneType"),
        (8.0, TypeError, "argument 'input_size' must be tuple of ints, not float"),
        ("8", TypeError, "argument 'input_size' must be tuple of ints, not str"),
        (True, TypeError, "argument 'input_size' must be tuple of ints, not bool"),
        ((3, 8, 8), RuntimeError, "expected input_size to be a single integer value or a list of 2 values"),
        ((8, -1), RuntimeError, "non-positive input_size is not supported"),
        ((0, 6), RuntimeError, "non-positive input_size is not supported"),
    ],
)
def test_sizes_that_no_image_has(package: Module, name: str, input_size: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        getattr(package, name)(4, 6, 3, input_size)
    assert getattr(package, name)(4, 6, 3, 8).input_size == getattr(package, name)(4, 6, 3, [8]).input_size == (8, 8)


@PACKAGES
def test_what_is_refused(package: Module) -> None:
    layer = package.LocallyConnected2d(4, 6, 3, SIZE)
    transposed = package.LocallyConnectedTranspose2d(4, 6, 3, SIZE)
    for each, size in ((layer, "7 x 6"), (transposed, "7 x 6")):
        with pytest.raises(RuntimeError, match=rf"input_size=\(7, 6\).*to have {size} pixels, but got 6 x 7 pixels"):
            each(torch.zeros(2, 4, 6, 7))
        with pytest.raises(RuntimeError, match="to have 4 channels, but got 3 channels instead"):
            each(torch.zeros(2, 3, *SIZE))
        with pytest.raises(RuntimeError, match=r"Expected 3D \(unbatched\) or 4D \(batched\) input"):
            each(torch.zeros(2, 2, 4, *SIZE))
        with pytest.raises(RuntimeError, match=r"Input type .* type .* should be the same"):
            each(torch.zeros(2, 4, *SIZE, dtype=torch.float64))
    for name in ("LocallyConnected2d", "LocallyConnectedTranspose2d"):
        build = getattr(package, name)
        with pytest.raises(ValueError, match="groups must be a positive integer"):
            build(4, 6, 3, SIZE, groups=0)
        with pytest.raises(ValueError, match="in_channels must be divisible by groups"):
            build(4, 6, 3, SIZE, groups=3)
    with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
        package.LocallyConnected2d(4, 6, 8, SIZE)
    with pytest.raises(RuntimeError, match="Output size is too small"):
        package.LocallyConnectedTranspose2d(2, 4, 2, 1, padding=2)
    with pytest.raises(ValueError, match="Invalid padding string 'some'"):
        package.LocallyConnected2d(4, 6, 3, SIZE, padding="some")
    with pytest.raises(ValueError, match='Only "zeros" padding mode is supported for LocallyConnectedTranspose2d'):
        package.LocallyConnectedTranspose2d(4, 6, 3, SIZE, padding_mode="reflect")


X, WEIGHT = torch.zeros(2, 4, 5, 5), torch.zeros(3, 3, 6, 4, 3, 3)


@PACKAGES
@pytest.mark.parametrize(
    ("name", "operands", "message"),
    [
        (
            "locally_connected2d",
            (X, WEIGHT[0]),
            r"Expected weight of shape \(P, Q, F, C/groups, R, S\) for locally_conn",
        ),
        (
            "locally_connected2d",
            (X, WEIGHT[:2]),
            r"expected 2 x 3 positions, but the output for input\[.*\] has 3 x 3 positions",
        ),
        ("locally_connected2d", (X, WEIGHT, torch.zeros(3)), r"bias to be of size \[6\] or \[6, 3, 3\], but got"),
        ("locally_connected2d", (X, WEIGHT, torch.zeros(3, 3, 6)), r"but got bias of size \[3, 3, 6\] instead"),
        ("locally_connected2d", (X, WEIGHT[..., :0]), "kernel size should be greater than zero"),
        ("locally_connected2d", (X, WEIGHT[:, :, :0]), "to be at least 1 at dimension 2"),
        ("locally_connected2d", (X, WEIGHT.to("meta")), "on cpu.* and weight type .* on meta.* should be the same"),
        ("locally_connected_transpose2d", (X, WEIGHT), "to have 6 channels, but got 4 channels"),
        (
            "locally_connected_transpose2d",
            (X, WEIGHT[:, :, :4]),
            r"expected 3 x 3 positions, but input\[2, 4, 5, 5\] has 5 x 5",
        ),
        ("per_sample_conv2d", (X, WEIGHT[0]), "to have 3 samples, but got 2 samples instead"),
        ("per_sample_conv2d", (X, WEIGHT[0, :2], torch.zeros(3, 6)), r"bias to be of size \[6\] or \[2, 6\]"),
        ("dynamic_conv2d", (X, WEIGHT), r"Expected weight of shape \(B, P, Q, F, C/groups, R, S\) for dynamic_conv2d"),
        ("dynamic_conv2d", (X, WEIGHT[None]), "to have 1 samples, but got 2 samples"),
        ("dynamic_conv2d", (X, WEIGHT.half().expand(2, *WEIGHT.shape)), "Input type .* should be the same"),
    ],
)
def test_what_the_functions_refuse(package: Module, name: str, operands: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        getattr(package, name)(*operands)


@PACKAGES
def test_output_size(package: Module) -> None:
    """A size other than that of `output_padding` is allowed unless the bias depends on the size."""
    shared = package.LocallyConnectedTranspose2d(4, 6, 3, SIZE, stride=2, bias="shared")
    local = package.LocallyConnectedTranspose2d(4, 6, 3, SIZE, stride=2)
    image = torch.randn(2, 4, *SIZE)
    assert shared(image).shape == local(image).shape == (2, 6, 15, 13)
    assert shared(image, output_size=[16, 14]).shape == (2, 6, 16, 14)
    assert local(image, output_size=[2, 6, 15, 13]).shape == (2, 6, 15, 13)
    with pytest.raises(
        RuntimeError, match=r"bias to be of size \[6\] or \[6, 16, 14\], but got bias of size \[6, 15, 13"
    ):
        local(image, output_size=[16, 14])
    with pytest.raises(ValueError, match="requested an output size of"):
        shared(image, output_size=[17, 14])


@PACKAGES
@BOTH
def test_empty_batch(package: Module, name: str) -> None:
    layer = getattr(package, name)(4, 6, 3, SIZE)
    image = torch.zeros(0, 4, *SIZE, requires_grad=True)
    result = layer(image)
    result.sum().backward()
    assert result.shape[:2] == (0, 6)
    assert image.grad.shape == image.shape
    assert not layer.weight.grad.any()
    assert not layer.bias.grad.any()


@PACKAGES
@BOTH
def test_autocast(package: Module, name: str) -> None:
    layer = getattr(package, name)(4, 6, 3, SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        result = layer(torch.randn(2, 4, *SIZE))
    assert result.dtype == torch.bfloat16
    result.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32


@BOTH
@pytest.mark.parametrize("implementation", ["reference", "triton"])
def test_memory_formats(name: str, implementation: str, device: str) -> None:
    """Result and input gradient have the input's memory format. The weight gradient has the weight's strides."""
    layer = getattr(tritonconv, name)(2, 3, 2, (2, 3), device=device)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        image = torch.randn(2, 2, 2, 3, device=device).contiguous(memory_format=memory_format).requires_grad_()
        with tritonconv.using(implementation):
            result = layer(image)
            gradients = torch.autograd.grad(result.square().sum(), [image, layer.weight])
        assert result.is_contiguous(memory_format=memory_format)
        assert gradients[0].is_contiguous(memory_format=memory_format)
        assert gradients[1].stride() == layer.weight.stride()


@pytest.mark.parametrize(("strict", "dynamic_shapes"), [(False, None), (True, True)])
def test_compile_and_export(strict: bool, dynamic_shapes: bool | None) -> None:
    model = nn.Sequential(
        tritonconv.LocallyConnected2d(3, 4, 3, (8, 6), stride=2, padding=1),
        nn.ReLU(),
        tritonconv.LocallyConnectedTranspose2d(4, 2, 3, (4, 3), stride=2, output_padding=1),
    ).double()
    image = torch.randn(2, 3, 8, 6, dtype=torch.float64)
    dynamic = ({0: torch.export.Dim("batch", min=2)},)
    exported = torch.export.export(model, (image,), strict=strict, dynamic_shapes=dynamic).module()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=dynamic_shapes)
    other = torch.randn(5, 3, 8, 6, dtype=torch.float64)
    expected = model(other)
    gradients = torch.autograd.grad(expected.square().sum(), list(model.parameters()))
    for each in (exported, compiled):
        result = each(other)
        assert_close(result, expected, "float64")
        for a, e in zip(torch.autograd.grad(result.square().sum(), list(each.parameters())), gradients, strict=True):
            assert_close(a, e, "float64")
