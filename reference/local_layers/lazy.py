"""Lazy forms of the locally connected layers, which create their parameters when the first input comes."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.conv import _LazyConvXdMixin

from tritonconv.reference.local_layers.layers import IN_MEMORY, LocallyConnected2d, LocallyConnectedTranspose2d
from tritonconv.reference.torch_rules.checks import Ints


class _Lazy(_LazyConvXdMixin):
    """The part of a lazy layer that takes `in_channels` and `input_size` from the first input."""

    def initialize_parameters(self: Any, input: Tensor, *args: Any, **kwargs: Any) -> None:
        """Create the parameters that the first input needs, or check those that `load_state_dict` has loaded.

        Set `in_channels` and `input_size`. A loaded weight is copied into the memory order IN_MEMORY. Later inputs
        change nothing.

        Raise ValueError if the channels can not be divided by `groups`. Raise RuntimeError if loaded parameters do not
        fit the input, or if the input is too small.
        """
        if self.input_size is not None:
            return
        in_channels, size = self._get_in_channels(input), tuple(input.shape[-2:])
        if in_channels % self.groups != 0:
            raise ValueError("in_channels must be divisible by groups")
        shape, bias_shape = self._shapes(in_channels, size)
        # load_state_dict may have made the parameters already, but with a weight that is not in IN_MEMORY order.
        loaded = not self.has_uninitialized_params()
        for name, wanted in (("weight", shape), ("bias", bias_shape)):
            parameter = getattr(self, name)
            if parameter is None:
                continue
            if not loaded:
                parameter.materialize(wanted)
            elif parameter.shape != wanted:
                raise RuntimeError(
                    f"Given input{list(input.shape)}, expected {name} of size {list(wanted)}, "
                    f"but the loaded {name} has size {list(parameter.shape)}"
                )
        self.in_channels, self.input_size = in_channels, size
        with torch.no_grad():
            self.weight.data = torch.empty_permuted(
                shape, IN_MEMORY, device=self.weight.device, dtype=self.weight.dtype
            ).copy_(self.weight)
        if not loaded:
            self.reset_parameters()

    def _get_num_spatial_dims(self) -> int:
        return 2


class LazyLocallyConnected2d(_Lazy, LocallyConnected2d):  # type: ignore[misc]
    """A `LocallyConnected2d` that takes `in_channels` and `input_size` from its first input.

    All other arguments are those of `LocallyConnected2d`. With its first input the layer creates its parameters and
    becomes a `LocallyConnected2d`. The first call raises what the constructor of that layer would, and RuntimeError if
    loaded parameters do not fit the input.

    >>> import torch
    >>> layer = LazyLocallyConnected2d(8, kernel_size=3, padding=1)
    >>> layer(torch.zeros(2, 3, 10, 12)).shape
    torch.Size([2, 8, 10, 12])
    >>> layer.in_channels, layer.input_size
    (3, (10, 12))
    """

    cls_to_become = LocallyConnected2d

    def __init__(
        self,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints | str = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool | str = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        sizes = (kernel_size, None, stride, padding, dilation)
        super().__init__(0, out_channels, *sizes, groups, bias, padding_mode, device, dtype)


class LazyLocallyConnectedTranspose2d(_Lazy, LocallyConnectedTranspose2d):  # type: ignore[misc]
    """A `LocallyConnectedTranspose2d` that takes `in_channels` and `input_size` from its first input.

    All other arguments are those of `LocallyConnectedTranspose2d`. With its first input the layer creates its
    parameters and becomes a `LocallyConnectedTranspose2d`. The first call raises what the constructor of that layer
    would, and RuntimeError if loaded parameters do not fit the input.

    >>> import torch
    >>> layer = LazyLocallyConnectedTranspose2d(3, kernel_size=3, stride=2, padding=1)
    >>> layer(torch.zeros(2, 8, 5, 6)).shape
    torch.Size([2, 3, 9, 11])
    >>> layer.in_channels, layer.input_size
    (8, (5, 6))
    """

    cls_to_become = LocallyConnectedTranspose2d

    def __init__(
        self,
        out_channels: int,
        kernel_size: Ints,
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
        sizes = (kernel_size, None, stride, padding, output_padding)
        super().__init__(0, out_channels, *sizes, groups, bias, dilation, padding_mode, device, dtype)
