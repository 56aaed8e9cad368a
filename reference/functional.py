"""Convolution in plain PyTorch, from three steps: unfold, multiply-sum and fold. Read this file first.

One letter has one meaning everywhere. A capital is an extent, its small letter an index:

    B        images in the batch
    C, H, W  the image x: channels, rows and columns of pixels
    F, P, Q  the features y: channels, rows and columns of positions. F is also the number of filters
    R, S     the taps of a filter: rows and columns
    G        groups of channels. A filter sees only the C/G channels of its group

A convolution is one sum of products over three factors, an image x, a weight and features y:

    sum over b,f,c,p,q,r,s of  x[b,c,h,w] * weight[f,c,r,s] * y[b,f,p,q]
        with  h = p*stride_h + r*dilation_h - pad_h     w = q*stride_w + s*dilation_w - pad_w

The second line says which pixel (h, w) position (p, q) sees through tap (r, s). Pixels outside the image count as zero.
With groups, filter f sees only the C/G channels of its group, and c counts these from 0, in x as in weight.

Each of three primitives leaves one factor out of the products, and does not sum over the letters of that factor:

    fprop  leaves out y:       the image seen through the filters
    dgrad  leaves out x:       the features spread back over the image
    wgrad  leaves out weight:  the image correlated with the features

`conv2d` is fprop plus a bias, and its gradients are dgrad (input) and wgrad (weight). `conv_transpose2d` is dgrad plus
a bias, and its gradients are fprop (input) and wgrad (weight).

A `Pair` is a tuple (rows, columns) of ints. In the primitives, `size` is always the extent of the result. `pad` is the
number of zeros before the first row and column only. The number after the last ones follows from the sizes.

`varies` is for weights that differ between samples or positions. It names the letters that the weight has in front of
F: "b" for one weight per sample, "p q" for one per position, "b p q" for both. The products stay the same, and wgrad
does not sum over the letters in `varies`. `reference/local.py` has the functions that use it.

The same sums with pictures: Dumoulin & Visin 2016, "A guide to convolution arithmetic for deep learning",
https://arxiv.org/abs/1603.07285.
"""

from einops import einsum, rearrange
from torch import Tensor
from torch.nn.functional import pad as torch_pad

