"""Locally connected layers as a loop over positions in plain torch, the contender `loop`.

A user writes this to avoid the memory of unfold's patches: each position reads a slice of the image. Weights are of
shape (P, Q, F, C/G, R, S).
"""

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import pad

from tritonconv.geometry import ConvGeometry

# A position (p, q), and the rows and columns of the padded image that its taps fall on.
Window = tuple[int, int, slice, slice]


def fprop(x: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return the features y (B, F, P, Q): each position's slice of the image times its filters."""
    image, filters = padded(x, geometry).unflatten(1, (geometry.G, -1)), weight.unflatten(2, (geometry.G, -1))
    columns = [
        torch.einsum("bgcrs,gfcrs->bgf", image[..., rows, columns], filters[p, q])
        for p, q, rows, columns in windows(geometry)
    ]
    return torch.stack(columns, -1).reshape(geometry.feature_shape)


def dgrad(y: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return the image x (B, C, H, W): each position's features times its filters, added to its slice of the image."""
    features, filters = y.unflatten(1, (geometry.G, -1)), weight.unflatten(2, (geometry.G, -1))
    image = padded(y.new_zeros(geometry.image_shape), geometry)
    for p, q, rows, columns in windows(geometry):
        seen = torch.einsum("bgf,gfcrs->bgcrs", features[..., p, q], filters[p, q])
        image[..., rows, columns] += seen.flatten(1, 2)
    return image[..., geometry.pad_h : geometry.pad_h + geometry.H, geometry.pad_w : geometry.pad_w + geometry.W]


def wgrad(x: Tensor, y: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return the weight's gradient (P, Q, F, C/G, R, S): each position's slice times its features, summed over b."""
    image, features = (side.unflatten(1, (geometry.G, -1)) for side in (padded(x, geometry), y))
    weights = [
        torch.einsum("bgf,bgcrs->gfcrs", features[..., p, q], image[..., rows, columns])
        for p, q, rows, columns in windows(geometry)
    ]
    return torch.stack(weights).reshape(geometry.weight_shape)


def windows(geometry: ConvGeometry) -> Iterator[Window]:
    """Yield every position (p, q), and the rows and columns of the padded image that its taps fall on."""
    far_h, far_w = (geometry.R - 1) * geometry.dilation_h + 1, (geometry.S - 1) * geometry.dilation_w + 1
    for p, q in product(range(geometry.P), range(geometry.Q)):
        h, w = p * geometry.stride_h, q * geometry.stride_w
        yield p, q, slice(h, h + far_h, geometry.dilation_h), slice(w, w + far_w, geometry.dilation_w)


def padded(x: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return the image with zeros around it, or the image itself if there is no padding.

    There are `pad_h` rows of zeros above and below, and `pad_w` columns left and right.
    """
    h, w = geometry.pad_h, geometry.pad_w
    return pad(x, (w, w, h, h)) if h or w else x
