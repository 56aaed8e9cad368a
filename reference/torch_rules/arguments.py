"""Check and normalise the arguments of all convolution functions, in the reference and in the Triton implementation.

Ints, pairs and padding strings become pairs. An image without a batch gets one. Dtypes follow autocast. A call that
torch refuses is refused here, in torch's words.

`varies` names the letters that the weight has in front of F: "", "b" for samples, "p q" for positions, or "b p q" for
both. A bias may vary over the same letters.
"""

from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.functional import pad as torch_pad
from torch.nn.modules.conv import _ConvTransposeNd

from tritonconv.reference.torch_rules.checks import (
    Ints,
    Pair,
    check_bias,
    check_multiplied,
    check_not_empty,
    check_not_negative,
    check_output_size,
    check_positions,
    check_positive,
    check_ranks,
    check_same,
    check_samples,
    check_tensors,
    check_weight,
    integer,
    integers,
    pair,
)
from tritonconv.reference.torch_rules.formats import autocast, channels_last, laid_out

# The names of the functions for each `varies`, for error messages. The second name is that of the transposed function.
FUNCTIONS = {
    "": ("conv2d", "conv_transpose2d"),
    "b": ("per_sample_conv2d",),
    "p q": ("locally_connected2d", "locally_connected_transpose2d"),
    "b p q": ("dynamic_conv2d",),
}


