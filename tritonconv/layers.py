"""`Conv2d` and `ConvTranspose2d` with torch's interface, their locally connected forms, and the lazy forms of all four.

The first two inherit constructor, initialisation, attributes, `repr` and `state_dict` from torch.nn. The locally
connected layers inherit them from the reference. Each layer overrides only the method that computes.

`implementation` is a class attribute. So a layer that was unpickled, or whose class was changed from torch's to a class
of this module, has the attribute too.
"""

from typing import Any

from torch import Tensor, nn

from tritonconv.functional import conv2d, conv_transpose2d, locally_connected2d, locally_connected_transpose2d
from tritonconv.reference import local_layers
from tritonconv.reference.torch_rules.arguments import output_padding, padded
from tritonconv.reference.torch_rules.checks import Ints
from tritonconv.reference.torch_rules.overrides import computes_as_torch
from tritonconv.reference.torch_rules.parametrizations import Parametrizable


@computes_as_torch
class Conv2d(Parametrizable, nn.Conv2d):
    """`torch.nn.Conv2d`, computed by `tritonconv.conv2d`: a drop-in replacement.

    Constructor, initial weights, attributes, `state_dict` and errors are torch's. The formula is the one in the
    documentation of `torch.nn.Conv2d`. Inputs are (B, in_channels, H, W) or (in_channels, H, W), outputs
    (B, out_channels, P, Q) or (out_channels, P, Q). The weight is (out_channels, in_channels/groups, R, S) and the bias
    (out_channels,).

    The attribute `implementation` chooses for one layer: "triton", "reference" or "auto". None, the default, leaves the
    choice to `tritonconv.using` or the environment variable TRITONCONV_IMPLEMENTATION. With "triton" a call raises
    NotImplementedError, with the reason, if Triton can not run the call.

    >>> import torch, tritonconv
    >>> layer = tritonconv.Conv2d(3, 8, kernel_size=3, stride=2, padding=1)
    >>> layer(torch.zeros(4, 3, 10, 12)).shape
    torch.Size([4, 8, 5, 6])
    >>> layer.implementation = "reference"  # for debugging: plain PyTorch computes this layer from now on
    """

    implementation: str | None = None

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":  # `padded` asks again, but to call it takes longer than to ask
            input, padding = padded(self, input)
        return conv2d(
            input, weight, bias, self.stride, padding, self.dilation, self.groups, implementation=self.implementation
        )


