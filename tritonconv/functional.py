"""`torch.nn.functional.conv2d` and `conv_transpose2d` on the operators.

Strings, ints, missing batches and autocast end here.
"""

from torch import Tensor

from reference import arguments
from reference.arguments import Ints
from tritonconv import dispatch
from tritonconv.autograd import call


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
    wish = dispatch.requested(implementation)
    checked = arguments.conv2d(input, weight, bias, stride, padding, dilation, groups)
    y = call("fprop", *checked, wish)
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
    wish = dispatch.requested(implementation)
    checked = arguments.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
    x = call("dgrad", *checked, wish)
    return x if input.ndim == 4 else x[0]
