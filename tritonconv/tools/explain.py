"""`tritonconv.explain`: which implementation runs each convolution of a call or a model, and why."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tritonconv.call import Call
from tritonconv.geometry import COMPUTED_BY, TAKES, ConvGeometry, Operator
from tritonconv.gpu import INTERPRETER
from tritonconv.launch.layout import allocate_results
from tritonconv.operators.decision import decide
from tritonconv.tiling.pick import measured_for
from tritonconv.tiling.tile import Tile

# The text of the table, and the meanings of its values: those that occur are printed below it.
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
    "unmeasured": "chosen by the cost model, because no measurement of such a layer on this GPU can be used",
    "interpreter": "small, for Triton's interpreter (TRITON_INTERPRET=1), which runs the kernels slowly, for debugging",
}


@dataclass(frozen=True)
class Choice:
    """One operator of one call: one row of the table that `explain` returns.

    `layer` is the name of the module, and `computes` is "forward", "input gradient" or "weight gradient".
    `implementation` runs the operator, and `reasons` says why each implementation that is preferred to it can not.

    `tile` is the one that a kernel would be launched with, or None if no kernel runs. `measured` says whether that tile
    was the fastest in measurements on such a GPU. It is None if no kernel runs, or Triton's interpreter runs it. In the
    rows of gradients, the incoming gradient is assumed to have the memory format of the layer's output.
    """

    layer: str
    computes: str
    operator: Operator
    implementation: str
    reasons: dict[str, str]
    geometry: ConvGeometry
    tile: Tile | None = None
    measured: bool | None = None

    @property
    def notes(self) -> list[str]:
        """Why Triton does not run this, in full sentences."""
        if self.implementation == "reference" and not self.reasons:
            return [ASKED_FOR]
        reasons = self.reasons.items()
        return [f"{name.capitalize()} does not run this, because {reason.rstrip('.')}." for name, reason in reasons]

    @property
    def tile_choice(self) -> str:
        """How the tile was chosen: a key of TILE_CHOICES, or "" if there is no tile."""
        if self.tile is None:
            return ""
        return "interpreter" if self.measured is None else "measured" if self.measured else "unmeasured"

    def cells(self, numbers: dict[str, int]) -> tuple[str, ...]:
        """The row below TITLES. `numbers` numbers the notes."""
        tile = "" if self.tile is None else str(self.tile)
        marks = " ".join(f"[{numbers[note]}]" for note in self.notes)
        return self.layer, self.computes, self.operator, self.implementation, tile, self.tile_choice, marks


class Explanation(list[Choice]):
    """The choices of a call or a model, in the order of its calls.

    `str` returns them as a table. Below it stand the numbered notes, and a legend of the values that occur.
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
        """The lines below the table: the numbered notes, and what the operators, implementations and tiles mean."""
        occurring = {name for choice in self for name in (choice.operator, choice.implementation, choice.tile_choice)}
        sections = {
            "notes": {f"[{number}]": note for note, number in numbers.items()},
            "operator": only(OPERATORS, occurring),
            "implementation": only(IMPLEMENTATIONS, occurring),
            "tile, the block sizes of one program": tile_notation([choice.tile for choice in self if choice.tile]),
            "tile choice": only(TILE_CHOICES, occurring),
        }
        lines = []
        for title, meanings in sections.items():
            if meanings:
                lines += ["", title, *(f"  {line}" for line in aligned([[*meanings], [*meanings.values()]]))]
        return lines


def only(meanings: dict[str, str], names: set[str]) -> dict[str, str]:
    """The meanings of these names."""
    return {name: meaning for name, meaning in meanings.items() if name in names}


