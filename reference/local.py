"""Convolutions whose weight varies from sample to sample or from position to position.

The steps are those of `reference/functional.py`: unfold -> multiply-sum -> bias, and multiply -> fold -> bias. Only the
pattern of the sum changes: the weight carries more letters in front. That file explains all letters.

| function | weight varies over | its letters | letters that a bias may have |
|---|---|---|---|
| `conv2d` | nothing | f c r s | f |
| `per_sample_conv2d` | samples | b f c r s | f, b f |
| `locally_connected2d` | positions | p q f c r s | f, f p q |
| `dynamic_conv2d` | samples and positions | b p q f c r s | f, b f, f p q, b f p q |

`locally_connected_transpose2d` has the weight of `locally_connected2d`. Its bias has the letters c or c h w.
"""

from einops import rearrange
from torch import Tensor

from tritonconv.reference.functional import dgrad, fprop
from tritonconv.reference.torch_rules import arguments
from tritonconv.reference.torch_rules.checks import Ints
from tritonconv.reference.torch_rules.formats import widened

# How to add a bias of 1, 2, 3 or 4 dimensions to an image b c h w. For features, read f p q in place of c h w.
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
    """Return the convolution of images with filters that differ between positions: unfold -> multiply-sum -> bias.

        y[b,f,p,q] = bias[f,p,q] + sum over c,r,s of x[b,c,h,w] * weight[p,q,f,c,r,s]

    (h, w) is the pixel that position (p, q) sees through tap (r, s). It follows from the stride, padding and dilation
    as in `reference.conv2d`, and so do P and Q from the size of the image. Source: the formula of `torch.nn.Conv2d`
    with p,q added to the weight, as in Keras 2's `LocallyConnected2D` and Flax's `ConvLocal`.

    Args:
        input: images x of shape (B, C, H, W), or one image (C, H, W), in the dtypes of `conv2d`.
        weight: shape (P, Q, F, C/groups, R, S), in the dtype of `input`. Under autocast the dtypes may differ.
        bias: shape (F, P, Q), or (F,) for the same numbers at all positions; or None.
        stride: step from one position to the next, in pixels. An int, or (rows, columns).
        padding: rows and columns of zeros on each side of the image, in pixels; or "valid" or "same", as in `conv2d`.
        dilation: step from one tap to the next, in pixels. An int, or (rows, columns).
        groups: number of groups into which channels and filters are divided.

    Returns:
        Features y of shape (B, F, P, Q), or (F, P, Q) for one image, in the dtype of `input` (or that of autocast). The
        memory format is channels_last if that of `input` is, else contiguous.

    Raises:
        TypeError, RuntimeError, NotImplementedError: as `conv2d`.
        RuntimeError: the output does not have the P x Q positions of `weight`.

    Four positions, with the same kernel 0,1,2,3 at three of them. At position (1, 0) the kernel is doubled:

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
    """Return the transposed convolution with filters that differ between positions: multiply -> fold -> bias.

        x[b,c,h,w] = bias[c,h,w] + sum over f and all p,q,r,s that fall on h,w of weight[p,q,f,c,r,s] * y[b,f,p,q]

    Position (p, q) falls on pixel (h, w) through tap (r, s) as in `reference.conv_transpose2d`, where H and W are also
    given. Without its bias, it is the adjoint of `locally_connected2d`. Source: the formula of
    `torch.nn.ConvTranspose2d` with p,q added to the weight.

    Args:
        input: features y of shape (B, F, P, Q) or (F, P, Q), in the dtypes of `conv2d`.
        weight: shape (P, Q, F, C/groups, R, S), in the dtype of `input`. Under autocast the dtypes may differ.
        bias: shape (C, H, W), or (C,) for the same numbers at all pixels; or None.
        stride: step from one stamp to the next, in pixels of the result. An int, or (rows, columns).
        padding: rows and columns cut off on each side of the result, in pixels. An int, or (rows, columns).
        output_padding: rows and columns added after the last ones of the result, in pixels. An int, or (rows, columns).
        groups: number of groups into which filters and channels are divided.
        dilation: step from one tap to the next, in pixels of the result. An int, or (rows, columns).

    Returns:
        Images x of shape (B, C, H, W) or (C, H, W), in the dtype of `input` (or that of autocast). The memory format is
        channels_last if that of `input` is, else contiguous.

    Raises:
        TypeError, RuntimeError, NotImplementedError: as `conv_transpose2d`.
        RuntimeError: `input` does not have the P x Q positions of `weight`.

    Two features, both 1, lie side by side. The first stamps 1 2 onto the row, and the second 3 4, one pixel further:

    >>> import torch
    >>> stamps = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 2, 1, 1, 1, 2)
    >>> locally_connected_transpose2d(torch.ones(1, 1, 1, 2), stamps)
    tensor([[[[1., 5., 4.]]]])
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
    y, weight, bias = widened(checked.input, checked.weight, checked.bias)
    x = dgrad(y, weight, checked.size, **checked.sampling)
    if bias is not None:
        x = x + rearrange(bias, BIAS[bias.ndim])
    return checked.finished(x, unbatched=input.ndim == 3)


