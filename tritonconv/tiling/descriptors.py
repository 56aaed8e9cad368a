"""Who makes the TMA descriptors of a launch: the host, or each program.

Programs that build their own descriptors start some microseconds later. The host makes a descriptor once for each
address, and passes it to the kernel as an argument. But it can make only descriptors that all programs share.
"""

from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.gpu import Architecture
from tritonconv.tiling.tile import Tile


def can_fold(geometry: ConvGeometry, channels: int, block: int) -> bool:
    """Whether one TMA descriptor can describe all sub-images of the stride at once (`describe_folded`).

    The descriptor counts the columns that the stride skips as further channels of those that it keeps. The rows that
    the stride skips are an axis. So the stride must divide H and W, there must be one group, and `channels` must be a
    multiple of `block`.
    """
    return geometry.G == 1 and stride_divides(geometry) and channels % block == 0


def stride_divides(geometry: ConvGeometry) -> bool:
    """Whether the stride divides the rows and columns of the image."""
    return geometry.H % geometry.stride_h == 0 and geometry.W % geometry.stride_w == 0


def host_describes(tile: Tile, geometry: ConvGeometry, operator: Operator, architecture: Architecture) -> bool:
    """Whether the host makes the TMA descriptors of a launch of `operator` with `tile`.

    It does if `architecture.host_descriptors` is true, the tile uses TMA, and all programs can share the descriptors:

    - In fprop, if all taps see one sub-image, which begins with the first pixel, or if one descriptor has all
      sub-images (`can_fold`).
    - In dgrad, always.
    - In wgrad, if no block of positions overhangs an edge, and the stride is 1 or divides the image. Where a block
      overhangs, the descriptor must end with the pixel that the last position sees, which differs from tap to tap.

    A descriptor has no empty axis, so the host makes none if nothing is computed.
    """
    if not (architecture.host_descriptors and tile.uses_tma and min(geometry.B, geometry.C, geometry.F) > 0):
        return False
    match operator:
        case "fprop":
            if geometry.subimages_seen > 1:
                return can_fold(geometry, geometry.C, tile.BLOCK_K)
            return geometry.pad_h % geometry.stride_h == geometry.pad_w % geometry.stride_w == 0
        case "dgrad":
            return True
        case "wgrad":
            whole = geometry.P % tile.BLOCK_H == 0 and geometry.Q % tile.BLOCK_W == 0
            return whole and stride_divides(geometry)
