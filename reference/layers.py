"""`torch.nn.Conv2d` and `torch.nn.ConvTranspose2d` on top of the reference functions.

Constructor, initialisation, attributes, `repr` and `state_dict` are torch's, by inheritance.
"""

from torch import Tensor, nn

from tritonconv.reference.functional import conv2d, conv_transpose2d
from tritonconv.reference.torch_rules.arguments import output_padding, padded


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d`, computed by `reference.conv2d`."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        input, padding = padded(self, input)
        return conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class ConvTranspose2d(nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d`, computed by `reference.conv_transpose2d`."""

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
        )


class LazyConv2d(nn.LazyConv2d):
    """`torch.nn.LazyConv2d`, which becomes a `Conv2d` when the first input tells it the number of channels."""

    cls_to_become = Conv2d
    _conv_forward = Conv2d._conv_forward


class LazyConvTranspose2d(nn.LazyConvTranspose2d):
    """`torch.nn.LazyConvTranspose2d`, which becomes a `ConvTranspose2d` with its first input."""

    cls_to_become = ConvTranspose2d
    forward = ConvTranspose2d.forward
