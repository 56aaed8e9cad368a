"""Conversions of weights from and to Keras 2 and Flax, and a comparison of the layers with JAX.

Most numbers are small integers, so that equal results are equal in every bit.
"""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.local_layers import INPUT_SIZE, PACKAGES, assert_same, filled, integers, kept
from tests.support.oracle import assert_close
from tritonconv import reference
from tritonconv.tools.tolerance import errors

pytestmark = pytest.mark.usefixtures("on_reference")
# Rows and columns always differ, so that a test notices if they are swapped.
SAMPLINGS = [
    dict(kernel_size=(2, 3)),
    dict(kernel_size=(3, 2), stride=(2, 1), padding=(1, 2)),
    dict(kernel_size=(2, 2), stride=(1, 2), padding=(0, 1), dilation=(2, 1)),
    dict(kernel_size=(1, 3), padding=(0, 1), dilation=(1, 2)),
]


def local(package: Any = reference, **arguments: Any) -> Any:
    """Return a LocallyConnected2d with random integers as its parameters. `arguments` go to its constructor."""
    return filled(package.LocallyConnected2d(**dict(in_channels=3, out_channels=4, input_size=INPUT_SIZE) | arguments))


# Keras 2


def keras_forward(
    images: np.ndarray, kernel: np.ndarray, bias: np.ndarray | None, taps: tuple[int, int], strides: tuple[int, int]
) -> np.ndarray:
    """Return what Keras' LocallyConnected2D computes with channels_last and padding="valid", in shape (B, P, Q, F).

    `images` have the shape (B, H, W, C), `kernel` (P*Q, R*S*C, F), `bias` (P, Q, F). Positions are visited row by row.
    Each patch (r, s, c) is flattened and multiplied with the position's matrix.
    """
    (R, S), (along_h, along_w) = taps, strides
    P, Q = (images.shape[1] - R) // along_h + 1, (images.shape[2] - S) // along_w + 1
    outputs = np.zeros((len(images), P, Q, kernel.shape[2]), images.dtype)
    for p, q in product(range(P), range(Q)):
        patches = images[:, p * along_h : p * along_h + R, q * along_w : q * along_w + S, :]
        outputs[:, p, q] = patches.reshape(len(images), -1) @ kernel[p * Q + q]
    return outputs if bias is None else outputs + bias


@PACKAGES
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("taps", "strides"), [((2, 3), (1, 1)), ((3, 2), (2, 1)), ((1, 2), (1, 3))])
def test_keras(package: Any, taps: tuple[int, int], strides: tuple[int, int], bias: bool) -> None:
    layer = local(package, kernel_size=taps, stride=strides, bias=bias)
    P, Q = layer.weight.shape[:2]
    weights = [integers(P * Q, taps[0] * taps[1] * 3, 4).numpy()]
    if bias:
        weights.append(integers(P, Q, 4).numpy())
    layer.load_keras(weights)
    images = integers(2, 3, *INPUT_SIZE)
    expected = keras_forward(
        images.permute(0, 2, 3, 1).numpy(), weights[0], weights[1] if bias else None, taps, strides
    )
    assert torch.equal(layer(images).permute(0, 2, 3, 1), torch.from_numpy(expected))
    assert all(map(np.array_equal, layer.to_keras(), weights))


# JAX and Flax


@pytest.fixture
def jax() -> Any:
    """Return the module jax, restricted to the CPU: on a GPU it would reserve most of the memory."""
    module = pytest.importorskip("jax")
    module.config.update("jax_platforms", "cpu")
    return module


