"""The same convolutions with a weight that varies: unfold -> multiply-sum -> bias, and multiply -> fold -> bias.

Beside `reference/functional.py` only the pattern of the sum changes: the weight carries more letters.

| function | weight | bias, any of |
|---|---|---|
| `conv2d` | f c r s | f |
| `per_sample_conv2d` | b f c r s | f, b f |
| `locally_connected2d` | p q f c r s | f, f p q |
| `dynamic_conv2d` | b p q f c r s | f, b f, f p q, b f p q |
"""

from einops import rearrange
from torch import Tensor

from tritonconv.reference.functional import dgrad, fprop
from tritonconv.reference.torch_rules import arguments
from tritonconv.reference.torch_rules.checks import Ints
from tritonconv.reference.torch_rules.formats import laid_out

# A bias of so many dimensions, as it is added to features b f p q or to an image b c h w.
BIAS = {1: "c -> 1 c 1 1", 2: "b c -> b c 1 1", 3: "c h w -> 1 c h w", 4: "b c h w -> b c h w"}


def locally_connected2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """A convolution whose every position has filters of its own: unfold -> multiply-sum -> bias.

    input (B, C, H, W) or (C, H, W), weight (P, Q, F, C/groups, R, S), bias (F, P, Q) or (F,) -> (B, F, P, Q) or
    (F, P, Q). Sizes are in pixels. Any dtype that `torch.nn.functional.unfold` takes. Arguments and errors are those of
    `conv2d`; RuntimeError too for an input whose output has not as many positions as the weight.

        y[b,f,p,q] = sum over c,r,s of x[b,c,h,w] * weight[p,q,f,c,r,s]

    Of four positions with the same kernel 0,1,2,3, one has it doubled:

    >>> import torch
    >>> image = torch.arange(9.0).reshape(1, 1, 3, 3)
    >>> kernels = torch.arange(4.0).reshape(1, 1, 1, 1, 2, 2).repeat(2, 2, 1, 1, 1, 1)
    >>> kernels[1, 0] *= 2
    >>> locally_connected2d(image, kernels)
    tensor([[[[19., 25.],
              [74., 43.]]]])
    """
    checked = arguments.conv2d(input, weight, bias, stride, padding, dilation, groups, varies="p q")
    return features(checked, unbatched=input.ndim == 3)


def locally_connected_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """A transposed convolution whose every position has a stamp of its own: multiply -> fold -> bias.

    input (B, F, P, Q) or (F, P, Q), weight (P, Q, F, C/groups, R, S), bias (C, H, W) or (C,) -> (B, C, H, W) or
    (C, H, W). Sizes are in pixels. Any dtype that `torch.nn.functional.fold` takes. Arguments and errors are those of
    `conv_transpose2d`; RuntimeError too for an input that has not as many positions as the weight. It is the adjoint of
    `locally_connected2d`:

        x[b,c,h,w] = sum over f and all p,q,r,s that fall on h,w of weight[p,q,f,c,r,s] * y[b,f,p,q]
    """
    checked = arguments.conv_transpose2d(
        input,
        weight,
        bias,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        varies="p q",
    )
    x = dgrad(checked.input, checked.weight, checked.size, **checked.sampling)
    if checked.bias is not None:
        x = x + rearrange(checked.bias, BIAS[checked.bias.ndim])
    x = laid_out(x, checked.channels_last)
    return x if input.ndim == 4 else x[0]


def per_sample_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """A convolution of every sample with filters of its own, as a hypernetwork makes them.

    input (B, C, H, W), weight (B, F, C/groups, R, S), bias (B, F) or (F,) -> (B, F, P, Q); an input (C, H, W) is one
    sample. Arguments and errors are those of `conv2d`; RuntimeError too for another number of samples.

        y[b,f,p,q] = sum over c,r,s of x[b,c,h,w] * weight[b,f,c,r,s]
    """
    checked = arguments.conv2d(input, weight, bias, stride, padding, dilation, groups, varies="b")
    return features(checked, unbatched=input.ndim == 3)


def dynamic_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """A convolution with filters of their own for every sample and position, as a network makes them from the image.

    input (B, C, H, W), weight (B, P, Q, F, C/groups, R, S), bias (F,), (B, F), (F, P, Q) or (B, F, P, Q) ->
    (B, F, P, Q); an input (C, H, W) is one sample. Arguments and errors are those of `conv2d`; RuntimeError too for
    another number of samples or positions.

        y[b,f,p,q] = sum over c,r,s of x[b,c,h,w] * weight[b,p,q,f,c,r,s]
    """
    checked = arguments.conv2d(input, weight, bias, stride, padding, dilation, groups, varies="b p q")
    return features(checked, unbatched=input.ndim == 3)


def features(checked: arguments.Checked, unbatched: bool) -> Tensor:
    """What the functions above compute of checked arguments."""
    y = fprop(checked.input, checked.weight, checked.size, **checked.sampling)
    if checked.bias is not None:
        y = y + rearrange(checked.bias, BIAS[checked.bias.ndim])
    y = laid_out(y, checked.channels_last)
    return y[0] if unbatched else y
