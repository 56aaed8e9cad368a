"""Layers whose weight varies as one grouped convolution of torch, the contender `grouped`.

If each sample has a weight, users fold the batch into the groups: the image (B, C, H, W) becomes (1, B*C, H, W) with
B*G groups. If each location has one, users unfold the image, and the locations become groups of a 1x1 convolution with
P*Q*G groups. The gradients are those that torch's autograd finds for such a convolution.
"""

from typing import Any

from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d
from torch.nn.grad import conv2d_input, conv2d_weight

from bench.run.unfolded import folded, patches
from tritonconv.geometry import ConvGeometry


def fprop(x: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return the features y (B, F, P, Q)."""
    if geometry.per_location:
        groups = geometry.P * geometry.Q * geometry.G
        return positions_first(conv2d(columns(x, geometry), kernels(weight), groups=groups), geometry)
    result = conv2d(one_image(x), weight.flatten(0, 1), **arguments(geometry))
    return result.view(geometry.feature_shape)


def dgrad(y: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return the image x (B, C, H, W)."""
    if geometry.per_location:
        groups = geometry.P * geometry.Q * geometry.G
        seen = conv_transpose2d(features(y, geometry), kernels(weight), groups=groups)
        shape = (geometry.B, geometry.P, geometry.Q, geometry.G, geometry.R, geometry.S, geometry.C // geometry.G)
        return folded(seen.view(shape).permute(0, 3, 6, 4, 5, 1, 2).flatten(1, 2), geometry)
    folded_shape = (1, geometry.B * geometry.C, geometry.H, geometry.W)
    result: Tensor = conv2d_input(folded_shape, weight.flatten(0, 1), one_image(y), **arguments(geometry))
    return result.view(geometry.image_shape)


def wgrad(x: Tensor, y: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return the weight's gradient, of the weight's shape."""
    F, C = geometry.F, geometry.C // geometry.G
    if geometry.per_location:
        positions = geometry.P * geometry.Q
        shape = (positions * F, geometry.R * geometry.S * C, 1, 1)
        found = conv2d_weight(columns(x, geometry), shape, features(y, geometry), groups=positions * geometry.G)
        filters: Tensor = found.view(geometry.P, geometry.Q, F, geometry.R, geometry.S, C)
        return filters.movedim(-1, -3)
    shape = (geometry.B * F, C, geometry.R, geometry.S)
    result: Tensor = conv2d_weight(one_image(x), shape, one_image(y), **arguments(geometry))
    return result.view(geometry.weight_shape)


def arguments(geometry: ConvGeometry) -> dict[str, Any]:
    """Return the arguments of the convolution whose groups are those of all samples."""
    return dict(
        stride=(geometry.stride_h, geometry.stride_w),
        padding=(geometry.pad_h, geometry.pad_w),
        dilation=(geometry.dilation_h, geometry.dilation_w),
        groups=geometry.B * geometry.G,
    )


def one_image(side: Tensor) -> Tensor:
    """Return the images (B, N, h, w) as one image (1, B*N, h, w): a view if they are contiguous."""
    return side.reshape(1, -1, *side.shape[2:])


def columns(x: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return the patches of an image as channels of one pixel, of shape (B, P*Q*G * R*S*C/G, 1, 1)."""
    seen: Tensor = patches(x, geometry).unflatten(1, (geometry.G, -1))  # b g c p q r s
    return seen.permute(0, 3, 4, 1, 5, 6, 2).reshape(geometry.B, -1, 1, 1)


def features(y: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return the features as channels of one pixel, of shape (B, P*Q*F, 1, 1): a view if they are channels_last."""
    return y.permute(0, 2, 3, 1).reshape(geometry.B, -1, 1, 1)


def positions_first(result: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return features of shape (B, P*Q*F, 1, 1) as a view of shape (B, F, P, Q)."""
    return result.view(geometry.B, geometry.P, geometry.Q, geometry.F).permute(0, 3, 1, 2)


def kernels(weight: Tensor) -> Tensor:
    """Return the weight (P, Q, F, C/G, R, S) of 1x1 taps, (P*Q*F, R*S*C/G, 1, 1): a view if its channels lie last."""
    filters: Tensor = weight.movedim(-3, -1).flatten(0, 2).flatten(1)[..., None, None]
    return filters
