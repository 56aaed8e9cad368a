"""The table that `tritonconv.explain` returns: its rows, its notes and the legend below it."""

from collections.abc import Sequence
from dataclasses import dataclass

from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.tiling.tile import Tile

# The text of the table, and the meanings of its values. The meanings of values that occur are printed below the table.
HEADER = """\
Which implementation runs each convolution.
The rows of gradients say what backward would run, if it needed them.
"""
TITLES = ("layer", "pass", "operator", "implementation", "tile", "tile choice", "notes")
OPERATORS = {
    "fprop": "image and weight -> features: Conv2d forward, and the input gradient of ConvTranspose2d",
    "dgrad": "features and weight -> image: ConvTranspose2d forward, and the input gradient of Conv2d",
    "wgrad": "image and features -> weight: the weight gradient of both",
}
IMPLEMENTATIONS = {
    "triton": "fused Triton kernels",
    "reference": "plain PyTorch, as in tritonconv.reference",
}
ASKED_FOR = "The call, its layer, tritonconv.using or TRITONCONV_IMPLEMENTATION asks for the reference."
TILE_CHOICES = {
    "measured": "this tile was the fastest in measurements of such a layer on this GPU",
    "unmeasured": "chosen by the cost model, or the smallest tile because the chosen one did not fit on this GPU",
    "interpreter": "small, for Triton's interpreter (TRITON_INTERPRET=1), which runs the kernels slowly, for debugging",
}
ALIKE = "this tile was the fastest in measurements of such a layer on {}, a GPU like this one"


@dataclass(frozen=True)
class Choice:
    """One operator of one call: one row of the table that `explain` returns.

    `layer` is the name of the module that was called, or of the function. `computes` is "forward", "input gradient" or
    "weight gradient". `implementation` runs the operator. `reasons` says, for each implementation that was asked before
    it, why that one can not run the operator.

    `tile` is the tile that a kernel would be launched with, or None if no kernel runs. `measured` says whether that
    tile was the fastest in measurements of such a layer, on this GPU or on one like it. It is None if no kernel runs,
    or if Triton's interpreter runs it. `measured_on` is the name of the GPU that was measured, or None if `measured` is
    not true. `gpu` is the name of the GPU that would run the kernel, or None if no GPU would. In the rows of gradients,
    the incoming gradient is assumed to have the memory format of the layer's output.
    """

    layer: str
    computes: str
    operator: Operator
    implementation: str
    reasons: dict[str, str]
    geometry: ConvGeometry
    tile: Tile | None = None
    measured: bool | None = None
    measured_on: str | None = None
    gpu: str | None = None

    @property
    def notes(self) -> list[str]:
        """The reasons why Triton does not run this, as full sentences. Empty if Triton runs it."""
        if self.implementation == "reference" and not self.reasons:
            return [ASKED_FOR]
        reasons = self.reasons.items()
        return [f"{name.capitalize()} does not run this, because {reason.rstrip('.')}." for name, reason in reasons]

    @property
    def tile_choice(self) -> str:
        """The way in which the tile was chosen: a key of TILE_CHOICES, or "" if there is no tile.

        If it was measured on another GPU, like this one, this is "measured on" and the name of that GPU.
        """
        if self.tile is None:
            return ""
        if self.measured_on not in (None, self.gpu):
            return f"measured on {self.measured_on}"
        return "interpreter" if self.measured is None else "measured" if self.measured else "unmeasured"

    def cells(self, numbers: dict[str, int]) -> tuple[str, ...]:
        """Return the cells of this row, one for each of TITLES. A cell without a value is "".

        `numbers` maps each note to its number in the legend.
        """
        tile = "" if self.tile is None else str(self.tile)
        marks = " ".join(f"[{numbers[note]}]" for note in self.notes)
        return self.layer, self.computes, self.operator, self.implementation, tile, self.tile_choice, marks


class Explanation(list[Choice]):
    """The choices of a call or a model, in the order of its calls.

    `str` returns them as a table, without columns that would be empty. Below the table stand the numbered notes, and a
    legend of the values that occur. Without choices, `str` returns one sentence.
    """

    def __str__(self) -> str:
        if not self:
            return "There is nothing to explain, because no layer or function of tritonconv was called."
        notes = dict.fromkeys(note for choice in self for note in choice.notes)
        numbers = {note: number for number, note in enumerate(notes, 1)}
        rows = [TITLES, *(choice.cells(numbers) for choice in self)]
        columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
        table = aligned([(title, "-" * max(map(len, [title, *cells])), *cells) for title, *cells in columns])
        return "\n".join([HEADER, *table, *self.legend(numbers)])

    __repr__ = __str__

    def legend(self, numbers: dict[str, int]) -> list[str]:
        """Return the lines below the table: the numbered notes, and what operators, implementations and tiles mean.

        Only values that occur in the table are explained, and sections without values are left out. `numbers` maps each
        note to its number.
        """
        occurring = {name for choice in self for name in (choice.operator, choice.implementation, choice.tile_choice)}
        alike = {f"measured on {choice.measured_on}": ALIKE.format(choice.measured_on) for choice in self}
        sections = {
            "notes": {f"[{number}]": note for note, number in numbers.items()},
            "operator": only(OPERATORS, occurring),
            "implementation": only(IMPLEMENTATIONS, occurring),
            "tile, the block sizes of one program": tile_notation([choice.tile for choice in self if choice.tile]),
            "tile choice": only(alike | TILE_CHOICES, occurring),
        }
        lines = []
        for title, meanings in sections.items():
            if meanings:
                lines += ["", title, *(f"  {line}" for line in aligned([[*meanings], [*meanings.values()]]))]
        return lines


def only(meanings: dict[str, str], names: set[str]) -> dict[str, str]:
    """Return the entries of `meanings` whose key is in `names`, in the order of `meanings`."""
    return {name: meaning for name, meaning in meanings.items() if name in names}


def aligned(columns: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table from its columns, which have equally many cells.

    Cells are padded to the widest cell of their column. Two spaces separate columns, and lines do not end in spaces.
    """
    widths = [max(map(len, column)) for column in columns]
    rows = zip(*columns, strict=True)
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def tile_notation(tiles: list[Tile]) -> dict[str, str]:
    """Return the parts of a tile's name (`Tile.__str__`), mapped to what they mean.

    A part is quoted from the first of `tiles` that has it. Without tiles, the result is empty.
    """
    if not tiles:
        return {}
    M, N, K = tiles[0].BLOCK_M, tiles[0].BLOCK_N, tiles[0].BLOCK_K
    meanings = {
        f"{M}x{N}x{K}": f"BLOCK_M x BLOCK_N x BLOCK_K: {M} x {N} results, to each of which a step adds {K} products",
        f"w{tiles[0].num_warps}": "num_warps: warps of the program",
        f"s{tiles[0].num_stages}": "num_stages: software pipelining stages",
    }
    for tile in [tile for tile in tiles if tile.uses_tma][:1]:
        B, H, W = tile.BLOCK_B, tile.BLOCK_H, tile.BLOCK_W
        meanings[f":{B}.{H}.{W}"] = f"pixel block shape: TMA copies blocks of {B} x {H} x {W} (images, rows, columns)"
    if not all(tile.uses_tma for tile in tiles):
        meanings['no ":"'] = "gather: the program computes the address of each pixel, and does not use TMA"
    for tile in [tile for tile in tiles if tile.SPLIT_K > 1][:1]:
        n = tile.SPLIT_K
        meanings[f"/{n}"] = f"split-K: {n} programs share each sum, and another kernel adds their partial sums"
    return meanings
