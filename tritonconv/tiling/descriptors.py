"""Who makes the TMA descriptors of a launch: the host, or each program."""

from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.gpu import Architecture
from tritonconv.tiling.tile import Tile


def host_describes(tile: Tile, geometry: ConvGeometry, operator: Operator, architecture: Architecture) -> bool:
    """Whether the host makes the TMA descriptors of a launch of `operator` with `tile`."""
    return architecture.host_descriptors and tile.uses_tma
