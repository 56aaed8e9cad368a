"""`torch.nn.Conv2d` and `torch.nn.ConvTranspose2d` on the operators fprop, dgrad and wgrad, and their local forms.

Constructor, initialisation, attributes, `repr` and `state_dict` are torch's, by inheritance, and those of the locally
connected layers the reference's. `implementation` is a class attribute, so that layers that were pickled, or turned
from torch's into these, have it too.
"""

from torch import Tensor, nn

from tritonconv.functional import conv2d, conv_transpose2d, locally_connected2d, locally_connected_transpose2d
from tritonconv.reference import local_layers
from tritonconv.reference.torch_rules.arguments import output_padding, padded
from tritonconv.reference.torch_rules.checks import Ints


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` on the operators fprop, dgrad and wgrad.

    Set `layer.implementation` to "triton" or "reference" to choose for this layer; None leaves it to
    `tritonconv.using` and the dispatcher.
    """

    implementation: str | None = None

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        input, padding = padded(self, input)
        return conv2d(
            input, weight, bias, self.stride, padding, self.dilation, self.groups, implementation=self.implementation
        )


class ConvTranspose2d(nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` on the operators dgrad, fprop and wgrad.

    Set `layer.implementation` to "triton" or "reference" to choose for this layer; None leaves it to
    `tritonconv.using` and the dispatcher.
    """

    implementation: str | None = None

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """As `torch.nn.ConvTranspose2d`: `output_size`, of 2 or all entries in pixels, overrides `output_padding`."""
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
    """`torch.nn.LazyConv2d`, which becomes a `Conv2d` when the first input tells it the number of channels."""

    cls_to_become = Conv2d
    implementation: str | None = None
    _conv_forward = Conv2d._conv_forward


class LazyConvTranspose2d(nn.LazyConvTranspose2d):
    """`torch.nn.LazyConvTranspose2d`, which becomes a `ConvTranspose2d` with its first input."""

    cls_to_become = ConvTranspose2d
    implementation: str | None = None
    forward = ConvTranspose2d.forward


class LocallyConnected2d(local_layers.LocallyConnected2d):
    """`torch.nn.Conv2d` with filters of their own for every location, on the operators fprop, dgrad and wgrad.

    Its arguments are those of `torch.nn.Conv2d`, with `input_size` after `kernel_size`: that of the images in pixels, H
    and W or one number for both, before padding. Weight (P, Q, out_channels, in_channels/groups, R, S), where P x Q is
    the size of the output; bias (out_channels, P, Q), or (out_channels,) with `bias="shared"`, or None with
    `bias=False`. Raises RuntimeError for inputs of another size. `layer.implementation` chooses as in `Conv2d`.

    >>> import torch
    >>> layer = LocallyConnected2d(3, 8, kernel_size=3, input_size=(10, 12), padding=1)
    >>> layer.weight.shape
    torch.Size([10, 12, 8, 3, 3, 3])
    """

    implementation: str | None = None
    shared_class = Conv2d

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        self._check_size(input)
        input, padding = padded(self, input)
        sampling = (self.stride, padding, self.dilation, self.groups)
        return locally_connected2d(input, weight, bias, *sampling, implementation=self.implementation)


class LocallyConnectedTranspose2d(local_layers.LocallyConnectedTranspose2d):
    """`torch.nn.ConvTranspose2d` with a stamp of its own for every location, on the operators dgrad, fprop and wgrad.

    Its arguments are those of `torch.nn.ConvTranspose2d`, with `input_size` after `kernel_size`: that of its inputs in
    pixels, P and Q or one number for both. Weight (P, Q, in_channels, out_channels/groups, R, S); bias
    (out_channels, H, W), or (out_channels,) with `bias="shared"`, or None with `bias=False`. Raises RuntimeError for
    inputs of another size. `layer.implementation` chooses as in `ConvTranspose2d`.
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
    """A `LocallyConnected2d` that takes `in_channels` and `input_size` from its first input."""

    cls_to_become = LocallyConnected2d
    implementation: str | None = None
    shared_class = Conv2d
    _conv_forward = LocallyConnected2d._conv_forward


class LazyLocallyConnectedTranspose2d(local_layers.LazyLocallyConnectedTranspose2d):
    """A `LocallyConnectedTranspose2d` that takes `in_channels` and `input_size` from its first input."""

    cls_to_become = LocallyConnectedTranspose2d
    implementation: str | None = None
    shared_class = ConvTranspose2d
    _forward = LocallyConnectedTranspose2d._forward
