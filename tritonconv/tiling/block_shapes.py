"""The shapes of a TMA block of pixels: how many images, rows and columns it has."""

from dataclasses import replace

from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.tiling.tile import Tile

# Images, rows and columns of a block of pixels.
BlockShape = tuple[int, int, int]


def pixels_of(tile: Tile, operator: Operator) -> int:
    """Return how many pixels a TMA block of `tile` has: BLOCK_K in wgrad, or else BLOCK_M."""
    return tile.BLOCK_K if operator == "wgrad" else tile.BLOCK_M


def candidate_shapes(pixels: int, operator: Operator) -> list[BlockShape]:
    """Return the shapes that a block of this many pixels may have.

    For fprop and dgrad these are one rectangle in one image, squares in one or more images, and a line in one row. The
    smallest square is one pixel of each image. For wgrad they are a line in one row and a line of images; `whole_rows`
    may add one more. Blocks of another shape would pass through registers on their way to wgrad's tensor cores.
    """
    if operator == "wgrad":
        return [(1, 1, pixels), (pixels, 1, 1)]
    side = 1
    while 4 * side * side <= pixels:
        side *= 2
    squares = [(pixels // side**2, side, side) for side in (16, 8, 4, 2, 1) if side**2 <= pixels]
    return list(dict.fromkeys([(1, side, pixels // side), *squares, (1, 1, pixels)]))


def whole_rows(pixels: int, geometry: ConvGeometry) -> list[BlockShape]:
    """Return a list with the shape of `pixels` pixels that are two or more whole rows of positions, or whole images.

    The list is empty if `pixels` is not a multiple of Q, or less than 2*Q. It is also empty if the rows neither divide
    the P rows of an image nor are a multiple of P.
    """
    rows = pixels // geometry.Q
    if rows < 2 or pixels % geometry.Q or (geometry.P % rows and rows % geometry.P):
        return []
    return [(1, rows, geometry.Q) if rows <= geometry.P else (rows // geometry.P, geometry.P, geometry.Q)]


def with_shape(tile: Tile, shape: BlockShape) -> Tile:
    """Return the tile with its pixels in blocks of `shape`. This makes it a tile for TMA."""
    B, H, W = shape
    return replace(tile, BLOCK_B=B, BLOCK_H=H, BLOCK_W=W)


def with_some_shape(tile: Tile, operator: Operator) -> Tile:
    """Return the tile with the first of its candidate shapes. Its shared memory is the same for every shape."""
    return with_shape(tile, candidate_shapes(pixels_of(tile, operator), operator)[0])


def with_best_shape(tile: Tile, geometry: ConvGeometry, operator: Operator) -> Tile:
    """Return the tile with the shape that covers the pixels that `operator` runs over in the fewest blocks.

    The number of blocks counts times `Tile.tlb_slowdown`, which differs from 1 only for wgrad. If several shapes need
    as few, the first one is taken: `whole_rows`, then `candidate_shapes`. A tile without TMA is returned unchanged.
    """
    if not tile.uses_tma:
        return tile
    found = [with_shape(tile, shape) for shape in candidate_shapes(pixels_of(tile, operator), operator)]
    if operator == "wgrad":
        found = [with_shape(tile, shape) for shape in whole_rows(tile.BLOCK_K, geometry)] + found
    return min(found, key=lambda tile: tile.pixel_blocks(geometry, operator) * tile.tlb_slowdown(geometry, operator))
