"""`LocallyConnected2d` and `LocallyConnectedTranspose2d`, in the style of torch.nn, which lacks such layers.

The weight has the shape (P, Q, F, C/groups, R, S), but lies in memory in the order (P, Q, F, R, S, C/groups). So one
sum of `LocallyConnected2d` runs over contiguous numbers.
"""

from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.utils import _pair

from tritonconv.reference.local import locally_connected2d, locally_connected_transpose2d
from tritonconv.reference.local_layers.conversions import OfConv2d, OfConvTranspose2d
from tritonconv.reference.torch_rules import arguments
from tritonconv.reference.torch_rules.arguments import output_padding, padded
from tritonconv.reference.torch_rules.checks import Ints, Pair, check_positive, integers, pair
from tritonconv.reference.torch_rules.overrides import computes_as_torch
from tritonconv.reference.torch_rules.parametrizations import Parametrizable

# The dimensions of the weight in memory order, from the largest stride to the smallest: channels come last.
IN_MEMORY = (0, 1, 2, 4, 5, 3)


class _LocallyConnected(Parametrizable, _ConvNd):
    """The base class of both layers. In a lazy layer, `input_size` is None until the first input comes."""

    input_size: Pair | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        input_size: Ints | None,
        stride: Ints,
        padding: Ints | str,
        dilation: Ints,
        transposed: bool,
        output_padding: Ints,
        groups: int,
        bias: bool | str,
        padding_mode: Any,
        device: Any,
        dtype: Any,
    ) -> None:
        if isinstance(bias, str) and bias != "shared":
            raise ValueError(f"bias must be True, False or 'shared', but got {bias!r}")
        if input_size is None and not isinstance(self, LazyModuleMixin):
            raise TypeError(f"{type(self).__name__}(): argument 'input_size' must be tuple of ints, not NoneType")
        pads = padding if isinstance(padding, str) else _pair(padding)
        sizes = (_pair(kernel_size), _pair(stride), pads, _pair(dilation), transposed, _pair(output_padding))
        super().__init__(in_channels, out_channels, *sizes, groups, False, padding_mode, device="meta")
        self.input_size = None if input_size is None else size_of_input(type(self).__name__, input_size)
        self._bias = bias
        at: dict[str, Any] = dict(device=device, dtype=dtype)
        if self.input_size is None:
            self.weight = nn.UninitializedParameter(**at)
            self.bias = nn.UninitializedParameter(**at) if bias else None
            return
        shape, bias_shape = self._shapes(in_channels, self.input_size)
        self.weight = nn.Parameter(torch.empty_permuted(shape, IN_MEMORY, **at))
        self.bias = nn.Parameter(torch.empty(bias_shape, **at)) if bias else None
        self.reset_parameters()

    def _shapes(self, in_channels: int, input_size: Pair) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of weight and bias for inputs of `input_size`. A layer without a bias ignores the second.

        Raise RuntimeError, as the function that computes the layer does, if the input is too small.
        """
        channels = (in_channels, self.out_channels // self.groups)
        if not self.transposed:
            channels = (self.out_channels, in_channels // self.groups)
        input = torch.empty(1, in_channels, *input_size, device="meta")
        shared = torch.empty(*channels, *self.kernel_size, device="meta")
        if self.transposed:
            size = arguments.conv_transpose2d(
                input, shared, None, self.stride, _pair(self.padding), self.output_padding, self.groups, self.dilation
            ).size
        else:
            size = arguments.conv2d(input, shared, None, self.stride, self.padding, self.dilation, self.groups).size
        positions = input_size if self.transposed else size
        return (*positions, *shared.shape), (self.out_channels, *(() if self._bias == "shared" else size))

    def reset_parameters(self) -> None:
        """Initialise each location's filters and bias as torch.nn initialises a convolution.

        Values are uniform between -b and b, where b = 1/sqrt(C/groups * R * S) and C/groups is the fourth extent of the
        weight. A weight of no elements per filter gives b = 0.
        """
        fan_in = prod(self.weight.shape[-3:])
        bound = 1 / sqrt(fan_in) if fan_in > 0 else 0
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        said: str = super().extra_repr().replace(", stride=", f", input_size={self.input_size}, stride=", 1)
        return said + ", bias='shared'" if self._bias == "shared" and self.bias is not None else said

    def _check_size(self, input: Tensor) -> None:
        """Raise RuntimeError if the rows and columns of `input` are not those of `input_size`.

        An input that has not 3 or 4 dimensions passes. The function that computes the layer refuses it.
        """
        if input.ndim in (3, 4) and tuple(input.shape[-2:]) != self.input_size:
            assert self.input_size is not None
            (H, W), (h, w) = self.input_size, input.shape[-2:]
            raise RuntimeError(
                f"Given input_size={self.input_size}, expected input{list(input.shape)} to have {H} x {W} pixels, "
                f"but got {h} x {w} pixels instead"
            )


def size_of_input(layer: str, input_size: Ints) -> Pair:
    """Return `input_size` as (rows, columns). One int counts for both.

    Raise TypeError if it is not made of ints, and RuntimeError unless it is one or two positive ints. `layer` is the
    class that the error message names.
    """
    sizes = pair("input_size", {"input_size": integers(layer, "input_size", input_size)})
    check_positive(input_size=sizes)
    return sizes


@computes_as_torch
class LocallyConnected2d(OfConv2d, _LocallyConnected):
    """`torch.nn.Conv2d` with different filters at each location of the output, for images of one size.

        y[b,f,p,q] = bias[f,p,q] + sum over c,r,s of x[b,c,h,w] * weight[p,q,f,c,r,s]

    (h, w) is the pixel that position (p, q) sees through tap (r, s), as in `reference.conv2d`. Source: the formula of
    `torch.nn.Conv2d` with p,q added to the weight. `reference.locally_connected2d` computes it.

    Args:
        in_channels: C, the channels of the input.
        out_channels: F, the channels of the output.
        kernel_size: taps of a filter. An int, or (R, S).
        input_size: the size of the images in pixels, before padding. (H, W), or one int for both.
        stride, padding, dilation, groups, padding_mode: as in `torch.nn.Conv2d`. The first three are in pixels.
        bias: True for one number per filter and location, shape (F, P, Q). "shared" for one per filter, shape (F,).
            False for none.
        device, dtype: where and in which dtype the parameters are made.

    The weight has the shape (P, Q, F, C/groups, R, S), where P x Q is the size of the output. `layer(input)` takes
    images (B, C, H, W) or one image (C, H, W) in the dtype of the weight. The result is (B, F, P, Q) or (F, P, Q).

    Raises:
        TypeError: `input_size` is neither an int nor a list or tuple of ints.
        ValueError: an argument has a value that `torch.nn.Conv2d` refuses, or `bias` is another string than "shared".
        RuntimeError: `input_size` is not positive, or the filters do not fit into it. When the layer is called: the
            input has another size.

    >>> import torch
    >>> layer = LocallyConnected2d(3, 8, kernel_size=3, input_size=(10, 12), padding=1)
    >>> layer.weight.shape, layer.bias.shape
    (torch.Size([10, 12, 8, 3, 3, 3]), torch.Size([8, 10, 12]))
    >>> layer(torch.zeros(2, 3, 10, 12)).shape
    torch.Size([2, 8, 10, 12])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        input_size: Ints,
        stride: Ints = 1,
        padding: Ints | str = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool | str = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        sampling = (stride, padding, dilation, False, 0, groups)
        super().__init__(
            in_channels, out_channels, kernel_size, input_size, *sampling, bias, padding_mode, device, dtype
        )

    def forward(self, input: Tensor) -> Tensor:
        """Return features (B, F, P, Q) of images (B, C, H, W), or (F, P, Q) of one image (C, H, W)."""
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        self._check_size(input)
        input, padding = padded(self, input)
        return locally_connected2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