@computes_as_torch
class ConvTranspose2d(Parametrizable, nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d`, computed by `tritonconv.conv_transpose2d`: a drop-in replacement.

    Constructor, initial weights, attributes, `state_dict` and errors are torch's. The formula is the one in the
    documentation of `torch.nn.ConvTranspose2d`. Inputs are (B, in_channels, P, Q) or (in_channels, P, Q), outputs
    (B, out_channels, H, W) or (out_channels, H, W). The weight is (in_channels, out_channels/groups, R, S) and the bias
    (out_channels,). The attribute `implementation` works as in `Conv2d`.

    >>> import torch, tritonconv
    >>> layer = tritonconv.ConvTranspose2d(8, 3, kernel_size=3, stride=2, padding=1, output_padding=1)
    >>> layer(torch.zeros(4, 8, 5, 6)).shape
    torch.Size([4, 3, 10, 12])
    """

    implementation: str | None = None

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the transposed convolution of `input`, as `torch.nn.ConvTranspose2d` does.

        Args:
            input: features of shape (B, in_channels, P, Q) or (in_channels, P, Q), in the dtype of the weight.
            output_size: the wanted size of the output in pixels: [H, W], or the whole shape. It replaces the layer's
                `output_padding`. With None, the layer's `output_padding` holds.

        Returns:
            Images of shape (B, out_channels, H, W) or (out_channels, H, W).

        Raises:
            ValueError: if no output padding gives `output_size`, or if it has a wrong number of elements.
            TypeError, RuntimeError, NotImplementedError: if `tritonconv.conv_transpose2d` raises them.
        """
        return conv_transpose2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            output_padding(self, input, output_size),
            self.groups,
            self.dilation,
            implementation=self.implementation,
        )


class LazyConv2d(nn.LazyConv2d):
    """`torch.nn.LazyConv2d`: a `Conv2d` that takes `in_channels` from its first input.

    The arguments are those of `torch.nn.LazyConv2d`. With the first input the layer becomes a `tritonconv.Conv2d`.

    >>> import torch, tritonconv
    >>> layer = tritonconv.LazyConv2d(8, kernel_size=3)
    >>> layer(torch.zeros(4, 3, 10, 12)).shape
    torch.Size([4, 8, 8, 10])
    >>> layer
    Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
    """

    cls_to_become = Conv2d
    implementation: str | None = None
    _conv_forward = Conv2d._conv_forward


class LazyConvTranspose2d(nn.LazyConvTranspose2d):
    """`torch.nn.LazyConvTranspose2d`: a `ConvTranspose2d` that takes `in_channels` from its first input.

    The arguments are those of `torch.nn.LazyConvTranspose2d`. With the first input the layer becomes a
    `tritonconv.ConvTranspose2d`.

    >>> import torch, tritonconv
    >>> layer = tritonconv.LazyConvTranspose2d(3, kernel_size=2, stride=2)
    >>> layer(torch.zeros(4, 8, 5, 6)).shape
    torch.Size([4, 3, 10, 12])
    >>> layer
    ConvTranspose2d(8, 3, kernel_size=(2, 2), stride=(2, 2))
    """

    cls_to_become = ConvTranspose2d
    implementation: str | None = None
    forward = ConvTranspose2d.forward


@computes_as_torch
class LocallyConnected2d(local_layers.LocallyConnected2d):
    """`Conv2d` with filters that differ from location to location, computed by `tritonconv.locally_connected2d`.

    The formula is in the documentation of `tritonconv.locally_connected2d`. The layer works for images of one size
    only.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode, device, dtype: those of
            `torch.nn.Conv2d`.
        input_size: the size of the input images before padding, in pixels: (H, W), or one int for both. It is the
            fourth argument, before `stride`.
        bias: True for a bias of shape (out_channels, P, Q), "shared" for one of shape (out_channels,), or False.

    The weight has the shape (P, Q, out_channels, in_channels/groups, R, S), where (P, Q) is the size of the output.
    Each location is initialised as torch initialises a convolution. Inputs are (B, in_channels, H, W) or
    (in_channels, H, W), outputs (B, out_channels, P, Q) or (out_channels, P, Q).

    The attribute `implementation` works as in `Conv2d`. `from_conv2d` and `to_conv2d` convert from and to a
    convolution, without this attribute. `load_keras`, `to_keras`, `load_flax` and `to_flax` exchange weights with Keras
    2 and Flax.

    Raises:
        RuntimeError: if an input does not have the size `input_size`.
        TypeError, ValueError, RuntimeError: if an argument is wrong, with torch's message if torch has that argument.

    >>> import torch, tritonconv
    >>> layer = tritonconv.LocallyConnected2d(3, 8, kernel_size=3, input_size=(4, 5), padding=1)
    >>> layer.weight.shape, layer.bias.shape
    (torch.Size([4, 5, 8, 3, 3, 3]), torch.Size([8, 4, 5]))
    >>> layer(torch.zeros(2, 3, 4, 5)).shape
    torch.Size([2, 8, 4, 5])
    """

    implementation: str | None = None
    shared_class = Conv2d

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        self._check_size(input)
        padding: Any = self.padding
        if self.padding_mode != "zeros":  # `padded` asks again, but to call it takes longer than to ask
            input, padding = padded(self, input)
        sampling = (self.stride, padding, self.dilation, self.groups)
        return locally_connected2d(input, weight, bias, *sampling, implementation=self.implementation)


@computes_as_torch
class LocallyConnectedTranspose2d(local_layers.LocallyConnectedTranspose2d):
    """`ConvTranspose2d` with filters that differ from location to location: the adjoint of `LocallyConnected2d`.

    `tritonconv.locally_connected_transpose2d` computes it, and its documentation has the formula. The layer works for
    inputs of one size only.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, dilation, padding_mode, device,
            dtype: those of `torch.nn.ConvTranspose2d`.
        input_size: the size of the inputs in pixels: (P, Q), or one int for both. It is the fourth argument, before
            `stride`.
        bias: True for a bias of shape (out_channels, H, W), "shared" for one of shape (out_channels,), or False.

    The weight has the shape (P, Q, in_channels, out_channels/groups, R, S). Inputs are (B, in_channels, P, Q) or
    (in_channels, P, Q), outputs (B, out_channels, H, W) or (out_channels, H, W).

    The attribute `implementation` works as in `Conv2d`. `from_conv_transpose2d` and `to_conv_transpose2d` convert from
    and to a transposed convolution, without this attribute.

    Raises:
        RuntimeError: if an input does not have the size `input_size`.
        TypeError, ValueError, RuntimeError: if an argument is wrong, with torch's message if torch has that argument.

    >>> import torch, tritonconv
    >>> layer = tritonconv.LocallyConnectedTranspose2d(8, 3, kernel_size=2, input_size=(2, 3), stride=2)
    >>> layer.weight.shape, layer.bias.shape
    (torch.Size([2, 3, 8, 3, 2, 2]), torch.Size([3, 4, 6]))
    >>> layer(torch.zeros(2, 8, 2, 3)).shape
    torch.Size([2, 3, 4, 6])
    """

    implementation: str | None = None
    shared_class = ConvTranspose2d

    def _forward(self, input: Tensor, extra: Ints) -> Tensor:
        return locally_connected_transpose2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            extra,
            self.groups,
            self.dilation,
            implementation=self.implementation,
        )


class LazyLocallyConnected2d(local_layers.LazyLocallyConnected2d):
    """A `LocallyConnected2d` that takes `in_channels` and `input_size` from its first input.

    The other arguments are those of `LocallyConnected2d`. With the first input the layer becomes a
    `tritonconv.LocallyConnected2d`.

    >>> import torch, tritonconv
    >>> layer = tritonconv.LazyLocallyConnected2d(8, kernel_size=3, padding=1)
    >>> layer(torch.zeros(2, 3, 4, 5)).shape
    torch.Size([2, 8, 4, 5])
    >>> layer.weight.shape
    torch.Size([4, 5, 8, 3, 3, 3])
    """

    cls_to_become = LocallyConnected2d
    implementation: str | None = None
    shared_class = Conv2d
    _conv_forward = LocallyConnected2d._conv_forward


class LazyLocallyConnectedTranspose2d(local_layers.LazyLocallyConnectedTranspose2d):
    """A `LocallyConnectedTranspose2d` that takes `in_channels` and `input_size` from its first input.

    The other arguments are those of `LocallyConnectedTranspose2d`. With the first input the layer becomes a
    `tritonconv.LocallyConnectedTranspose2d`.

    >>> import torch, tritonconv
    >>> layer = tritonconv.LazyLocallyConnectedTranspose2d(3, kernel_size=2, stride=2)
    >>> layer(torch.zeros(2, 8, 2, 3)).shape
    torch.Size([2, 3, 4, 6])
    >>> layer.weight.shape
    torch.Size([2, 3, 8, 3, 2, 2])
    """

    cls_to_become = LocallyConnectedTranspose2d
    implementation: str | None = None
    shared_class = ConvTranspose2d
    _forward = LocallyConnectedTranspose2d._forward
