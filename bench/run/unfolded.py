"""Layers whose weight varies as one matrix product over an unfold view, the contender `unfold-compile`.

A user writes this and compiles it: `Tensor.unfold` views the image as patches without a copy, and one `einsum`
multiplies them with the weight. The weight is (F, C/G, R, S) with the letters that it varies over in front.
"""

import torch
from torch import Tensor
from torch.nn.functional import fold

from bench.run.loop import padded
from tritonconv.geometry import ConvGeometry


def fprop(x: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return the features y (B, F, P, Q): each position's patch times its filters."""
    seen, filters = patches(x, geometry).unflatten(1, (geometry.G, -1)), weight.unflatten(-4, (geometry.G, -1))
    return torch.einsum(f"bgcpqrs,{letters(geometry)}gfcrs->bgfpq", seen, filters).flatten(1, 2)


def dgrad(y: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return the image x (B, C, H, W): each position's features times its filters, added up where patches overlap."""
    features, filters = y.unflatten(1, (geometry.G, -1)), weight.unflatten(-4, (geometry.G, -1))
    seen = torch.einsum(f"bgfpq,{letters(geometry)}gfcrs->bgcrspq", features, filters)
    return folded(seen.flatten(1, 2), geometry)


def wgrad(x: Tensor, y: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return the weight's gradient: each position's patch times its features, summed over what shares a weight."""
    seen, features = (side.unflatten(1, (geometry.G, -1)) for side in (patches(x, geometry), y))
    return torch.einsum(f"bgcpqrs,bgfpq->{letters(geometry)}gfcrs", seen, features).flatten(-5, -4)


def letters(geometry: ConvGeometry) -> str:
    """Return the letters that the weight varies over, without spaces between them."""
    return geometry.varies.replace(" ", "")


def patches(x: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return the pixels under each tap of each position, of shape (B, C, P, Q, R, S): a view of the padded image."""
    far_h, far_w = (geometry.R - 1) * geometry.dilation_h + 1, (geometry.S - 1) * geometry.dilation_w + 1
    windows = padded(x, geometry).unfold(2, far_h, geometry.stride_h).unfold(3, far_w, geometry.stride_w)
    return windows[..., :: geometry.dilation_h, :: geometry.dilation_w]


def folded(seen: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return the image (B, C, H, W) to which patches (B, C, R, S, P, Q) add up."""
    pairs = dict(
        kernel_size=(geometry.R, geometry.S),
        dilation=(geometry.dilation_h, geometry.dilation_w),
        padding=(geometry.pad_h, geometry.pad_w),
        stride=(geometry.stride_h, geometry.stride_w),
    )
    return fold(seen.flatten(1, 3).flatten(2), (geometry.H, geometry.W), **pairs)