class Checked(NamedTuple):
    """The arguments of a convolution after all checks, as the primitives take them.

    `input` has a batch axis. `size` is the size of the result in rows and columns. `pad` is the padding before the
    first row and column. `channels_last` says whether the result and the gradients are channels_last. Else they are
    contiguous.
    """

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    size: Pair
    stride: Pair
    pad: Pair
    dilation: Pair
    groups: int
    varies: str
    channels_last: bool

    @property
    def sampling(self) -> dict[str, Any]:
        """The keyword arguments of `fprop`, `dgrad` and `wgrad`."""
        return dict(stride=self.stride, pad=self.pad, dilation=self.dilation, groups=self.groups, varies=self.varies)

    def finished(self, result: Tensor, unbatched: bool) -> Tensor:
        """Return `result` as torch does: rounded to the dtype of the operands, and in the right memory format.

        `unbatched` drops the batch axis, for an input that had none.
        """
        result = laid_out(result.to(self.input.dtype), self.channels_last)
        return result[0] if unbatched else result


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints | str,
    dilation: Ints,
    groups: int,
    *,
    varies: str = "",
) -> Checked:
    """Check the arguments of `torch.nn.functional.conv2d` and return them normalised.

    Raise TypeError, RuntimeError or NotImplementedError if torch does. With `varies`, raise RuntimeError also if the
    samples or positions of the weight or bias do not fit.
    """
    function = FUNCTIONS[varies][0]
    check_tensors(function, input, weight, bias)
    groups = integer(f"{function}(): argument 'groups' must be int", groups)
    sizes = {"stride": stride, "dilation": dilation} | ({} if isinstance(padding, str) else {"padding": padding})
    numbers = {name: integers(function, name, size) for name, size in sizes.items()}
    check_ranks(function, input, weight, varies)
    filters, channels, *kernel = weight.shape[-4:]
    strides, dilations = pair("stride", numbers), pair("dilation", numbers)
    total: Pair
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise RuntimeError(f"Invalid padding string: '{padding}'")
        if padding == "same" and strides != (1, 1):
            raise RuntimeError("padding='same' is not supported for strided convolutions")
        spread = [dilations[i] * (kernel[i] - 1) for i in (0, 1)]
        total = (spread[0], spread[1]) if padding == "same" else (0, 0)
        pad = (total[0] // 2, total[1] // 2)
    else:
        pad = pair("padding", numbers)
        total = (2 * pad[0], 2 * pad[1])
    check_positive(groups=(groups,), stride=strides, dilation=dilations)
    check_not_negative(padding=total)
    x = input if input.ndim == 4 else input.unsqueeze(0)
    check_weight(weight, groups)
    if x.shape[1] != channels * groups:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {list(weight.shape)}, expected input{list(x.shape)} to have "
            f"{channels * groups} channels, but got {x.shape[1]} channels instead"
        )
    extent = (x.shape[2] + total[0], x.shape[3] + total[1])
    reach = tuple(dilations[i] * (kernel[i] - 1) + 1 for i in (0, 1))
    room = tuple(extent[i] - reach[i] for i in (0, 1))
    # torch checks the bias before the size of the image. A bias that varies needs the output size, so it comes later.
    if not varies:
        check_bias(bias, weight, (filters,), "")
    if min(room) < 0:
        raise RuntimeError(
            f"Calculated padded input size per channel: ({extent[0]} x {extent[1]}). Kernel size: "
            f"({reach[0]} x {reach[1]}). Kernel size can't be greater than actual input size"
        )
    check_not_empty(x)
    # The same as `room // stride + 1`, in a form with which torch.export can prove that named sizes fit together.
    size = (max((room[0] + strides[0]) // strides[0], 1), max((room[1] + strides[1]) // strides[1], 1))
    if varies:
        check_samples(x, weight, varies)
        check_positions(weight, varies, f"the output for input{list(x.shape)}", size)
        check_bias(bias, weight, (filters,), "", varies, (x.shape[0], *size))
    check_same("bias", input, bias)
    check_multiplied(function, input)
    check_same("weight", input, weight)
    if channels == 0:
        weight, bias = without_filters(weight, bias)
    return Checked(
        *autocast(x, weight, bias),
        size=size,
        stride=strides,
        pad=pad,
        dilation=dilations,
        groups=groups,
        varies=varies,
        channels_last=channels_last(x, weight, varies),
    )


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    output_padding: Ints,
    groups: int,
    dilation: Ints,
    *,
    varies: str = "",
) -> Checked:
    """Check the arguments of `torch.nn.functional.conv_transpose2d` and return them normalised.

    Raise TypeError, RuntimeError or NotImplementedError if torch does. With `varies`, raise RuntimeError also if the
    samples or positions of the weight or bias do not fit.
    """
    function = FUNCTIONS[varies][1]
    check_tensors(function, input, weight, bias)
    groups = integer(f"{function}(): argument 'groups' must be int", groups)
    sizes = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    numbers = {name: integers(function, name, size) for name, size in sizes.items()}
    check_ranks(function, input, weight, varies)
    filters, channels, *kernel = weight.shape[-4:]
    strides, pad, extra, dilations = (pair(name, numbers) for name in sizes)
    check_positive(groups=(groups,), stride=strides, dilation=dilations)
    check_not_negative(padding=pad, output_padding=extra)
    y = input if input.ndim == 4 else input.unsqueeze(0)
    check_weight(weight, groups)
    if y.shape[1] != filters:
        raise RuntimeError(
            f"Given transposed=1, weight of size {list(weight.shape)}, expected input{list(y.shape)} to have "
            f"{filters} channels, but got {y.shape[1]} channels instead"
        )
    if not varies:
        check_bias(bias, weight, (channels * groups,), "transposed=1, ")
    if any(extra[i] >= strides[i] and extra[i] >= dilations[i] for i in (0, 1)):
        raise RuntimeError(
            "output padding must be smaller than either stride or dilation, but got "
            f"output_padding_height: {extra[0]} output_padding_width: {extra[1]} stride_height: {strides[0]} "
            f"stride_width: {strides[1]} dilation_height: {dilations[0]} dilation_width: {dilations[1]}"
        )
    check_not_empty(y)
    size = tuple(
        (y.shape[2 + i] - 1) * strides[i] - 2 * pad[i] + dilations[i] * (kernel[i] - 1) + 1 + extra[i] for i in (0, 1)
    )
    if channels == 0:
        raise RuntimeError(f"non-empty weight tensor expected, but got: {list(weight.shape)}")
    check_output_size(y, size)
    if varies:
        check_samples(y, weight, varies)
        check_positions(weight, varies, f"input{list(y.shape)}", y.shape[2:])
        check_bias(bias, weight, (channels * groups,), "transposed=1, ", varies, (y.shape[0], *size))
    check_multiplied(function, input)
    check_same("weight", input, weight)
    check_same("bias", input, bias)
    return Checked(
        *autocast(y, weight, bias),
        size=(size[0], size[1]),
        stride=strides,
        pad=pad,
        dilation=dilations,
        groups=groups,
        varies=varies,
        channels_last=channels_last(y, weight, varies),
    )


def without_filters(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return the weight (..., F, C/groups, R, S) and the bias without their filters: F becomes 0.

    torch returns features without channels for an image without channels, whatever F is. Gradients are zeros.
    """
    axis_of_bias = 0 if bias is None or bias.ndim in (1, 3) else 1
    return weight.narrow(-4, 0, 0), None if bias is None else bias.narrow(axis_of_bias, 0, 0)


def padded(layer: Any, input: Tensor) -> tuple[Tensor, str | tuple[int, ...]]:
    """Return the input that the convolution of a Conv2d gets, and its padding argument.

    With the `padding_mode` "zeros", the input is passed through with the layer's padding. With another one, a padded
    copy is returned, and the padding argument is (0, 0).
    """
    if layer.padding_mode == "zeros":
        return input, layer.padding
    return torch_pad(input, layer._reversed_padding_repeated_twice, mode=layer.padding_mode), (0, 0)


def output_padding(layer: Any, input: Tensor, output_size: list[int] | None) -> tuple[int, ...]:
    """Return the output padding of a ConvTranspose2d with which the result has `output_size`.

    If `output_size` is None, return the layer's own output padding. Raise ValueError if no output padding gives
    `output_size`, or if the `padding_mode` is not "zeros".
    """
    if layer.padding_mode != "zeros":
        raise ValueError("Only `zeros` padding mode is supported for ConvTranspose2d")
    assert isinstance(layer.padding, tuple), "self.padding must be a tuple"
    own: Any = layer.output_padding
    inherited = type(layer)._output_padding is _ConvTransposeNd._output_padding and "_output_padding" not in vars(layer)
    if output_size is None and inherited and isinstance(own, tuple):
        return own  # as torch's method does after a few more calls
    sizes: Any = (layer.stride, layer.padding, layer.kernel_size, 2, layer.dilation)
    return tuple(layer._output_padding(input, output_size, *sizes))
