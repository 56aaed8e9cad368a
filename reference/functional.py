"""Convolution in unfold, multiply-sum and fold.

Everything here follows from one sum of products over three factors, an image x, a weight and features y:

    sum over b,f,c,p,q,r,s of  x[b,c,h,w] * weight[f,c,r,s] * y[b,f,p,q]
        with  h = p*stride_h + r*dilation_h - pad_h     w = q*stride_w + s*dilation_w - pad_w

Leave y out and the sum is `fprop`, the image seen through the filters. Leave x out and it is `dgrad`, the features
spread back over the image. Leave the weight out and it is `wgrad`, the image correlated with the features. `conv2d` is
fprop plus a bias, `conv_transpose2d` is dgrad plus a bias, and each one's gradients are the other two.

The letters: batch b; channels c of an image of h by w pixels; f filters, hence f feature maps of p by q positions;
filter taps r by s; groups g. In the three primitives `size` is always that of the result, and a `Pair` holds a number
for the rows and one for the columns. What the positions reach beyond the image is zero, so only the leading `pad` is an
argument: the trailing one follows from the sizes.

A weight may vary: the letters it then carries in front, `varies`, are "b" for one of each sample, "p q" for one of each
position, or "b p q" for both. Nothing else in the sum changes, and `wgrad` sums over what the weight does not carry.
The functions with such weights are in `reference/local.py`.
"""

from einops import einsum, rearrange
from torch import Tensor
from torch.nn.functional import fold as torch_fold
from torch.nn.functional import pad as torch_pad
from torch.nn.functional import unfold as torch_unfold

from tritonconv.reference.torch_rules import arguments
from tritonconv.reference.torch_rules.checks import Ints, Pair
from tritonconv.reference.torch_rules.formats import laid_out, rounded_once


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """Slide the filters over the image: unfold -> multiply-sum (both in `fprop`) -> bias.

    input (B, C, H, W) or (C, H, W), weight (F, C/groups, R, S), bias (F,) -> (B, F, P, Q) or (F, P, Q). Sizes are in
    pixels. Any dtype that `torch.nn.functional.unfold` takes. Arguments and errors are those of
    `torch.nn.functional.conv2d`; the formula is the one in the documentation of `torch.nn.Conv2d`.

    The block 3,4,6,7 of the image under the kernel 0,1,2,3 gives 0*3 + 1*4 + 2*6 + 3*7 = 37:

    >>> import torch
    >>> image = torch.arange(9.0).reshape(1, 1, 3, 3)
    >>> kernel = torch.arange(4.0).reshape(1, 1, 2, 2)
    >>> conv2d(image, kernel)
    tensor([[[[19., 25.],
              [37., 43.]]]])
    """
    checked = arguments.conv2d(input, weight, bias, stride, padding, dilation, groups)
    y = fprop(checked.input, checked.weight, checked.size, **checked.sampling)
    if checked.bias is not None:
        y = y + rearrange(checked.bias, "f -> f 1 1")
    y = laid_out(y, checked.channels_last)
    return y if input.ndim == 4 else y[0]


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """Stamp the filters onto the image, scaled by the features: multiply -> fold (both in `dgrad`) -> bias.

    input (B, F, P, Q) or (F, P, Q), weight (F, C/groups, R, S), bias (C,) -> (B, C, H, W) or (C, H, W). Sizes are in
    pixels. Any dtype that `torch.nn.functional.fold` takes. Arguments and errors are those of
    `torch.nn.functional.conv_transpose2d`; the formula is the adjoint of `conv2d`'s.

    Four stamps of the kernel 0,1,2,3 overlap in the centre: 0*3 + 1*2 + 2*1 + 3*0 = 0 + 2 + 2 + 0 = 4:

    >>> import torch
    >>> features = torch.arange(4.0).reshape(1, 1, 2, 2)
    >>> kernel = torch.arange(4.0).reshape(1, 1, 2, 2)
    >>> conv_transpose2d(features, kernel)
    tensor([[[[ 0.,  0.,  1.],
              [ 0.,  4.,  6.],
              [ 4., 12.,  9.]]]])
    """
    checked = arguments.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
    x = dgrad(checked.input, checked.weight, checked.size, **checked.sampling)
    if checked.bias is not None:
        x = x + rearrange(checked.bias, "c -> c 1 1")
    x = laid_out(x, checked.channels_last)
    return x if input.ndim == 4 else x[0]


