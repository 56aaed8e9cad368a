"""The tile that `tiling.pick` picks, or another one if that has failed in this process."""

from dataclasses import replace

from tritonconv.launch import failures
from tritonconv.launch.failures import NoTma, TileTooLarge
from tritonconv.launch.plan import TileRequest
from tritonconv.tiling.catalogue import smallest_tile
from tritonconv.tiling.pick import pick
from tritonconv.tiling.tile import Tile


def tile_for(request: TileRequest) -> Tile:
    """Return the tile that `pick` picks for `request`, or another one if that failed in this process.

    If the operator's TMA kernel did not compile for the GPU, a tile without TMA is picked. If the picked tile was too
    large for the GPU, with whatever SPLIT_K, `smallest_tile` replaces it, with the same SPLIT_K.
    """
    if not failures.any_happened():
        return pick(*request)
    operator, gpu = request.operator, request.gpu
    if failures.happened(NoTma(operator, gpu)):
        request = request._replace(operands=replace(request.operands, tma_possible=False))
    tile = pick(*request)
    if failures.happened(TileTooLarge(operator, gpu, replace(tile, SPLIT_K=1))):
        smallest = smallest_tile(operator, request.operands.itemsize, request.operands.varies)
        return replace(smallest, SPLIT_K=tile.SPLIT_K)
    return tile
