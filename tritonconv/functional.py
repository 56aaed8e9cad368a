"""`torch.nn.functional.conv2d` and `conv_transpose2d` on the operators, and the same with weights that vary.

Strings, ints, missing batches and autocast end here.
"""

from torch import Tensor

from tritonconv import dispatch
from tritonconv.operators.autograd import apply_operator
from tritonconv.reference.torch_rules import arguments
from tritonconv.reference.torch_rules.checks import Ints


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
    """`torch.nn.functional.conv2d`: input (B, C, H, W) or (C, H, W), weight (F, C/groups, R, S), bias (F,).

    Returns (B, F, P, Q) or (F, P, Q) in the input's dtype, or autocast's; sizes are in pixels. Raises as torch does.
    `implementation` is "triton", "reference" or "auto" and goes before `tritonconv.using`; NotImplementedError says
    why Triton can not run. The formula is in the documentation of `torch.nn.Conv2d`.

    >>> import torch
    >>> image, kernel = torch.arange(9.0).reshape(1, 3, 3), torch.arange(4.0).reshape(1, 1, 2, 2)
    >>> conv2d(image, kernel, implementation="reference")
    tensor([[[19., 25.],
             [37., 43.]]])
    """
    implementation = dispatch.requested(implementation)
    checked = arguments.conv2d(input, weight, bias, stride, padding, dilation, groups)
    y = apply_operator("fprop", *checked, implementation)
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
    *,
    implementation: str | None = None,
) -> Tensor:
    """`torch.nn.functional.conv_transpose2d`: input (B, F, P, Q) or (F, P, Q), weight (F, C/groups, R, S), bias (C,).

    Returns (B, C, H, W) or (C, H, W) in the input's dtype, or autocast's; sizes are in pixels. Raises as torch does.
    `implementation` is "triton", "reference" or "auto" and goes before `tritonconv.using`; NotImplementedError says
    why Triton can not run. The formula is in the documentation of `torch.nn.ConvTranspose2d`.
    """
    implementation = dispatch.requested(implementation)
    checked = arguments.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
    x = apply_operator("dgrad", *checked, implementation)
    return x if input.ndim == 4 else x[0]


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
    """A convolution whose every position has filters of its own: no patches are stored, forward or backward.

    input (B, C, H, W) or (C, H, W), weight (P, Q, F, C/groups, R, S), bias (F, P, Q) or (F,). Returns (B, F, P, Q) or
    (F, P, Q) in the input's dtype, or autocast's; sizes are in pixels. Raises as `conv2d` does, and RuntimeError for an
    input whose output has not as many positions as the weight. A weight whose memory is in the order (P, Q, F, R, S,
    C/groups), as that of `LocallyConnected2d` is, is not copied but by autocast, and so lies its gradient.
    `implementation` is "triton", "reference" or "auto". The formula, in the letters of the README, is

        y[b,f,p,q] = sum over c,r,s of x[b,c,h,w] * weight[p,q,f,c,r,s]

    >>> import torch
    >>> image, kernels = torch.arange(9.0).reshape(1, 3, 3), torch.arange(16.0).reshape(2, 2, 1, 1, 2, 2)
    >>> locally_connected2d(image, kernels, implementation="reference")
    tensor([[[ 19.,  73.],
             [197., 331.]]])
    """
    implementation = dispatch.requested(implementation)
    checked = arguments.conv2d(input, weight, bias, stride, padding, dilation, groups, varies="p q")
    y = apply_operator("fprop", *checked, implementation)
    return y if input.ndim == 4 else y[0]


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
    """A transposed convolution whose every position has a stamp of its own: the adjoint of `locally_connected2d`.

    input (B, F, P, Q) or (F, P, Q), weight (P, Q, F, C/groups, R, S), bias (C, H, W) or (C,). Returns (B, C, H, W) or
    (C, H, W) in the input's dtype, or autocast's; sizes are in pixels. Raises as `conv_transpose2d` does, and
    RuntimeError for an input that has not as many positions as the weight. Otherwise as `locally_connected2d`.

        x[b,c,h,w] = sum over f and all p,q,r,s that fall on h,w of weight[p,q,f,c,r,s] * y[b,f,p,q]
    """
    implementation = dispatch.requested(implementation)
    sizes = (stride, padding, output_padding, groups, dilation)
    checked = arguments.conv_transpose2d(input, weight, bias, *sizes, varies="p q")
    x = apply_operator("dgrad", *checked, implementation)
    return x if input.ndim == 4 else x[0]


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
    """A convolution of every sample with filters of its own, as a hypernetwork makes them.

    input (B, C, H, W), weight (B, F, C/groups, R, S), bias (B, F) or (F,). Returns (B, F, P, Q) in the input's dtype,
    or autocast's; an input (C, H, W) is one sample. The gradients of weight and bias have their shapes. Raises as
    `conv2d` does, and RuntimeError for another number of samples. `implementation` is "triton", "reference" or "auto".

        y[b,f,p,q] = sum over c,r,s of x[b,c,h,w] * weight[b,f,c,r,s]
    """
    implementation = dispatch.requested(implementation)
    checked = arguments.conv2d(input, weight, bias, stride, padding, dilation, groups, varies="b")
    y = apply_operator("fprop", *checked, implementation)
    return y if input.ndim == 4 else y[0]


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
    """A convolution with filters of their own for every sample and position, as a network makes them from the image.

    input (B, C, H, W), weight (B, P, Q, F, C/groups, R, S), bias (F,), (B, F), (F, P, Q) or (B, F, P, Q). Returns
    (B, F, P, Q) in the input's dtype, or autocast's; an input (C, H, W) is one sample. The gradients of weight and bias
    have their shapes. Raises as `conv2d` does, and RuntimeError for another number of samples or positions.
    `implementation` is "triton", "reference" or "auto".

        y[b,f,p,q] = sum over c,r,s of x[b,c,h,w] * weight[b,p,q,f,c,r,s]
    """
    implementation = dispatch.requested(implementation)
    checked = arguments.conv2d(input, weight, bias, stride, padding, dilation, groups, varies="b p q")
    y = apply_operator("fprop", *checked, implementation)
    return y if input.ndim == 4 else y[0]