from tritonconv.reference.torch_rules import arguments
from tritonconv.reference.torch_rules.checks import Ints, Pair
from tritonconv.reference.torch_rules.columns import reach, torch_fold, torch_unfold
from tritonconv.reference.torch_rules.formats import rounded_once, widened


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """Return the 2-d convolution of images with filters: unfold -> multiply-sum (both in `fprop`) -> bias.

    The filters slide over the image. At each position, each filter is multiplied with the pixels under it and summed:

        y[b,f,p,q] = bias[f] + sum over c,r,s of x[b,c,h,w] * weight[f,c,r,s]
            with  h = p*stride_h + r*dilation_h - pad_h     w = q*stride_w + s*dilation_w - pad_w

    Pixels outside the image count as zero. With groups, filter f sees only the channels of its group, and c counts
    these from 0. The result has P = floor((H + 2*pad_h - dilation_h*(R-1) - 1) / stride_h) + 1 rows. Q follows from W
    in the same way. Source: the documentation of `torch.nn.Conv2d`. As there, filters are not flipped: it is a
    cross-correlation.

    Args:
        input: images x of shape (B, C, H, W), or one image (C, H, W). float16, bfloat16, float32, float64 or complex.
            On a CPU also integers, whose sums wrap around.
        weight: filters of shape (F, C/groups, R, S), in the dtype of `input`. Under autocast the dtypes may differ.
        bias: one number per filter, shape (F,), in the dtype of `input`; or None.
        stride: step from one position to the next, in pixels. An int, or (rows, columns).
        padding: rows and columns of zeros added on each side of the image, in pixels. An int, or (rows, columns).
            "valid" adds none. "same" adds so many that (P, Q) = (H, W), and needs a stride of 1. If their number along
            an axis is odd, one more is added after the image than before it.
        dilation: step from one tap to the next, in pixels. An int, or (rows, columns).
        groups: number of groups into which channels and filters are divided.

    Returns:
        Features y of shape (B, F, P, Q), or (F, P, Q) for one image, in the dtype of `input` (or that of autocast). 16
        bits are rounded once, bias included. If C is 0, F counts as 0, as in torch. The memory format is channels_last
        if that of `input` or `weight` is, else contiguous.

    Raises:
        TypeError: `input`, `weight` or `bias` is not a tensor, or a size is not made of ints.
        RuntimeError: shapes, sizes, dtypes or devices do not fit together. The message is torch's own.
        NotImplementedError: the dtype is bool, or torch does not multiply matrices of it on this device.

    At position (1, 0) the pixels 3,4,6,7 lie under the kernel 0,1,2,3: 0*3 + 1*4 + 2*6 + 3*7 = 37.

    >>> import torch
    >>> image = torch.arange(9.0).reshape(1, 1, 3, 3)
    >>> kernel = torch.arange(4.0).reshape(1, 1, 2, 2)
    >>> conv2d(image, kernel)
    tensor([[[[19., 25.],
              [37., 43.]]]])
    """
    checked = arguments.conv2d(input, weight, bias, stride, padding, dilation, groups)
    x, weight, bias = widened(checked.input, checked.weight, checked.bias)
    y = fprop(x, weight, checked.size, **checked.sampling)
    if bias is not None:
        y = y + rearrange(bias, "f -> f 1 1")
    return checked.finished(y, unbatched=input.ndim == 3)


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
    """Return the transposed 2-d convolution: multiply -> fold (both in `dgrad`) -> bias.

    Each position stamps the filters onto the image, each scaled by its feature there. Stamps that overlap add up:

        x[b,c,h,w] = bias[c] + sum over f and all p,q,r,s that fall on h,w of weight[f,c,r,s] * y[b,f,p,q]
            with  h = p*stride_h + r*dilation_h - pad_h     w = q*stride_w + s*dilation_w - pad_w

    With groups, f runs over the filters of the group of channel c, and the c of `weight` counts from 0 in that group.
    The result has H = (P-1)*stride_h - 2*pad_h + dilation_h*(R-1) + 1 + output_padding_h rows. W follows from Q in the
    same way. Without its bias, the function is the adjoint of `conv2d`: it maps a gradient of `conv2d`'s output to the
    gradient of its input. Source: the documentation of `torch.nn.ConvTranspose2d`, and chapter 4 of Dumoulin & Visin
    2016, "A guide to convolution arithmetic for deep learning".

    Args:
        input: features y of shape (B, F, P, Q) or (F, P, Q). float16, bfloat16, float32, float64 or complex. On a CPU
            also integers, whose sums wrap around.
        weight: filters of shape (F, C/groups, R, S), in the dtype of `input`. Under autocast the dtypes may differ.
        bias: one number per channel of the result, shape (C,), in the dtype of `input`; or None.
        stride: step from one stamp to the next, in pixels of the result. An int, or (rows, columns).
        padding: rows and columns cut off on each side of the result, in pixels. An int, or (rows, columns).
        output_padding: rows and columns added after the last ones of the result, in pixels. An int, or (rows, columns).
            Along each axis it must be smaller than the stride or the dilation.
        groups: number of groups into which filters and channels are divided.
        dilation: step from one tap to the next, in pixels of the result. An int, or (rows, columns).

    Returns:
        Images x of shape (B, C, H, W) or (C, H, W), in the dtype of `input` (or that of autocast). 16 bits are rounded
        once, bias included. The memory format is channels_last if that of `input` or `weight` is, else
        contiguous.

    Raises:
        TypeError: `input`, `weight` or `bias` is not a tensor, or a size is not made of ints.
        RuntimeError: shapes, sizes, dtypes or devices do not fit together. The message is torch's own.
        NotImplementedError: the dtype is bool, or torch does not multiply matrices of it on this device.

    Four stamps of the kernel 0,1,2,3 overlap in the centre pixel, and add up to 0*3 + 1*2 + 2*1 + 3*0 = 4.

    >>> import torch
    >>> features = torch.arange(4.0).reshape(1, 1, 2, 2)
    >>> kernel = torch.arange(4.0).reshape(1, 1, 2, 2)
    >>> conv_transpose2d(features, kernel)
    tensor([[[[ 0.,  0.,  1.],
              [ 0.,  4.,  6.],
              [ 4., 12.,  9.]]]])
    """
    checked = arguments.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
    y, weight, bias = widened(checked.input, checked.weight, checked.bias)
    x = dgrad(y, weight, checked.size, **checked.sampling)
    if bias is not None:
        x = x + rearrange(bias, "c -> c 1 1")
    return checked.finished(x, unbatched=input.ndim == 3)


