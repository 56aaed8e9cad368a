"""Find every mutant of the package.

Files and functions that the two lists below name are not mutated. In statements that contain `tile_for(` only
conditions are changed, because they choose a tile.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.kinds import KINDS
from tests.mutants.text import Change, Text

ROOT = Path(__file__).parents[2]
PACKAGE = "tritonconv"
SURFACE = "its bugs are found by the tests of the interface, which do not run on mutants (`runner.TESTS`)"
TOOL = "it reports, checks or prepares something, and computes no result"
CHOICE = "it chooses among tiles, and every tile gives the right result"
FAULTS = "it runs only after a fault, and its tests are about the warning and what is tried next"
YARDSTICK = "the kernels are compared with it"
# The files and folders that are not mutated, with the reasons, and below them the functions. All must exist (`gone`).
NOT_MUTATED = {
    "tritonconv/__init__.py": SURFACE,
    "tritonconv/layers.py": SURFACE,
    "tritonconv/functional.py": SURFACE,
    "tritonconv/operators": SURFACE,
    "tritonconv/reference": YARDSTICK,
    "tritonconv/tools": TOOL,
    "tritonconv/runtime.py": TOOL,
    "tritonconv/fallback_warning.py": FAULTS,
    "tritonconv/launch/recovery.py": FAULTS,
    "tritonconv/launch/remedies.py": FAULTS,
    "tritonconv/gpu.py": CHOICE,
    "tritonconv/tiling/catalogue.py": CHOICE,
    "tritonconv/tiling/cost.py": CHOICE,
    "tritonconv/tiling/fits.py": CHOICE,
    "tritonconv/tiling/measured.py": CHOICE,
    "tritonconv/tiling/pick.py": CHOICE,
}
FUNCTIONS_NOT_MUTATED = {
    "tritonconv/call.py": {"arguments": TOOL, "of_gradient": TOOL},
    "tritonconv/tiling/block_shapes.py": {"pixels_of": CHOICE, "candidate_shapes": CHOICE, "with_best_shape": CHOICE},
    "tritonconv/tiling/tile.py": {
        "__str__": TOOL,
        "halves": CHOICE,
        "shared_bytes": CHOICE,
        "steps": CHOICE,
        "tlb_slowdown": CHOICE,
        "occupancy": CHOICE,
    },
}


@dataclass(frozen=True)
class Mutant:
    """One change in one function.

    `old` and `new` are the code before and after the change. `occurrence` counts equal changes in a function, from 1.
    `source` is the whole file with the change.
    """

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
        """The mutant's identity, which stays the same when lines move."""
        return self.file, self.function, self.old, self.new, self.occurrence

    def __str__(self) -> str:
        again = f" (occurrence {self.occurrence})" if self.occurrence > 1 else ""
        return f"{self.file}:{self.line} {self.function}: {self.kind}: {self.old} -> {self.new}{again}"


def find(root: Path = ROOT) -> list[Mutant]:
    """Return all mutants of the repository at `root`, in the order of files and lines."""
    files = sorted(path.relative_to(root) for path in (root / PACKAGE).rglob("*.py"))
    return [mutant for file in files if not is_left_out(file) for mutant in mutants_of(root, file.as_posix())]


def is_left_out(file: Path) -> bool:
    """Whether `file`, or a folder that it is in, is in `NOT_MUTATED`."""
    return any(path.as_posix() in NOT_MUTATED for path in (file, *file.parents))


def gone(root: Path = ROOT) -> list[str]:
    """Return the entries of the two lists above whose file, folder or function does not exist."""
    places = [place for place in (*NOT_MUTATED, *FUNCTIONS_NOT_MUTATED) if not (root / place).exists()]
    return places + [
        f"{file}: {name}"
        for file, names in FUNCTIONS_NOT_MUTATED.items()
        if file not in places
        for name in set(names) - {function.name for function in functions(Text((root / file).read_bytes()))}
    ]


def left_out() -> list[str]:
    """Return a line for each file, folder and function of the two lists above, with the reason why it is not mutated.

    Statements that contain `tile_for(` have no line here (`changes_in`).
    """
    named = {f"{file} {name}": why for file, names in FUNCTIONS_NOT_MUTATED.items() for name, why in names.items()}
    return [f"{place}: {why}" for place, why in (NOT_MUTATED | named).items()]


def functions(text: Text) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(text.tree) if isinstance(node, ast.FunctionDef)]


def mutants_of(root: Path, file: str) -> Iterator[Mutant]:
    """Yield the mutants of one file, without those that give the same source as an earlier one."""
    text = Text((root / file).read_bytes())
    seen: Counter[tuple[str, str, str]] = Counter()
    sources = {text.source}
    for function in functions(text):
        if function.name not in FUNCTIONS_NOT_MUTATED.get(file, {}):
            for node, kind, change in changes_in(function, text):
                old, new, source = applied(node, change, text)
                if source not in sources:
                    sources.add(source)
                    seen[function.name, old, new] += 1
                    yield Mutant(
                        file, function.name, old, new, seen[function.name, old, new], kind, node.lineno, source
                    )


def changes_in(function: ast.FunctionDef, text: Text) -> Iterator[tuple[ast.AST, str, Change]]:
    """Yield each change in the body of `function`, from the top: its node, the name of its kind, and the change.

    In a statement of the body that contains `tile_for(`, only conditions are changed, because it chooses a tile.
    Docstrings give no changes.
    """
    nodes = [(node, "tile_for(" in text.of(each)) for each in function.body for node in ast.walk(each)]
    placed = [(node, chooses) for node, chooses in nodes if hasattr(node, "lineno")]
    for node, chooses in sorted(placed, key=lambda pair: (pair[0].lineno, pair[0].col_offset)):
        for name, kind in KINDS.items():
            if name == "conditions" or not chooses:
                yield from ((node, name, change) for change in kind(node, text))


def applied(node: ast.AST, change: Change, text: Text) -> tuple[str, str, bytes]:
    """Return the code around `node` (`Text.context`) before and after `change`, and the whole file after it."""
    start, end, new = change
    before, after = text.span(text.context(node))
    source = text.source
    return (
        source[before:after].decode(),
        (source[before:start] + new.encode() + source[end:after]).decode(),
        source[:start] + new.encode() + source[end:],
    )