def per_sample_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """Return the convolution of each sample with filters of its own, which a hypernetwork may have made.

        y[b,f,p,q] = bias[b,f] + sum over c,r,s of x[b,c,h,w] * weight[b,f,c,r,s]

    (h, w) is the pixel that position (p, q) sees through tap (r, s). It follows from the stride, padding and dilation
    as in `reference.conv2d`, and so do P and Q from the size of the image. Source: the formula of `torch.nn.Conv2d`
    with b added to the weight.

    Args:
        input: images x of shape (B, C, H, W), or one image (C, H, W), for which B is 1. The dtypes are those of
            `conv2d`.
        weight: shape (B, F, C/groups, R, S), in the dtype of `input`. Under autocast the dtypes may differ.
        bias: shape (B, F), or (F,) for the same numbers in all samples; or None.
        stride: step from one position to the next, in pixels. An int, or (rows, columns).
        padding: rows and columns of zeros on each side of the image, in pixels; or "valid" or "same", as in `conv2d`.
        dilation: step from one tap to the next, in pixels. An int, or (rows, columns).
        groups: number of groups into which channels and filters are divided.

    Returns:
        Features y of shape (B, F, P, Q), or (F, P, Q) for one image, in the dtype of `input` (or that of autocast). The
        memory format is channels_last if that of `input` is, else contiguous.

    Raises:
        TypeError, RuntimeError, NotImplementedError: as `conv2d`.
        RuntimeError: `input` does not have the B samples of `weight`.

    The filter of the first sample adds two neighbours, that of the second subtracts them:

    >>> import torch
    >>> rows = torch.tensor([[5.0, 7.0, 8.0], [5.0, 7.0, 8.0]]).reshape(2, 1, 1, 3)
    >>> filters = torch.tensor([[1.0, 1.0], [-1.0, 1.0]]).reshape(2, 1, 1, 1, 2)
    >>> per_sample_conv2d(rows, filters).flatten(1)
    tensor([[12., 15.],
            [ 2.,  1.]])
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
    """Return the convolution of images with filters that differ between samples and between positions.

        y[b,f,p,q] = bias[b,f,p,q] + sum over c,r,s of x[b,c,h,w] * weight[b,p,q,f,c,r,s]

    The filters may for instance be made from the image by a network. (h, w) is the pixel that position (p, q) sees
    through tap (r, s). It follows from the stride, padding and dilation as in `reference.conv2d`, and so do P and Q
    from the size of the image. Source: the formula of `torch.nn.Conv2d` with b,p,q added to the weight.

    Args:
        input: images x of shape (B, C, H, W), or one image (C, H, W), for which B is 1. The dtypes are those of
            `conv2d`.
        weight: shape (B, P, Q, F, C/groups, R, S), in the dtype of `input`. Under autocast the dtypes may differ.
        bias: shape (B, F, P, Q), or (B, F), (F, P, Q) or (F,) if it does not vary over the missing letters; or None.
        stride: step from one position to the next, in pixels. An int, or (rows, columns).
        padding: rows and columns of zeros on each side of the image, in pixels; or "valid" or "same", as in `conv2d`.
        dilation: step from one tap to the next, in pixels. An int, or (rows, columns).
        groups: number of groups into which channels and filters are divided.

    Returns:
        Features y of shape (B, F, P, Q), or (F, P, Q) for one image, in the dtype of `input` (or that of autocast). The
        memory format is channels_last if that of `input` is, else contiguous.

    Raises:
        TypeError, RuntimeError, NotImplementedError: as `conv2d`.
        RuntimeError: `input` does not have the B samples of `weight`, or the output does not have its P x Q positions.

    One sample of three pixels and two positions. The first filter adds two neighbours, the second subtracts them:

    >>> import torch
    >>> row = torch.tensor([5.0, 7.0, 8.0]).reshape(1, 1, 1, 3)
    >>> filters = torch.tensor([[1.0, 1.0], [-1.0, 1.0]]).reshape(1, 1, 2, 1, 1, 1, 2)
    >>> dynamic_conv2d(row, filters)
    tensor([[[[12.,  1.]]]])
    """
    checked = arguments.conv2d(input, weight, bias, stride, padding, dilation, groups, varies="b p q")
    return features(checked, unbatched=input.ndim == 3)


def features(checked: arguments.Checked, unbatched: bool) -> Tensor:
    """Return `fprop` of the checked arguments, plus their bias if there is one, as torch returns it.

    `unbatched` drops the batch axis of the result.
    """
    x, weight, bias = widened(checked.input, checked.weight, checked.bias)
    y = fprop(x, weight, checked.size, **checked.sampling)
    if bias is not None:
        y = y + rearrange(bias, BIAS[bias.ndim])
    return checked.finished(y, unbatched)
