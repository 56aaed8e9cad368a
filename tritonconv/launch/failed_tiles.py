"""The tile that `tiling.pick` chooses, or another where it failed in this process."""

from dataclasses import replace

from tritonconv.geometry import Operator
from tritonconv.gpu import Gpu
from tritonconv.launch.plan import Asked
from tritonconv.tiling.catalogue import least
from tritonconv.tiling.pick import pick
from tritonconv.tiling.tile import Tile

# The tiles that were picked and found to be too large, with a SPLIT_K of 1.
too_large: set[tuple[Operator, Gpu, Tile]] = set()
# Where blocks of pixels turned out not to be copied: by which operator, on which device.
gathered_only: set[tuple[Operator, Gpu]] = set()


def tile_for(asked: Asked) -> Tile:
    """The tile that is picked, or in the place of one that is too large the least."""
    if gathered_only and (asked.operator, asked.device) in gathered_only:
        asked = asked._replace(operands=replace(asked.operands, blocks=False))
    tile = pick(*asked)
    if too_large and (asked.operator, asked.device, replace(tile, SPLIT_K=1)) in too_large:
        return replace(least(asked.operator, asked.operands.itemsize, asked.operands.varies), SPLIT_K=tile.SPLIT_K)
    return tile
