"""`torch.nn.functional.conv2d` and `conv_transpose2d`, and the same functions with weights that vary.

Each function passes its arguments on to `fast_path.forward`. A call that equals an earlier one is repeated there. Any
other call goes the long way: its arguments are checked and turned into tensors and pairs of ints, and fprop or dgrad
computes it. Padding strings, single ints, inputs without a batch and autocast do not get further than that.
"""

from torch import Tensor

from tritonconv.fast_path.forward import convolution
from tritonconv.fast_path.long_way import ConvFunction
from tritonconv.reference.torch_rules.checks import Ints

CONV2D = ConvFunction("fprop", "")
CONV_TRANSPOSE2D = ConvFunction("dgrad", "")
LOCALLY_CONNECTED2D = ConvFunction("fprop", "p q")
LOCALLY_CONNECTED_TRANSPOSE2D = ConvFunction("dgrad", "p q")
PER_SAMPLE_CONV2D = ConvFunction("fprop", "b")
DYNAMIC_CONV2D = ConvFunction("fprop", "b p q")


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    implementation: str | None = None,
) -> Tensor:
    """Return the 2-d convolution of images with filters, as `torch.nn.functional.conv2d` does.

    The formula is the one in the documentation of `torch.nn.Conv2d`. `tritonconv.reference.functional` explains the
    letters:

        y[b,f,p,q] = bias[f] + sum over c,r,s of  x[b,c,h,w] * weight[f,c,r,s]
            with  h = p*stride_h + r*dilation_h - pad_h     w = q*stride_w + s*dilation_w - pad_w

    Pixels outside the image count as zero. With groups, filter f sees only the channels of its group, and c counts
    these from 0. `tritonconv.reference.conv2d` computes the formula step by step, and says how large P and Q are.

    Args:
        input: the images x, of shape (B, C, H, W), or one image (C, H, W). Float16, bfloat16 and float32 can run in
            Triton. Float64 and complex types run as the reference, and so do integers on a CPU.
        weight: the filters, of shape (F, C/groups, R, S), in the dtype of the input. Under autocast the dtypes of
            input, weight and bias may differ.
        bias: one number for each filter, of shape (F,), or None.
        stride: the distance between neighbouring positions, in pixels. Stride, padding and dilation are each an int,
            or a pair for rows and columns.
        padding: the rows and columns of zeros on each side of the image, in pixels. The string "valid" means none. The
            string "same" keeps the size of the image and needs a stride of 1. If it adds an odd number along an axis,
            one more is added after the image than before it.
        dilation: the distance between neighbouring taps of a filter, in pixels.
        groups: the number of groups into which channels and filters are divided. Each group is convolved by itself.
        implementation: "triton", "reference", or "auto", which is Triton if it can run the call, else the reference.
            The default, None, takes the choice of `tritonconv.using`, else that of the environment variable
            TRITONCONV_IMPLEMENTATION, else "auto".

    Returns:
        The features y, of shape (B, F, P, Q), or (F, P, Q) for one image. The dtype is the input's, or autocast's. The
        memory format is channels_last if the input or the weight has that format, else contiguous.

    Raises:
        TypeError, RuntimeError, NotImplementedError: if torch raises them, with torch's messages.
        NotImplementedError: if `implementation` is "triton" and Triton can not run the call. The message says why.
        ValueError: if there is no implementation of that name.

    >>> import torch, tritonconv
    >>> image, kernel = torch.arange(9.0).reshape(1, 3, 3), torch.arange(4.0).reshape(1, 1, 2, 2)
    >>> tritonconv.conv2d(image, kernel)
    tensor([[[19., 25.],
             [37., 43.]]])
    """
    options = (stride, padding, dilation, groups)
    return convolution(CONV2D, (input, weight, bias), options, implementation)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    implementation: str | None = None,
) -> Tensor:
    """Return features spread over an image, as `torch.nn.functional.conv_transpose2d` does: the adjoint of `conv2d`.

    The formula is that in the documentation of `torch.nn.ConvTranspose2d`. `tritonconv.reference.functional` explains
    the letters:

        x[b,c,h,w] = bias[c] + sum over f and all p,q,r,s that fall on h,w of  y[b,f,p,q] * weight[f,c,r,s]
            with  h = p*stride_h + r*dilation_h - pad_h     w = q*stride_w + s*dilation_w - pad_w

    With groups, f runs over the filters of the group of channel c, and the c of the weight counts from 0 in that group.
    `tritonconv.reference.conv_transpose2d` computes the formula step by step.

    Args:
        input: the features y, of shape (B, F, P, Q), or (F, P, Q) without a batch. The dtypes are those of `conv2d`.
        weight: the filters, of shape (F, C/groups, R, S), in the dtype of the input. Under autocast the dtypes of
            input, weight and bias may differ.
        bias: one number for each output channel, of shape (C,), or None.
        stride: the distance in the output between the filters of neighbouring positions, in pixels. Stride, padding,
            output_padding and dilation are each an int, or a pair for rows and columns.
        padding: the rows and columns that are cut off on each side of the output, in pixels.
        output_padding: the rows and columns that the output has in addition, at the bottom and on the right, in pixels.
            Along each axis it must be smaller than the stride or the dilation.
        groups: the number of groups into which filters and output channels are divided.
        dilation: the distance between neighbouring taps of a filter, in pixels.
        implementation: "triton", "reference", "auto" or None, as for `conv2d`.

    Returns:
        The image x, of shape (B, C, H, W), or (C, H, W) without a batch, with
        H = (P - 1)*stride_h - 2*pad_h + dilation_h*(R - 1) + output_padding_h + 1, and likewise W.
        Dtype and memory format follow the rules of `conv2d`.

    Raises:
        TypeError, RuntimeError, NotImplementedError: if torch raises them, with torch's messages.
        NotImplementedError: if `implementation` is "triton" and Triton can not run the call. The message says why.
        ValueError: if there is no implementation of that name.

    Four copies of the kernel 0,1,2,3, scaled by the features 0,1,2,3, overlap in the centre:

    >>> import torch, tritonconv
    >>> features, kernel = torch.arange(4.0).reshape(1, 2, 2), torch.arange(4.0).reshape(1, 1, 2, 2)
    >>> tritonconv.conv_transpose2d(features, kernel)
    tensor([[[ 0.,  0.,  1.],
             [ 0.,  4.,  6.],
             [ 4., 12.,  9.]]])
    """
    options = (stride, padding, output_padding, groups, dilation)
    return convolution(CONV_TRANSPOSE2D, (input, weight, bias), options, implementation)