@rounded_once
def fprop(
    x: Tensor, weight: Tensor, size: Pair, *, stride: Pair, pad: Pair, dilation: Pair, groups: int, varies: str = ""
) -> Tensor:
    """y[b,f,p,q] = sum over c,r,s of x[b,c,h,w] * weight[f,c,r,s].

    x (B, C, H, W), weight (F, C/groups, R, S) with the letters of `varies` in front -> (B, F, *size).
    """
    filters = rearrange(weight, f"{varies} (g f) c r s -> {varies} g f c r s", g=groups)
    R, S = weight.shape[-2:]
    patches = unfold(x, (R, S), size, stride=stride, pad=pad, dilation=dilation, groups=groups)
    y = einsum(patches, filters, f"b g c r s p q, {varies} g f c r s -> b g f p q")
    return rearrange(y, "b g f p q -> b (g f) p q")


@rounded_once
def dgrad(
    y: Tensor, weight: Tensor, size: Pair, *, stride: Pair, pad: Pair, dilation: Pair, groups: int, varies: str = ""
) -> Tensor:
    """x[b,c,h,w] = sum over f and all p,q,r,s that fall on h,w of weight[f,c,r,s] * y[b,f,p,q].

    y (B, F, P, Q), weight (F, C/groups, R, S) with the letters of `varies` in front -> (B, C, *size).
    """
    filters = rearrange(weight, f"{varies} (g f) c r s -> {varies} g f c r s", g=groups)
    features = rearrange(y, "b (g f) p q -> b g f p q", g=groups)
    patches = einsum(features, filters, f"b g f p q, {varies} g f c r s -> b g c r s p q")
    return fold(patches, size, stride=stride, pad=pad, dilation=dilation)


@rounded_once
def wgrad(
    x: Tensor, y: Tensor, size: Pair, *, stride: Pair, pad: Pair, dilation: Pair, groups: int, varies: str = ""
) -> Tensor:
    """weight[f,c,r,s] = sum over b,p,q, but for those of `varies`, of x[b,c,h,w] * y[b,f,p,q].

    x (B, C, H, W), y (B, F, P, Q) -> (F, C/groups, *size) with the letters of `varies` in front.
    """
    features = rearrange(y, "b (g f) p q -> b g f p q", g=groups)
    P, Q = y.shape[2:]
    patches = unfold(x, size, (P, Q), stride=stride, pad=pad, dilation=dilation, groups=groups)
    weight = einsum(patches, features, f"b g c r s p q, b g f p q -> {varies} g f c r s")
    return rearrange(weight, f"{varies} g f c r s -> {varies} (g f) c r s")


def unfold(x: Tensor, taps: Pair, size: Pair, *, stride: Pair, pad: Pair, dilation: Pair, groups: int) -> Tensor:
    """Copy out what each of `size` positions sees: patches[b,g,c,r,s,p,q] = x[b,(g c),h,w], and zero outside x.

    x is first padded, or cut, to exactly the pixels that the positions reach.
    """
    (R, S), (H, W) = taps, x.shape[2:]
    reach_h, reach_w = reach(taps, size, stride, dilation)
    after_h, after_w = reach_h - pad[0] - H, reach_w - pad[1] - W
    x = torch_pad(x, (pad[1], max(after_w, 0), pad[0], max(after_h, 0)))[:, :, :reach_h, :reach_w]
    patches = torch_unfold(x, (R, S), dilation=dilation, stride=stride)
    return rearrange(
        patches, "b (g c r s) (p q) -> b g c r s p q", g=groups, c=x.shape[1] // groups, r=R, s=S, p=size[0]
    )


def fold(patches: Tensor, size: Pair, *, stride: Pair, pad: Pair, dilation: Pair) -> Tensor:
    """Add every patch back to the pixels it was copied from, on an image of `size`: the adjoint of `unfold`.

    torch's fold refuses some images that a transposed convolution allows (`output_padding` beyond the last stamp), so
    the patches are folded to exactly the pixels they reach, and the image is cut, or padded, from that.
    """
    (R, S, P, Q), (H, W) = patches.shape[3:], size
    reach_h, reach_w = reach((R, S), (P, Q), stride, dilation)
    after_h, after_w = reach_h - pad[0] - H, reach_w - pad[1] - W
    columns = rearrange(patches, "b g c r s p q -> b (g c r s) (p q)")
    x = torch_fold(columns, (reach_h, reach_w), (R, S), dilation=dilation, stride=stride)
    return torch_pad(x, (0, max(-after_w, 0), 0, max(-after_h, 0)))[:, :, pad[0] : pad[0] + H, pad[1] : pad[1] + W]


def reach(taps: Pair, size: Pair, stride: Pair, dilation: Pair) -> Pair:
    """From the first pixel that the first position sees to the last that the last one sees, along each axis."""
    return (
        (size[0] - 1) * stride[0] + (taps[0] - 1) * dilation[0] + 1,
        (size[1] - 1) * stride[1] + (taps[1] - 1) * dilation[1] + 1,
    )
