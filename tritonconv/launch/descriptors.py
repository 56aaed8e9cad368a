"""The TMA descriptors that the host makes. Their blocks are those of the descriptors that programs build.

`tiling.descriptors.host_describes` says which launches have them, and `tritonconv.kernels.tma` how programs build
theirs. Here a descriptor is only planned. `launch.kept_descriptors` fills it for an address, and keeps it.
"""

from typing import Any, NamedTuple

from torch import Tensor

from tritonconv.geometry import ConvGeometry, ceildiv
from tritonconv.tiling.tile import Tile


class HostDescriptor(NamedTuple):
    """A TMA descriptor that begins with the first element of `tensor`. `shape` and `strides` are in elements.

    Each load or store copies a block of `block_shape` elements. The last axis has a stride of 1. `tensor` is None in a
    plan that is kept.
    """

    tensor: Tensor | None
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    block_shape: tuple[int, ...]

    def in_triton(self) -> Any:
        """Return it as kernels take it by Triton's public interface, which fills a descriptor at each launch."""
        from triton.tools.tensor_descriptor import TensorDescriptor

        return TensorDescriptor(self.tensor, list(self.shape), list(self.strides), list(self.block_shape))


def fprop_descriptors(
    geometry: ConvGeometry, tile: Tile, x: Tensor, weight: Tensor, y: Tensor, *, folded: bool, copies_out: bool
) -> dict[str, Any]:
    """Return the descriptors that fprop takes, by their names, and None for the pointers whose place they take.

    If `folded`, one descriptor has all sub-images of x. `copies_out` says that TMA copies blocks of y out. Otherwise y
    is a pointer.
    """
    stride = (geometry.stride_h, geometry.stride_w)
    if folded:
        image = describe_folded(x, stride, tile, tile.BLOCK_K)
    else:
        image = describe_side(x, geometry.G, tile, tile.BLOCK_K, stride)
    return dict(
        x_ptr=None,
        weight_ptr=None,
        y_ptr=None if copies_out else y,
        image=image,
        weight=describe_matrix(weight, geometry.G, geometry.F, (tile.BLOCK_N, tile.BLOCK_K)),
        result=describe_result(geometry, tile, y, folded=False) if copies_out else None,
    )


def dgrad_descriptors(
    geometry: ConvGeometry,
    tile: Tile,
    y: Tensor,
    weight: Tensor,
    x: Tensor,
    *,
    transposed: bool,
    folded: bool,
    copies_out: bool,
) -> dict[str, Any]:
    """Return the descriptors that dgrad takes, by their names, and None for the pointers whose place they take.

    `transposed` says that the weight lies as (group, F, R, S, C). If `folded`, one descriptor has all phases of x.
    `copies_out` says that TMA copies blocks of x out. Otherwise x is a pointer.
    """
    rows, block = geometry.C, (tile.BLOCK_N, tile.BLOCK_K)
    if transposed:
        rows, block = geometry.F, (tile.BLOCK_K, tile.BLOCK_N)
    return dict(
        y_ptr=None,
        weight_ptr=None,
        x_ptr=None if copies_out else x,
        features=describe_side(y, geometry.G, tile, tile.BLOCK_K),
        weight=describe_matrix(weight, geometry.G, rows, block),
        result=describe_result(geometry, tile, x, folded) if copies_out else None,
    )