@computes_as_torch
class LocallyConnectedTranspose2d(OfConvTranspose2d, _LocallyConnected):
    """`torch.nn.ConvTranspose2d` with different filters at each location of the input, for inputs of one size.

        x[b,c,h,w] = bias[c,h,w] + sum over f and all p,q,r,s that fall on h,w of weight[p,q,f,c,r,s] * y[b,f,p,q]

    Position (p, q) falls on pixel (h, w) through tap (r, s) as in `reference.conv_transpose2d`. Source: the formula of
    `torch.nn.ConvTranspose2d` with p,q added to the weight. The function `reference.locally_connected_transpose2d`
    computes it.

    Args:
        in_channels: F, the channels of the input.
        out_channels: C, the channels of the output.
        kernel_size: taps of a filter. An int, or (R, S).
        input_size: the size of the inputs in pixels. (P, Q), or one int for both.
        stride, padding, output_padding, groups, dilation: as in `torch.nn.ConvTranspose2d`. All but `groups` are in
            pixels.
        bias: True for one number per channel and pixel of the output, shape (C, H, W). "shared" for one per channel,
            shape (C,). False for none.
        padding_mode: only "zeros".
        device, dtype: where and in which dtype the parameters are made.

    The weight has the shape (P, Q, F, C/groups, R, S). `layer(input)` takes features (B, F, P, Q) or (F, P, Q) in the
    dtype of the weight. The result is (B, C, H, W) or (C, H, W).

    Raises:
        TypeError: `input_size` is neither an int nor a list or tuple of ints.
        ValueError: an argument has a value that `torch.nn.ConvTranspose2d` refuses, or `bias` is another string than
            "shared".
        RuntimeError: `input_size` is not positive, or the output would be too small. When the layer is called: the
            input has another size.

    >>> import torch
    >>> layer = LocallyConnectedTranspose2d(8, 3, kernel_size=3, input_size=(5, 6), stride=2, padding=1)
    >>> layer.weight.shape, layer.bias.shape
    (torch.Size([5, 6, 8, 3, 3, 3]), torch.Size([3, 9, 11]))
    >>> layer(torch.zeros(2, 8, 5, 6)).shape
    torch.Size([2, 3, 9, 11])
    """

    _output_padding = nn.ConvTranspose2d._output_padding

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        input_size: Ints,
        stride: Ints = 1,
        padding: Ints = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        bias: bool | str = True,
        dilation: Ints = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(f'Only "zeros" padding mode is supported for {type(self).__name__}')
        sampling = (stride, padding, dilation, True, output_padding, groups)
        super().__init__(
            in_channels, out_channels, kernel_size, input_size, *sampling, bias, padding_mode, device, dtype
        )

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return images (B, C, H, W) of features (B, F, P, Q), or (C, H, W) of features (F, P, Q).

        Args:
            input: the features, in the dtype of the weight.
            output_size: the wanted size of the result in pixels: [H, W], or the whole shape. It replaces the layer's
                `output_padding`. With None, the layer's `output_padding` holds.

        Raises:
            ValueError: no output padding gives `output_size`, or it has a wrong number of elements.
            RuntimeError: the layer has `bias=True`, and its bias (C, H, W) is not of the wanted size.
            TypeError, RuntimeError, NotImplementedError: as `reference.locally_connected_transpose2d`.
        """
        self._check_size(input)
        return self._forward(input, output_padding(self, input, output_size))

    def _forward(self, input: Tensor, extra: Ints) -> Tensor:
        sampling = (self.stride, self.padding, extra, self.groups, self.dilation)
        return locally_connected_transpose2d(input, self.weight, self.bias, *sampling)  # type: ignore[arg-type]