@rounded_once
def fprop(
    x: Tensor, weight: Tensor, size: Pair, *, stride: Pair, pad: Pair, dilation: Pair, groups: int, varies: str = ""
) -> Tensor:
    """y[b,f,p,q] = sum over c,r,s of x[b,c,h,w] * weight[f,c,r,s].

    Return the features that the filters see in the image. `unfold` copies out the patch of pixels under each position.
    Then each patch is multiplied with each filter of its group and summed. With groups, c counts from 0 in the group of
    f.

        h = p*stride_h + r*dilation_h - pad_h     w = q*stride_w + s*dilation_w - pad_w

    Source: the documentation of `torch.nn.Conv2d`. Arguments are not checked here: `conv2d` does that.

    Args:
        x: images of shape (B, C, H, W). 16-bit factors are multiplied and summed in float32.
        weight: shape (F, C/G, R, S), with the extents of `varies` in front. The dtype of `x`.
        size: (P, Q), the rows and columns of positions of the result.
        stride, pad, dilation: pairs (rows, columns) in pixels of the image, as in the formula.
        groups: number of groups G.
        varies: the letters that the weight has in front of F: "", "b", "p q" or "b p q".

    Returns:
        Features y of shape (B, F, P, Q) in the dtype of `x`.

    The sum of every two neighbours in a row of pixels 0 1 2 3:

    >>> import torch
    >>> row, ones = torch.arange(4.0).reshape(1, 1, 1, 4), torch.ones(1, 1, 1, 2)
    >>> fprop(row, ones, (1, 3), stride=(1, 1), pad=(0, 0), dilation=(1, 1), groups=1)
    tensor([[[[1., 3., 5.]]]])
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

    Return the image over which the features are spread back. The filters, multiplied with the features of a position,
    give one patch for that position. `fold` adds the patches up where they overlap. With groups, f runs over the
    filters of the group of c.

        h = p*stride_h + r*dilation_h - pad_h     w = q*stride_w + s*dilation_w - pad_w

    It is the gradient of `fprop` with respect to its data x, hence the name. Source: the documentation of
    `torch.nn.ConvTranspose2d`. Arguments are not checked here: `conv_transpose2d` does that.

    Args:
        y: features of shape (B, F, P, Q). 16-bit factors are multiplied and summed in float32.
        weight: shape (F, C/G, R, S), with the extents of `varies` in front. The dtype of `y`.
        size: (H, W), the rows and columns of pixels of the result.
        stride, pad, dilation: pairs (rows, columns) in pixels of the image, as in the formula.
        groups: number of groups G.
        varies: the letters that the weight has in front of F: "", "b", "p q" or "b p q".

    Returns:
        Images x of shape (B, C, H, W) in the dtype of `y`.

    Each of three features is spread over two pixels:

    >>> import torch
    >>> features, ones = torch.tensor([[[[1.0, 3.0, 5.0]]]]), torch.ones(1, 1, 1, 2)
    >>> dgrad(features, ones, (1, 4), stride=(1, 1), pad=(0, 0), dilation=(1, 1), groups=1)
    tensor([[[[1., 4., 8., 5.]]]])
    """
    filters = rearrange(weight, f"{varies} (g f) c r s -> {varies} g f c r s", g=groups)
    features = rearrange(y, "b (g f) p q -> b g f p q", g=groups)
    patches = einsum(features, filters, f"b g f p q, {varies} g f c r s -> b g c r s p q")
    return fold(patches, size, stride=stride, pad=pad, dilation=dilation)


@rounded_once
def wgrad(
    x: Tensor, y: Tensor, size: Pair, *, stride: Pair, pad: Pair, dilation: Pair, groups: int, varies: str = ""
) -> Tensor:
    """weight[f,c,r,s] = sum over b,p,q of x[b,c,h,w] * y[b,f,p,q]; letters in `varies` are not summed over.

    Return the correlation of the image with the features at each tap. `unfold` copies out the pixels that each tap
    sees. They are multiplied with the features of the same positions and summed. With groups, c counts from 0 in the
    group of f.

        h = p*stride_h + r*dilation_h - pad_h     w = q*stride_w + s*dilation_w - pad_w

    It is the gradient of `fprop` with respect to the weight, if y is the gradient of `fprop`'s result. Source: the
    derivative of the formula in the documentation of `torch.nn.Conv2d`. Arguments are not checked.

    Args:
        x: images of shape (B, C, H, W). 16-bit factors are multiplied and summed in float32.
        y: features of shape (B, F, P, Q), in the dtype of `x`.
        size: (R, S), the rows and columns of taps of the result.
        stride, pad, dilation: pairs (rows, columns) in pixels of the image, as in the formula.
        groups: number of groups G.
        varies: the letters that the weight has in front of F: "", "b", "p q" or "b p q".

    Returns:
        A weight of shape (F, C/G, R, S), with the extents of `varies` in front, in the dtype of `x`.

    The left tap sees the pixels 0 1 2, the right tap 1 2 3. Their products with the features 1 3 5 are added:

    >>> import torch
    >>> row, features = torch.arange(4.0).reshape(1, 1, 1, 4), torch.tensor([[[[1.0, 3.0, 5.0]]]])
    >>> wgrad(row, features, (1, 2), stride=(1, 1), pad=(0, 0), dilation=(1, 1), groups=1)
    tensor([[[[13., 22.]]]])
    """
    features = rearrange(y, "b (g f) p q -> b g f p q", g=groups)
    P, Q = y.shape[2:]
    patches = unfold(x, size, (P, Q), stride=stride, pad=pad, dilation=dilation, groups=groups)
    weight = einsum(patches, features, f"b g c r s p q, b g f p q -> {varies} g f c r s")
    return rearrange(weight, f"{varies} g f c r s -> {varies} (g f) c r s")