def locally_connected2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    implementation: str | None = None,
) -> Tensor:
    """Return the convolution of images with filters that differ from position to position.

    The formula is that of `conv2d`, with a weight that also depends on the position (p, q):

        y[b,f,p,q] = bias[f,p,q] + sum over c,r,s of  x[b,c,h,w] * weight[p,q,f,c,r,s]

    (h, w) is the pixel that position (p, q) sees through tap (r, s), as in `conv2d`.

    The Triton kernels store no patches of the image, neither forward nor backward. They read a weight without a copy if
    its memory is in the order (P, Q, F, R, S, C/groups), as that of `LocallyConnected2d` is. Another order costs a copy
    of the weight in each call, and so does autocast to another dtype. The weight's gradient always has the order (P, Q,
    F, R, S, C/groups) in memory.

    Args:
        input: the images x, of shape (B, C, H, W), or one image (C, H, W).
        weight: the filters of each position, of shape (P, Q, F, C/groups, R, S), in the dtype of the input.
        bias: of shape (F, P, Q), or (F,) for the same bias at all positions, or None.
        stride, padding, dilation, groups, implementation: as for `conv2d`.

    Returns:
        The features y, of shape (B, F, P, Q), or (F, P, Q) for one image. The dtype is the input's, or autocast's. The
        memory format is channels_last if the input has that format, else contiguous.

    Raises:
        RuntimeError: if the weight does not have the P x Q positions of the output.
        TypeError, RuntimeError, NotImplementedError, ValueError: if `conv2d` raises them.

    >>> import torch, tritonconv
    >>> image, kernels = torch.arange(9.0).reshape(1, 3, 3), torch.arange(16.0).reshape(2, 2, 1, 1, 2, 2)
    >>> tritonconv.locally_connected2d(image, kernels)
    tensor([[[ 19.,  73.],
             [197., 331.]]])
    """
    options = (stride, padding, dilation, groups)
    return convolution(LOCALLY_CONNECTED2D, (input, weight, bias), options, implementation)


