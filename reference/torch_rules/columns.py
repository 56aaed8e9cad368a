"""`torch.nn.functional.unfold` and `fold`, for all tensors that torch's convolutions take, and with an axis per letter.

torch's own refuse integers, and images without channels or pixels. The pixel that a position sees through a tap is
counted from the first one here: h = p*stride_h + r*dilation_h and w = q*stride_w + s*dilation_w.
"""

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from tritonconv.reference.torch_rules.checks import Pair


def torch_unfold(x: Tensor, taps: Pair, size: Pair, dilation: Pair, stride: Pair) -> Tensor:
    """patches[b,c,r,s,p,q] = x[b,c,h,w]. Return the pixels that each position sees, copied out of the image.

    Where torch's `unfold` refuses, h and w index the image. They also do while torch.export traces, because torch can
    not prove that the sizes of `unfold` fit together. Elsewhere they do not: torch adds up the gradient of an indexed
    image in another order in every run.

    Args:
        x: images of shape (B, C, H, W), which reach at least as far as the positions see.
        taps, size: (R, S) and (P, Q).
        dilation, stride: pairs (rows, columns) in pixels.
    """
    (R, S), (P, Q) = taps, size
    if not torch.compiler.is_exporting() and torch_takes(x):
        reach_h, reach_w = reach(taps, size, dilation, stride)
        columns = functional.unfold(x[:, :, :reach_h, :reach_w], taps, dilation, stride=stride)
        return rearrange(columns, "b (c r s) (p q) -> b c r s p q", r=R, s=S, p=P, q=Q)
    r, s, p, q = (torch.arange(n, device=x.device) for n in (R, S, P, Q))
    h, w = p * stride[0] + r[:, None] * dilation[0], q * stride[1] + s[:, None] * dilation[1]
    return x[:, :, h[:, None, :, None], w[:, None, :]]


def torch_fold(patches: Tensor, dilation: Pair, stride: Pair) -> Tensor:
    """x[b,c,h,w] = sum over all p,q,r,s that fall on h,w of patches[b,c,r,s,p,q]. Return the sums as an image.

    Where torch's `fold` refuses, the pixels that one tap sees are added to the image, tap after tap.

    Args:
        patches: shape (B, C, R, S, P, Q).
        dilation, stride: pairs (rows, columns) in pixels.

    Returns:
        Images of shape (B, C, H, W), which reach exactly as far as the patches.
    """
    B, C, R, S, P, Q = patches.shape
    size = reach((R, S), (P, Q), dilation, stride)
    if torch_takes(patches):
        columns = rearrange(patches, "b c r s p q -> b (c r s) (p q)")
        return functional.fold(columns, size, (R, S), dilation, stride=stride)
    x = patches.new_zeros(B, C, *size)
    for r in range(R):
        for s in range(S):
            seen = x[:, :, r * dilation[0] :: stride[0], s * dilation[1] :: stride[1]][:, :, :P, :Q]
            seen += patches[:, :, r, s]
    return x


def torch_takes(tensor: Tensor) -> bool:
    """Whether torch's `unfold` and `fold` take a tensor (B, C, ...) of this dtype and shape."""
    return 0 not in tensor.shape[1:] and (tensor.is_floating_point() or tensor.is_complex())


def reach(taps: Pair, size: Pair, dilation: Pair, stride: Pair) -> Pair:
    """Return how many rows and columns lie between the first pixel seen and the last, both included.

    The first position sees the first pixel through the first tap. The last position sees the last pixel through the
    last tap.
    """
    return (
        (size[0] - 1) * stride[0] + (taps[0] - 1) * dilation[0] + 1,
        (size[1] - 1) * stride[1] + (taps[1] - 1) * dilation[1] + 1,
    )