def wgrad_descriptors(geometry: ConvGeometry, tile: Tile, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Return the descriptors that wgrad takes, by their names, and None for the pointers whose place they take.

    The channels of all groups are one axis. With a stride, one descriptor has all sub-images of x: the rows that the
    stride skips are one more axis. A block is one position of several images, or positions of one row, or whole rows.
    The order of the axes is that of `wgrad_tma_kernel`.
    """
    stride = (geometry.stride_h, geometry.stride_w)
    folded = max(stride) > 1
    skipped = (geometry.stride_w - 1) * x.stride(3) if folded else 0
    pixels, positions = pixel_axes(x, tile, stride, folded), pixel_axes(y, tile, (1, 1), folded=False)
    if tile.BLOCK_B == tile.BLOCK_K:  # one position of several images, which are the last axis before the channels
        pixels, positions = ([*axes[1:], axes[0]] for axes in (pixels, positions))
    elif tile.BLOCK_W < tile.BLOCK_K:  # whole rows
        positions = [Axis(geometry.B * geometry.P * geometry.Q, y.stride(3), tile.BLOCK_K)]
    return dict(
        x_ptr=None,
        y_ptr=None,
        image=describe(x, [*pixels, Axis(skipped + geometry.C, 1, tile.BLOCK_N)]),
        features=describe(y, [*positions, Axis(geometry.F, 1, tile.BLOCK_M)]),
    )


class Axis(NamedTuple):
    """One axis of a descriptor: its size, its stride in elements, and how much of it a block has."""

    size: int
    stride: int
    block: int


def describe(tensor: Tensor, axes: list[Axis]) -> HostDescriptor:
    """Return a descriptor of these axes of `tensor`."""
    shape, strides, block_shape = zip(*axes, strict=True)
    return HostDescriptor(tensor, shape, strides, block_shape)


def pixel_axes(side: Tensor, tile: Tile, stride: tuple[int, int], folded: bool) -> list[Axis]:
    """Return the axes (B, rows, columns) of a side: of every stride-th pixel, from the first on.

    A block has the pixels of a block of `tile`. If `folded`, the rows that the stride skips are one more axis, behind
    the rows. The columns that it skips are left to the axis of channels.
    """
    B, _, H, W = side.shape
    along_b, _, along_h, along_w = side.stride()
    stride_h, stride_w = stride
    skipped = [Axis(stride_h, along_h, 1)] if folded else []
    return [
        Axis(B, along_b, tile.BLOCK_B),
        Axis(ceildiv(H, stride_h), stride_h * along_h, tile.BLOCK_H),
        *skipped,
        Axis(ceildiv(W, stride_w), stride_w * along_w, tile.BLOCK_W),
    ]


def describe_side(
    side: Tensor, groups: int, tile: Tile, block: int, stride: tuple[int, int] = (1, 1)
) -> HostDescriptor:
    """Return a descriptor (B, rows, columns, G, N) of a side: of every stride-th pixel, from the first on.

    A block has the pixels of a block of `tile`, and `block` channels.
    """
    channels = side.shape[1] // groups
    pixels = pixel_axes(side, tile, stride, folded=False)
    return describe(side, [*pixels, Axis(groups, channels, 1), Axis(channels, 1, block)])


def describe_folded(side: Tensor, stride: tuple[int, int], tile: Tile, block: int) -> HostDescriptor:
    """Return the descriptor that `tritonconv.kernels.tma.descriptors.describe_folded` builds of a side.

    A block has the pixels of a block of `tile`, and `block` channels.
    """
    pixels = pixel_axes(side, tile, stride, folded=True)
    return describe(side, [*pixels, Axis(stride[1] * side.shape[1], 1, block)])


def describe_matrix(weight: Tensor, groups: int, rows: int, block: tuple[int, int]) -> HostDescriptor:
    """Return a descriptor (G, rows of a group, columns) of a weight that lies without gaps.

    `rows` counts the rows of all groups. A block has one group, and the rows and columns in `block`.
    """
    columns = weight.numel() // rows
    block_rows, block_columns = block
    return describe(
        weight,
        [
            Axis(groups, rows // groups * columns, 1),
            Axis(rows // groups, columns, block_rows),
            Axis(columns, 1, block_columns),
        ],
    )


def describe_result(geometry: ConvGeometry, tile: Tile, side: Tensor, folded: bool) -> HostDescriptor:
    """Return a descriptor of a result that TMA copies out: in halves if the tile has `halves`.

    If `folded`, the result has several phases.
    """
    copied = tile.BLOCK_N // 2 if tile.halves else tile.BLOCK_N
    if folded:
        return describe_folded(side, (geometry.stride_h, geometry.stride_w), tile, copied)
    return describe_side(side, geometry.G, tile, copied)
