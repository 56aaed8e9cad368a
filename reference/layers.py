"""`torch.nn.Conv2d`, `torch.nn.ConvTranspose2d` and their lazy forms, computed by the reference functions.

Each layer inherits its constructor, initialisation, attributes, `repr` and `state_dict` from torch's layer.
"""

from torch import Tensor, nn

from tritonconv.reference.functional import conv2d, conv_transpose2d
from tritonconv.reference.torch_rules.arguments import output_padding, padded
from tritonconv.reference.torch_rules.overrides import computes_as_torch
from tritonconv.reference.torch_rules.parametrizations import Parametrizable


@computes_as_torch
class Conv2d(Parametrizable, nn.Conv2d):
    """`torch.nn.Conv2d`, computed by `reference.conv2d`.

    Source of the formula: the documentation of `torch.nn.Conv2d`. The letters are those of `reference/functional.py`.

    Args:
        in_channels: C, the channels of the input.
        out_channels: F, the channels of the output.
        kernel_size: taps of a filter. An int, or (R, S).
        stride, padding, dilation, groups: as in `reference.conv2d`. The first three are in pixels.
        bias: whether the layer adds a bias of shape (F,).
        padding_mode: what is outside the image: "zeros", "reflect", "replicate" or "circular".
        device, dtype: where and in which dtype the parameters are made.

    The weight has the shape (F, C/groups, R, S). `layer(input)` takes images (B, C, H, W) or one image (C, H, W) in
    the dtype of the weight. It returns features (B, F, P, Q) or (F, P, Q). Constructor and call raise the errors of
    `torch.nn.Conv2d`.

    >>> import torch
    >>> layer = Conv2d(3, 8, kernel_size=3, stride=2, padding=1)
    >>> layer(torch.zeros(4, 3, 32, 32)).shape
    torch.Size([4, 8, 16, 16])
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        input, padding = padded(self, input)
        return conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


@computes_as_torch
class ConvTranspose2d(Parametrizable, nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d`, computed by `reference.conv_transpose2d`.

    Source of the formula: the documentation of `torch.nn.ConvTranspose2d`. The letters are those of
    `reference/functional.py`.

    Args:
        in_channels: F, the channels of the input.
        out_channels: C, the channels of the output.
        kernel_size: taps of a filter. An int, or (R, S).
        stride, padding, output_padding, groups, dilation: as in `reference.conv_transpose2d`. All but `groups` are in
            pixels.
        bias: whether the layer adds a bias of shape (C,).
        padding_mode: only "zeros".
        device, dtype: where and in which dtype the parameters are made.

    The weight has the shape (F, C/groups, R, S). The constructor raises the errors of `torch.nn.ConvTranspose2d`.

    >>> import torch
    >>> layer = ConvTranspose2d(8, 3, kernel_size=3, stride=2, padding=1)
    >>> features = torch.zeros(4, 8, 16, 16)
    >>> layer(features).shape
    torch.Size([4, 3, 31, 31])
    >>> layer(features, output_size=[32, 32]).shape
    torch.Size([4, 3, 32, 32])
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the transposed convolution of `input`, as `torch.nn.ConvTranspose2d` does.

        Args:
            input: features of shape (B, F, P, Q) or (F, P, Q), in the dtype of the weight.
            output_size: the wanted size of the result in pixels: [H, W], or the whole shape. It replaces the layer's
                `output_padding`. With None, the layer's `output_padding` holds.

        Returns:
            Images of shape (B, C, H, W) or (C, H, W).

        Raises:
            ValueError: no output padding gives `output_size`, or it has a wrong number of elements.
            TypeError, RuntimeError, NotImplementedError: as `reference.conv_transpose2d`.
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
        )


class LazyConv2d(nn.LazyConv2d):
    """A `Conv2d` without the argument `in_channels`: the first input tells it the number of channels.

    With its first input the layer creates its parameters and becomes a `Conv2d`. All other arguments, and the errors,
    are those of `torch.nn.LazyConv2d`.

    >>> import torch
    >>> layer = LazyConv2d(8, kernel_size=3)
    >>> layer(torch.zeros(4, 3, 32, 32)).shape
    torch.Size([4, 8, 30, 30])
    >>> layer
    Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
    """

    cls_to_become = Conv2d
    _conv_forward = Conv2d._conv_forward


class LazyConvTranspose2d(nn.LazyConvTranspose2d):
    """A `ConvTranspose2d` without the argument `in_channels`: the first input tells it the number of channels.

    With its first input the layer creates its parameters and becomes a `ConvTranspose2d`. All other arguments, and the
    errors, are those of `torch.nn.LazyConvTranspose2d`.

    >>> import torch
    >>> layer = LazyConvTranspose2d(3, kernel_size=2, stride=2)
    >>> layer(torch.zeros(4, 8, 16, 16)).shape
    torch.Size([4, 3, 32, 32])
    >>> layer
    ConvTranspose2d(8, 3, kernel_size=(2, 2), stride=(2, 2))
    """

    cls_to_become = ConvTranspose2d
    forward = ConvTranspose2d.forward