def jax_forward(lax: Any, images: Any, kernel: Any, layer: Any) -> Any:
    """Return what Flax's ConvLocal computes before it adds a bias, by `conv_general_dilated_local` of JAX.

    `images` have the shape (B, H, W, C), `kernel` (P, Q, C*R*S, F), and the result (B, P, Q, F). Taps, stride, padding
    and dilation are those of `layer`.
    """
    return lax.conv_general_dilated_local(
        images,
        kernel,
        window_strides=layer.stride,
        padding=[(pad, pad) for pad in layer.padding],
        filter_shape=layer.kernel_size,
        rhs_dilation=layer.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_jax_computes_the_same(jax: Any, sampling: dict[str, Any]) -> None:
    """JAX, given the kernel of `to_flax`, computes the outputs and both gradients of the reference."""
    layer = local(**sampling, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.rand_like(layer.weight) - 0.5)
    images = torch.rand(2, 3, *INPUT_SIZE, dtype=torch.float64, requires_grad=True)
    outputs = layer(images)
    gradient = torch.rand_like(outputs)
    outputs.backward(gradient)

    parameters = layer.to_flax()
    with jax.enable_x64(True):
        operands = [jax.numpy.asarray(t.numpy()) for t in (images.detach().permute(0, 2, 3, 1), parameters["kernel"])]
        expected, pull_back = jax.vjp(lambda x, weight: jax_forward(jax.lax, x, weight, layer), *operands)
        expected = expected + parameters["bias"].numpy()
        of_images, of_kernel = pull_back(jax.numpy.asarray(gradient.permute(0, 2, 3, 1).numpy()))
        found = [torch.tensor(np.asarray(array)) for array in (expected, of_images, of_kernel)]
    assert all(tensor.dtype == torch.float64 for tensor in found)

    judge = local(**sampling, dtype=torch.float64, bias=False)
    judge.load_flax({"kernel": found[2]})  # a gradient has the layout of its weight
    for actual, wanted in [
        (outputs.permute(0, 2, 3, 1), found[0]),
        (images.grad.permute(0, 2, 3, 1), found[1]),
        (layer.weight.grad, judge.weight),
    ]:
        assert max(errors(actual.detach(), wanted.detach())) < 1e-13


@PACKAGES
@pytest.mark.parametrize(("sampling", "bias"), [*product(SAMPLINGS, [True]), (SAMPLINGS[0], False)], ids=str)
def test_flax(jax: Any, package: Any, sampling: dict[str, Any], bias: bool) -> None:
    """Compare with ConvLocal itself. Flax is not among the extras, so this runs only where it is installed."""
    linen = pytest.importorskip("flax.linen")
    layer = local(package, **sampling, bias=bias)
    arguments = dict(
        features=4,
        kernel_size=layer.kernel_size,
        strides=layer.stride,
        padding=[(pad, pad) for pad in layer.padding],
        kernel_dilation=layer.dilation,
        use_bias=bias,
        bias_init=linen.initializers.normal(),
    )
    images = torch.rand(2, 3, *INPUT_SIZE)
    module, pixels = linen.ConvLocal(**arguments), images.permute(0, 2, 3, 1).numpy()
    params = module.init(jax.random.key(0), pixels)["params"]
    layer.load_flax(params)
    expected = torch.tensor(np.asarray(module.apply({"params": params}, pixels)))
    assert_close(layer(images).detach().permute(0, 2, 3, 1), expected, "float32")
    for name, array in layer.to_flax().items():
        assert np.array_equal(array, params[name])


# Both


@pytest.mark.parametrize("bias", [True, False, "shared"])
@pytest.mark.parametrize("library", ["keras", "flax"])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_there_and_back(library: str, sampling: dict[str, Any], bias: bool | str) -> None:
    layer, other = local(**sampling, bias=bias), local(**sampling, bias=bias)
    strides = other.weight.stride()
    getattr(other, f"load_{library}")(getattr(layer, f"to_{library}")())
    assert_same(other.state_dict(), layer.state_dict())
    assert other.weight.stride() == strides
    assert other.weight.requires_grad
    assert other.weight.is_leaf


@pytest.mark.parametrize("library", ["keras", "flax"])
def test_what_is_given_is_a_copy(library: str) -> None:
    # With one channel and one filter the rearranged weight is a view of the layer's, so only `clone` makes a copy.
    layer = local(in_channels=1, out_channels=1, kernel_size=(2, 3))
    before, given = kept(layer), getattr(layer, f"to_{library}")()
    for tensor in given.values() if library == "flax" else given:
        assert not tensor.requires_grad
        tensor.add_(1)
    assert_same(before, layer.state_dict())


def test_arrays_that_can_not_be_written_to_and_of_another_precision() -> None:
    layer = local(kernel_size=2)
    arrays = [tensor.double().numpy() for tensor in layer.to_keras()]
    for array in arrays:
        array.flags.writeable = False
    other = local(kernel_size=2)
    other.load_keras(arrays)
    assert_same(other.state_dict(), layer.state_dict())
    assert other.weight.dtype == torch.float32


KERNEL, BIAS = (4 * 6, 2 * 2 * 3, 4), (4, 6, 4)


@pytest.mark.parametrize(
    ("arguments", "shapes", "message"),
    [
        (dict(), [KERNEL], "expected Keras weights of shapes"),
        (dict(), [KERNEL, BIAS, BIAS], "but got shapes"),
        (dict(), [KERNEL, (4,)], "but got shapes"),
        (dict(), [KERNEL, (6, 4, 4)], "but got shapes"),
        (dict(), [(4, 6, 2 * 2 * 3, 4), BIAS], "but got shapes"),
        (dict(), [(4 * 6, 4, 2 * 2 * 3), BIAS], "but got shapes"),
        (dict(bias=False), [KERNEL, BIAS], "but got shapes"),
        (
            dict(bias="shared"),
            [KERNEL, BIAS],
            "the Keras bias differs between locations, but .* has one bias for all locations",
        ),
        (dict(groups=2, in_channels=6), [KERNEL, BIAS], "layer of Keras has no groups, but got groups=2"),
    ],
)
def test_nothing_is_loaded_if_something_is_wrong(
    arguments: dict[str, Any], shapes: list[tuple[int, ...]], message: str
) -> None:
    layer = local(**dict(kernel_size=2) | arguments)
    before, weights = kept(layer), [torch.arange(float(np.prod(shape))).reshape(shape) for shape in shapes]
    with pytest.raises(ValueError, match=message):
        layer.load_keras(weights)
    assert_same(before, layer.state_dict())


def test_flax_says_what_is_wrong() -> None:
    layer = local(kernel_size=2)
    before, params = kept(layer), layer.to_flax()
    with pytest.raises(ValueError, match="expected Flax weights of shapes"):
        layer.load_flax({"kernel": params["kernel"]})
    with pytest.raises(ValueError, match="expected Flax weights of shapes"):
        layer.load_flax(dict(kernel=params["bias"], bias=params["kernel"]))
    with pytest.raises(ValueError, match="layer of Flax has no groups, but got groups=2"):
        local(kernel_size=2, in_channels=6, groups=2).to_flax()
    assert_same(before, layer.state_dict())