def aligned(columns: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, from its columns."""
    widths = [max(map(len, column)) for column in columns]
    rows = zip(*columns, strict=True)
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def tile_notation(tiles: list[Tile]) -> dict[str, str]:
    """What each part of a tile's name (`Tile.__str__`) means. A part is quoted from the first tile that has it."""
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


def explain(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Call `function(*args, **kwargs)`, and return which implementation runs each convolution, and why.

    Print the result before a training loop, to see which layers run in Triton. Call `explain` within the
    `torch.autocast` and `tritonconv.using` of the loop, because both change what runs.

    Forward runs once, without gradients. State that the model updates in forward is updated, for example the running
    averages of BatchNorm. Backward does not run. The rows of gradients say what would run for each gradient.

    Args:
        function: a model, a layer or a function of tritonconv.
        args, kwargs: its arguments.

    Returns:
        A list with one row for each operator call. `print` shows it as a table, with notes and a legend below. Each row
        has the attributes `layer`, `computes`, `operator`, `implementation`, `reasons`, `geometry`, `tile` and
        `measured`.

    Raises:
        NotImplementedError: if a layer insists on Triton, and Triton can not run it. The message says why.

    >>> import torch, tritonconv
    >>> layer = tritonconv.Conv2d(3, 8, 3, dtype=torch.float64)
    >>> explanation = tritonconv.explain(layer, torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    >>> print(explanation)
    Which implementation runs each convolution.
    The rows of gradients say what backward would run, if it needed them.
    <BLANKLINE>
    layer   pass             operator  implementation  notes
    ------  ---------------  --------  --------------  -----
    Conv2d  forward          fprop     reference       [1]
    Conv2d  input gradient   dgrad     reference       [1]
    Conv2d  weight gradient  wgrad     reference       [1]
    <BLANKLINE>
    notes
      [1]  Triton does not run this, because the kernels compute in float16, bfloat16 or float32, not in float64.
    <BLANKLINE>
    operator
      fprop  image and weight -> features: Conv2d forward, and the input gradient of ConvTranspose2d
      dgrad  features and weight -> image: ConvTranspose2d forward, and the input gradient of Conv2d
      wgrad  image and features -> weight: the weight gradient of both
    <BLANKLINE>
    implementation
      reference  plain PyTorch, as in tritonconv.reference
    >>> [row.layer for row in explanation if row.implementation != "triton"]
    ['Conv2d', 'Conv2d', 'Conv2d']
    """
    notes = _Notes(getattr(function, "__name__", type(function).__name__))
    handles = []
    for name, module in function.named_modules() if isinstance(function, nn.Module) else ():
        if name:
            handles.append(module.register_forward_pre_hook(notes.enter(name)))
            handles.append(module.register_forward_hook(notes.leave, always_call=True))
    try:
        with torch.no_grad(), Listener(notes.note):
            function(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return notes.explanation


class Listener(TorchDispatchMode):
    """While active, pass every call of an operator in this thread to `note`. `warmup` uses it, too."""

    def __init__(self, note: Callable[[Call], None]) -> None:
        super().__init__()
        self.note = note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "tritonconv":
            self.note(Call(func._opname, args))
        return func(*args, **(kwargs or {}))


class _Notes:
    """The rows of an explanation while the model runs, and the names of the modules that are being called."""

    def __init__(self, name: str) -> None:
        self.path = [name]
        self.explanation = Explanation()

    def enter(self, name: str) -> Callable[..., None]:
        """Return the hook that runs before the forward of the module `name`."""
        return lambda *_: self.path.append(name)

    def leave(self, *_: Any) -> None:
        """Run after the forward of a module."""
        self.path.pop()

    def note(self, call: Call) -> None:
        """Add the row of a call, and one for the gradient of each of its factors. Tensors without data suffice."""
        call = call.without_data()
        gradient, *_ = allocate_results(call, call.factors[0])
        self.add("forward", call)
        for factor in COMPUTED_BY:
            if factor in TAKES[call.operator]:
                computes = "weight gradient" if factor == "weight" else "input gradient"
                self.add(computes, call.of_gradient(factor, gradient))

    def add(self, computes: str, call: Call) -> None:
        """Decide `call`, and add its row."""
        decision, known = decide(call), None
        if decision.plan is not None and decision.plan.request.gpu != INTERPRETER:
            known = measured_for(*decision.plan.request) == decision.plan.tile
        self.explanation.append(
            Choice(
                layer=self.path[-1],
                computes=computes,
                operator=call.operator,
                implementation=decision.implementation,
                reasons=decision.reasons,
                geometry=call.geometry,
                tile=None if decision.plan is None else decision.plan.tile,
                measured=known,
            )
        )
