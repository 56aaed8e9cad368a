"""`torch.nn.Conv2d` and `torch.nn.ConvTranspose2d` on the operators fprop, dgrad and wgrad.

Constructor, initialisation, attributes, `repr` and `state_dict` are torch's, by inheritance. `implementation` is a
class attribute, so that layers that were pickled, or turned from torch's into these, have it too.
"""

from torch import Tensor, nn

from reference.arguments import output_padding, padded
from tritonconv.functional import conv2d, conv_transpose2d


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
