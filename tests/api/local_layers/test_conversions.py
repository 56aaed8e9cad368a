"""Conversions of locally connected layers from and to convolutions.

The numbers are small integers, so that equal results are equal in every bit.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.local_layers import BOTH, INPUT_SIZE, PACKAGES, assert_same, filled, integers, kept
from tests.support.oracle import assert_close
from tritonconv import reference

pytestmark = pytest.mark.usefixtures("on_reference")
CONVOLUTIONS = [
    dict(),
    dict(bias=False),
    dict(stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
    dict(groups=2),
    dict(padding="same"),
    dict(padding="valid"),
    dict(padding=(1, 2), padding_mode="reflect"),
    dict(padding=(2, 1), padding_mode="circular", stride=2),
    dict(padding="same", padding_mode="replicate", dtype=torch.float64),
]
TRANSPOSED = [
    dict(),
    dict(bias=False),
    dict(stride=(2, 3), padding=(1, 0), output_padding=(1, 2)),
    dict(groups=2, dilation=(1, 2), dtype=torch.float64),
]


@PACKAGES
@pytest.mark.parametrize("bias", [True, "shared"])
@pytest.mark.parametrize("arguments", CONVOLUTIONS, ids=str)
def test_from_and_to_a_convolution(package: Any, bias: bool | str, arguments: dict[str, Any]) -> None:
    conv = filled(nn.Conv2d(4, 6, (3, 2), **arguments))
    layer = package.LocallyConnected2d.from_conv2d(conv, INPUT_SIZE, bias=bias)
    back = layer.to_conv2d()
    assert type(layer) is package.LocallyConnected2d
    assert type(back) is package.Conv2d
    check_conversion(conv, layer, back, integers(2, 4, *INPUT_SIZE, dtype=conv.weight.dtype), bias)


@PACKAGES
@pytest.mark.parametrize("bias", [True, "shared"])
@pytest.mark.parametrize("arguments", TRANSPOSED, ids=str)
def test_from_and_to_a_transposed_convolution(package: Any, bias: bool | str, arguments: dict[str, Any]) -> None:
    conv = filled(nn.ConvTranspose2d(4, 6, (3, 2), **arguments))
    layer = package.LocallyConnectedTranspose2d.from_conv_transpose2d(conv, INPUT_SIZE, bias=bias)
    back = layer.to_conv_transpose2d()
    assert type(layer) is package.LocallyConnectedTranspose2d
    assert type(back) is package.ConvTranspose2d
    check_conversion(conv, layer, back, integers(2, 4, *INPUT_SIZE, dtype=conv.weight.dtype), bias)


def check_conversion(conv: Any, layer: Any, back: Any, images: Tensor, bias: bool | str) -> None:
    """Assert that `layer` computes what `conv` computes, and that `back` has the repr and the state of `conv`.

    `layer` was converted from `conv` with the argument `bias`, and `back` from `layer`. The bias of `layer` must have
    one axis if it is shared, else three.
    """
    assert torch.equal(layer(images), conv(images))
    assert_same(back.state_dict(), conv.state_dict())
    assert repr(back) == repr(conv)
    assert back.weight.dtype == layer.weight.dtype == conv.weight.dtype
    if conv.bias is not None:
        assert layer.bias.ndim == (1 if bias == "shared" else 3)


FACTORIES = [
    (nn.Conv2d, "LocallyConnected2d", "conv2d"),
    (nn.ConvTranspose2d, "LocallyConnectedTranspose2d", "conv_transpose2d"),
]


@PACKAGES
@pytest.mark.parametrize(("torch_class", "name", "shared"), FACTORIES)
def test_a_conversion_keeps_what_is_frozen_and_draws_nothing(
    package: Any, torch_class: Any, name: str, shared: str
) -> None:
    conv = torch_class(2, 3, 2).eval()
    conv.weight.requires_grad_(False)
    before = torch.get_rng_state()
    layer = getattr(getattr(package, name), f"from_{shared}")(conv, INPUT_SIZE)
    back = getattr(layer, f"to_{shared}")()
    assert torch.equal(torch.get_rng_state(), before)
    for module in (layer, back):
        assert not module.training
        assert not module.weight.requires_grad
        assert module.bias.requires_grad
        assert module.weight.is_leaf
    assert layer.weight.stride() == getattr(package, name)(2, 3, 2, INPUT_SIZE).weight.stride()


@PACKAGES
@pytest.mark.parametrize(("torch_class", "name", "shared"), FACTORIES)
def test_a_conversion_copies(package: Any, torch_class: Any, name: str, shared: str) -> None:
    conv = filled(torch_class(2, 3, 2))
    layer = getattr(getattr(package, name), f"from_{shared}")(conv, INPUT_SIZE, bias="shared")
    back, states = getattr(layer, f"to_{shared}")(), [kept(conv), kept(layer)]
    with torch.no_grad():
        for parameter in back.parameters():
            parameter.add_(1)
    assert_same(states[0], kept(conv))
    assert_same(states[1], kept(layer))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(1)
    assert_same(states[0], kept(conv))


@pytest.mark.parametrize(("torch_class", "name", "shared"), FACTORIES)
@pytest.mark.parametrize("what", ["weight", "bias"])
def test_no_convolution_computes_what_differs_between_locations(
    torch_class: Any, name: str, shared: str, what: str
) -> None:
    layer = getattr(getattr(reference, name), f"from_{shared}")(torch_class(2, 3, 2), INPUT_SIZE)
    with torch.no_grad():
        getattr(layer, what)[-1, -1] += 1
    with pytest.raises(ValueError, match=r"at all locations, but those of LocallyConnected.* differ"):
        getattr(layer, f"to_{shared}")()


@PACKAGES
@pytest.mark.parametrize(("torch_class", "name", "shared"), FACTORIES)
def test_a_bias_is_not_dropped(package: Any, torch_class: Any, name: str, shared: str) -> None:
    with pytest.raises(ValueError, match=r"bias=False would drop the bias of Conv.*: use True or 'shared'"):
        getattr(getattr(package, name), f"from_{shared}")(torch_class(2, 3, 2), INPUT_SIZE, bias=False)


@PACKAGES
@pytest.mark.parametrize(("torch_class", "name", "shared"), FACTORIES)
def test_of_a_lazy_class_nothing_is_left_to_wait_for(package: Any, torch_class: Any, name: str, shared: str) -> None:
    layer = getattr(getattr(package, f"Lazy{name}"), f"from_{shared}")(torch_class(2, 3, 2), INPUT_SIZE)
    assert type(layer) is getattr(package, name)


@PACKAGES
@BOTH
def test_layers_that_compute_something_else_do_not_become_convolutions(package: Any, name: str) -> None:
    class Doubled(getattr(package, name)):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    back = "to_conv2d" if name == "LocallyConnected2d" else "to_conv_transpose2d"
    doubled, hooked = Doubled(4, 6, 3, INPUT_SIZE), getattr(package, name)(4, 6, 3, INPUT_SIZE)
    hooked.register_forward_hook(lambda module, inputs, output: 2 * output)
    for layer, reason in ((doubled, "`forward` is overridden"), (hooked, "has forward hooks")):
        with torch.no_grad():
            layer.weight.fill_(1)
            layer.bias.fill_(1)
        with pytest.raises(TypeError, match=f"computes what {name} does, but .*{reason}"):
            getattr(layer, back)()


@PACKAGES
def test_conversion_leaves_a_parametrized_layer_as_it_was(package: Any) -> None:
    """In training mode `spectral_norm` changes its buffers whenever the weight is read."""
    conv = nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 6, 3).double())
    before = kept(conv)
    layer = package.LocallyConnected2d.from_conv2d(conv, INPUT_SIZE)
    assert_same(kept(conv), before)
    assert all(module.training for module in conv.modules())
    image = torch.randn(2, 4, *INPUT_SIZE, dtype=torch.float64)
    assert_close(layer(image), conv.eval()(image), "float64")


@PACKAGES
def test_weights_of_keras_are_not_lost_in_a_parametrized_layer(package: Any) -> None:
    layer = package.LocallyConnected2d(4, 6, 3, INPUT_SIZE)
    weights = layer.to_keras()
    nn.utils.parametrizations.weight_norm(layer)
    with pytest.raises(ValueError, match="is parametrized: load the Keras weights before that"):
        layer.load_keras(weights)
