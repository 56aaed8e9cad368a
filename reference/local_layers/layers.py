"""`LocallyConnected2d` and `LocallyConnectedTranspose2d`: torch has no such layers, so these are written as it would.

The weight has the shape (P, Q, F, C/groups, R, S) and lies in memory as (P, Q, F, R, S, C/groups), so that what one sum
runs over is contiguous.
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

# The dimensions of the weight, from the farthest apart in memory to the closest.
IN_MEMORY = (0, 1, 2, 4, 5, 3)


class _LocallyConnected(_ConvNd):
    """What the two layers share. Without an `input_size` the parameters wait for the first input."""

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
        """Those of weight and bias. Raises RuntimeError, as the function would, for an input too small."""
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
        """Each location's filters and bias as torch.nn initialises those of a convolution: uniform in
        +-1/sqrt(channels * taps), the channels of one group.
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
        if input.ndim in (3, 4) and tuple(input.shape[-2:]) != self.input_size:
            assert self.input_size is not None
            (H, W), (h, w) = self.input_size, input.shape[-2:]
            raise RuntimeError(
                f"Given input_size={self.input_size}, expected input{list(input.shape)} to have {H} x {W} pixels, "
                f"but got {h} x {w} pixels instead"
            )


def size_of_input(layer: str, input_size: Ints) -> Pair:
    """`input_size` as a pair; TypeError or RuntimeError, in torch's words, if it is none, of positive ints."""
    sizes = pair("input_size", {"input_size": integers(layer, "input_size", input_size)})
    check_positive(input_size=sizes)
    return sizes


class LocallyConnected2d(OfConv2d, _LocallyConnected):
    """`torch.nn.Conv2d` with filters of their own for every location, and hence for images of one size.

    in_channels, out_channels, kernel_size, stride, padding, dilation, groups and padding_mode are those of
    `torch.nn.Conv2d`; `input_size` is that of the images in pixels, H and W or one number for both, before padding.
    Weight (P, Q, out_channels, in_channels/groups, R, S), where P x Q is the size of the output; bias
    (out_channels, P, Q), or (out_channels,) with `bias="shared"`, or None with `bias=False`. Raises RuntimeError for
    inputs of another size.

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
        """input (B, C, H, W) or (C, H, W) -> (B, F, P, Q) or (F, P, Q)."""
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        self._check_size(input)
        input, padding = padded(self, input)
        return locally_connected2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class LocallyConnectedTranspose2d(OfConvTranspose2d, _LocallyConnected):
    """`torch.nn.ConvTranspose2d` with a stamp of its own for every location, and hence for images of one size.

    in_channels, out_channels, kernel_size, stride, padding, output_padding, groups and dilation are those of
    `torch.nn.ConvTranspose2d`; `input_size` is that of its inputs in pixels, P and Q or one number for both. Weight
    (P, Q, in_channels, out_channels/groups, R, S); bias (out_channels, H, W), where H x W is the size of the output, or
    (out_channels,) with `bias="shared"`, or None with `bias=False`. Raises RuntimeError for inputs of another size.
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
        """input (B, F, P, Q) or (F, P, Q) -> (B, C, H, W) or (C, H, W).

        `output_size`, of 2 or all entries in pixels, overrides `output_padding`: another than that needs a shared bias,
        or none.
        """
        self._check_size(input)
        return self._forward(input, output_padding(self, input, output_size))

    def _forward(self, input: Tensor, extra: Ints) -> Tensor:
        sampling = (self.stride, self.padding, extra, self.groups, self.dilation)
        return locally_connected_transpose2d(input, self.weight, self.bias, *sampling)  # type: ignore[arg-type]