def unfold(x: Tensor, taps: Pair, size: Pair, *, stride: Pair, pad: Pair, dilation: Pair, groups: int) -> Tensor:
    """patches[b,g,c,r,s,p,q] = x[b,(g c),h,w], and zero where h,w lies outside the image.

    Copy out the patch of pixels that each position sees (im2col). A pixel is copied once for each patch that it is in.
    (g c) is channel c of group g.

        h = p*stride_h + r*dilation_h - pad_h     w = q*stride_w + s*dilation_w - pad_w

    The image is padded with zeros as far as the positions reach. `torch.nn.functional.unfold`, the source of the
    formula, does the rest. `torch_unfold` gives its result an axis for each letter.

    Args:
        x: images of shape (B, C, H, W).
        taps: (R, S), the rows and columns of pixels of a patch.
        size: (P, Q), the rows and columns of positions.
        stride, pad, dilation: pairs (rows, columns) in pixels of the image, as in the formula.
        groups: number of groups G.

    Returns:
        Patches of shape (B, G, C/G, R, S, P, Q) in the dtype of `x`.

    Two patches of two pixels each, at a stride of two:

    >>> import torch
    >>> row = torch.arange(4.0).reshape(1, 1, 1, 4)
    >>> patches = unfold(row, (1, 2), (1, 2), stride=(1, 2), pad=(0, 0), dilation=(1, 1), groups=1)
    >>> [patches[0, 0, 0, 0, :, 0, q].tolist() for q in (0, 1)]
    [[0.0, 1.0], [2.0, 3.0]]
    """
    H, W = x.shape[2:]
    reach_h, reach_w = reach(taps, size, dilation, stride)
    x = torch_pad(x, (pad[1], max(reach_w - pad[1] - W, 0), pad[0], max(reach_h - pad[0] - H, 0)))
    patches = torch_unfold(x, taps, size, dilation, stride)
    return rearrange(patches, "b (g c) r s p q -> b g c r s p q", g=groups)


def fold(patches: Tensor, size: Pair, *, stride: Pair, pad: Pair, dilation: Pair) -> Tensor:
    """x[b,(g c),h,w] = sum over all p,q,r,s that fall on h,w of patches[b,g,c,r,s,p,q].

    Add each patch back to the pixels that `unfold` copied it from (col2im). It is the adjoint of `unfold`, not its
    inverse: a pixel that lies in two patches is added twice. A pixel in no patch is zero. (g c) is channel c of group
    g.

        h = p*stride_h + r*dilation_h - pad_h     w = q*stride_w + s*dilation_w - pad_w

    `torch.nn.functional.fold`, the source of the formula, refuses some images that a transposed convolution allows:
    `output_padding` can reach beyond the last stamp. So the patches are folded to exactly the pixels that they reach,
    and that image is then cut, or padded, to `size`.

    Args:
        patches: shape (B, G, C/G, R, S, P, Q).
        size: (H, W), the rows and columns of pixels of the result.
        stride, pad, dilation: pairs (rows, columns) in pixels of the image, as in the formula.

    Returns:
        Images of shape (B, C, H, W) in the dtype of `patches`.

    Three patches of two ones overlap on a row of four pixels. The two inner pixels lie in two patches each:

    >>> import torch
    >>> ones = torch.ones(1, 1, 1, 1, 2, 1, 3)
    >>> fold(ones, (1, 4), stride=(1, 1), pad=(0, 0), dilation=(1, 1))
    tensor([[[[1., 2., 2., 1.]]]])
    """
    H, W = size
    x = torch_fold(rearrange(patches, "b g c r s p q -> b (g c) r s p q"), dilation, stride)
    after_h, after_w = x.shape[2] - pad[0] - H, x.shape[3] - pad[1] - W
    return torch_pad(x, (0, max(-after_w, 0), 0, max(-after_h, 0)))[:, :, pad[0] : pad[0] + H, pad[1] : pad[1] + W]