def locally_connected_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    implementation: str | None = None,
) -> Tensor:
    """Return features spread over an image with filters that differ from position to position.

    This is the adjoint of `locally_connected2d`. The formula is that of `conv_transpose2d`, with a weight that also
    depends on the position (p, q):

        x[b,c,h,w] = bias[c,h,w] + sum over f and all p,q,r,s that fall on h,w of  y[b,f,p,q] * weight[p,q,f,c,r,s]

    Position (p, q) falls on pixel (h, w) through tap (r, s) as in `conv_transpose2d`. The kernels store no patches, and
    copy a weight in the same cases as in `locally_connected2d`.

    Args:
        input: the features y, of shape (B, F, P, Q), or (F, P, Q) without a batch.
        weight: the filters of each position, of shape (P, Q, F, C/groups, R, S), in the dtype of the input.
        bias: of shape (C, H, W), or (C,) for the same bias at all pixels, or None.
        stride, padding, output_padding, groups, dilation, implementation: as for `conv_transpose2d`.

    Returns:
        The image x, of shape (B, C, H, W), or (C, H, W) without a batch, with the H and W of `conv_transpose2d`. The
        dtype is the input's, or autocast's. The memory format is channels_last if the input has that format, else
        contiguous.

    Raises:
        RuntimeError: if the weight does not have the P x Q positions of the input.
        TypeError, RuntimeError, NotImplementedError, ValueError: if `conv_transpose2d` raises them.

    >>> import torch, tritonconv
    >>> features, kernels = torch.arange(2.0).reshape(1, 1, 2) + 1, torch.arange(8.0).reshape(1, 2, 1, 1, 2, 2)
    >>> tritonconv.locally_connected_transpose2d(features, kernels)
    tensor([[[ 0.,  9., 10.],
             [ 2., 15., 14.]]])
    """
    options = (stride, padding, output_padding, groups, dilation)
    return convolution(LOCALLY_CONNECTED_TRANSPOSE2D, (input, weight, bias), options, implementation)


def per_sample_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    implementation: str | None = None,
) -> Tensor:
    """Return the convolution of each sample with filters of its own, for example those that a hypernetwork computes.

    The formula is that of `conv2d`, with a weight that also depends on the sample b:

        y[b,f,p,q] = bias[b,f] + sum over c,r,s of  x[b,c,h,w] * weight[b,f,c,r,s]

    (h, w) is the pixel that position (p, q) sees through tap (r, s), as in `conv2d`.

    Args:
        input: the images x, of shape (B, C, H, W). An input (C, H, W) is one sample, and B is 1.
        weight: the filters of each sample, of shape (B, F, C/groups, R, S), in the dtype of the input.
        bias: of shape (B, F), or (F,) for the same bias for all samples, or None.
        stride, padding, dilation, groups, implementation: as for `conv2d`.

    Returns:
        The features y, of shape (B, F, P, Q), or (F, P, Q) for an input (C, H, W). The dtype is the input's, or
        autocast's. The memory format is channels_last if the input has that format, else contiguous.

    Raises:
        RuntimeError: if the weight does not have the B samples of the input.
        TypeError, RuntimeError, NotImplementedError, ValueError: if `conv2d` raises them.

    >>> import torch, tritonconv
    >>> images = torch.ones(2, 1, 3, 3)
    >>> kernels = torch.tensor([1.0, 10.0]).reshape(2, 1, 1, 1, 1).expand(2, 1, 1, 2, 2)
    >>> tritonconv.per_sample_conv2d(images, kernels).flatten(1)
    tensor([[ 4.,  4.,  4.,  4.],
            [40., 40., 40., 40.]])
    """
    options = (stride, padding, dilation, groups)
    return convolution(PER_SAMPLE_CONV2D, (input, weight, bias), options, implementation)


def dynamic_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    implementation: str | None = None,
) -> Tensor:
    """Return the convolution of images with filters that differ between samples and between positions.

    For example, another network computes the filters from the image. The formula is that of `conv2d`, with a weight
    that also depends on the sample b and the position (p, q):

        y[b,f,p,q] = bias[b,f,p,q] + sum over c,r,s of  x[b,c,h,w] * weight[b,p,q,f,c,r,s]

    (h, w) is the pixel that position (p, q) sees through tap (r, s), as in `conv2d`.

    Args:
        input: the images x, of shape (B, C, H, W). An input (C, H, W) is one sample, and B is 1.
        weight: the filters, of shape (B, P, Q, F, C/groups, R, S), in the dtype of the input.
        bias: of shape (B, F, P, Q), or (F, P, Q), (B, F) or (F,) if it does not vary over the missing letters, or None.
        stride, padding, dilation, groups, implementation: as for `conv2d`.

    Returns:
        The features y, of shape (B, F, P, Q), or (F, P, Q) for an input (C, H, W). The dtype is the input's, or
        autocast's. The memory format is channels_last if the input has that format, else contiguous.

    Raises:
        RuntimeError: if the weight does not have the B samples of the input, or the P x Q positions of the output.
        TypeError, RuntimeError, NotImplementedError, ValueError: if `conv2d` raises them.

    >>> import torch, tritonconv
    >>> images = torch.ones(2, 1, 3, 3)
    >>> kernels = torch.arange(8.0).reshape(2, 2, 2, 1, 1, 1, 1).expand(2, 2, 2, 1, 1, 2, 2)
    >>> tritonconv.dynamic_conv2d(images, kernels).flatten(1)
    tensor([[ 0.,  4.,  8., 12.],
            [16., 20., 24., 28.]])
    """
    options = (stride, padding, dilation, groups)
    return convolution(DYNAMIC_CONV2D, (input, weight, bias), options, implementation)
