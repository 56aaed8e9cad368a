"""How the pixels of a block lie in images, rows and columns, where a block is copied whole."""

from dataclasses import replace

from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.tiling.tile import Tile

# Images, rows and columns of a block of pixels.
BlockShape = tuple[int, int, int]


def pixels_of(tile: Tile, operator: Operator) -> int:
    """How many pixels a block of `tile` has."""
    return tile.BLOCK_K if operator == "wgrad" else tile.BLOCK_M


def candidate_shapes(pixels: int, operator: Operator) -> list[BlockShape]:
    """How a block of so many pixels may lie: in one image, in squares of some, in a pixel of many, in a line. Of wgrad
    only as a line of a row or of images, and in `whole_rows`, if there are such: others would pass through registers on
    their way to the tensor cores.
    """
    if operator == "wgrad":
        return [(1, 1, pixels), (pixels, 1, 1)]
    side = 1
    while 4 * side * side <= pixels:
        side *= 2
    squares = [(pixels // side**2, side, side) for side in (16, 8, 4, 2, 1) if side**2 <= pixels]
    return list(dict.fromkeys([(1, side, pixels // side), *squares, (1, 1, pixels)]))


def whole_rows(pixels: int, geometry: ConvGeometry) -> list[BlockShape]:
    """So many pixels as whole rows of an image's positions, or of several images', if they can be: none overhangs."""
    rows = pixels // geometry.Q
    if rows < 2 or pixels % geometry.Q or (geometry.P % rows and rows % geometry.P):
        return []
    return [(1, rows, geometry.Q) if rows <= geometry.P else (rows // geometry.P, geometry.P, geometry.Q)]


def with_shape(tile: Tile, shape: BlockShape) -> Tile:
    """The tile with its pixels in blocks of that shape."""
    B, H, W = shape
    return replace(tile, BLOCK_B=B, BLOCK_H=H, BLOCK_W=W)


def with_some_shape(tile: Tile, operator: Operator) -> Tile:
    """The tile with its pixels in blocks of some shape, in which its memory can be counted."""
    return with_shape(tile, candidate_shapes(pixels_of(tile, operator), operator)[0])


def with_best_shape(tile: Tile, geometry: ConvGeometry, operator: Operator) -> Tile:
    """The tile with its pixels, if they lie in blocks, in the shape that covers those of `geometry` with the fewest,
    where none strains the hardware.
    """
    if not tile.uses_tma:
        return tile
    found = [with_shape(tile, shape) for shape in candidate_shapes(pixels_of(tile, operator), operator)]
    if operator == "wgrad":
        found = [with_shape(tile, shape) for shape in whole_rows(tile.BLOCK_K, geometry)] + found
    return min(found, key=lambda tile: tile.pixel_blocks(geometry, operator) * tile.strain(geometry, operator))
