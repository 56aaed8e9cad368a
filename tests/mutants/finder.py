"""Every place in the kernels and launchers that can be changed in one of the `kinds`."""

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.kinds import KINDS, Change
from tests.mutants.text import Text

ROOT = Path(__file__).parents[2]
# What decides which addresses and sums a kernel computes. Not here: what only chooses a tile, or compiles ahead.
LAUNCHERS = {
    "tritonconv/kept.py": {"again", "described", "keep", "key", "without_tensors"},
    "tritonconv/launch.py": {"lay", "fprop", "dgrad", "wgrad", "plan", "sum_of_partials", "in_line", "partial_sums"},
    "tritonconv/tile.py": {"blocks", "columns", "pixel_blocks"},
    "tritonconv/geometry.py": {
        "phases",
        "launched",
        "_shared_out",
        "ceildiv",
        "pixels",
        "periods",
        "pointwise",
        "in_line",
    },
    "tritonconv/operands.py": {"integers", "addend", "gathering", "periods", "walk", "summary"},
    "tritonconv/layout.py": {
        "adjacent",
        "aligned",
        "alignment",
        "bias_strides",
        "in_blocks",
        "last_in_memory",
        "line",
        "summand",
        "whole_stores",
        "wide",
    },
}


@dataclass(frozen=True)
class Mutant:
    """One change of one function. `occurrence` counts the same changes from the top of the function, from 1."""

    file: str
    function: str
    old: str
    new: str
    occurrence: int
    kind: str
    line: int
    source: bytes

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What stays the same when lines move."""
        return self.file, self.function, self.old, self.new, self.occurrence

    def __str__(self) -> str:
        again = f" (occurrence {self.occurrence})" if self.occurrence > 1 else ""
        return f"{self.file}:{self.line} {self.function}: {self.kind}: {self.old} -> {self.new}{again}"


def find(root: Path = ROOT) -> list[Mutant]:
    """All mutants of the repository at `root`, in the order of their places."""
    kernels = sorted(path.relative_to(root).as_posix() for path in (root / "tritonconv/kernels").glob("*.py"))
    return [mutant for file in [*kernels, *LAUNCHERS] for mutant in mutants_of(root, file) if (root / file).exists()]


def mutants_of(root: Path, file: str) -> Iterator[Mutant]:
    if not (root / file).exists():
        return
    text = Text((root / file).read_bytes())
    seen: Counter[tuple[str, str, str]] = Counter()
    sources = {text.source}
    for function in ast.walk(text.tree):
        if isinstance(function, ast.FunctionDef) and function.name in LAUNCHERS.get(file, {function.name}):
            for node, kind, change in changes_in(function, text):
                old, new, source = applied(node, change, text)
                if source not in sources:
                    sources.add(source)
                    seen[function.name, old, new] += 1
                    yield Mutant(
                        file, function.name, old, new, seen[function.name, old, new], kind, node.lineno, source
                    )


def changes_in(function: ast.FunctionDef, text: Text) -> Iterator[tuple[ast.AST, str, Change]]:
    """The changes of the code in `function`, from its top: not of its signature, its docstring, and the choice
    of a tile.
    """
    statements = [each for each in function.body if "tile_for(" not in text.of(each)]
    nodes = [node for statement in statements for node in ast.walk(statement)]
    placed = [node for node in nodes if hasattr(node, "lineno")]
    for node in sorted(placed, key=lambda node: (node.lineno, node.col_offset)):
        for name, kind in KINDS.items():
            for change in kind(node, text):
                yield node, name, change


def applied(node: ast.AST, change: Change, text: Text) -> tuple[str, str, bytes]:
    """The code around a change before and after it, and the whole file after it."""
    start, end, new = change
    before, after = text.span(text.context(node))
    source = text.source
    return (
        source[before:after].decode(),
        (source[before:start] + new.encode() + source[end:after]).decode(),
        source[:start] + new.encode() + source[end:],
    )
