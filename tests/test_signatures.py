"""A rule of style: a function takes at most six positional arguments. More can only be passed by name.

Nobody can check a call with seven arguments by position. Functions with torch's signatures take as many as torch's, in
torch's order. Jit functions have a rule of their own (tests/kernels/test_keyword_calls.py). Fields of dataclasses and
named tuples are not checked.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("tritonconv", "reference", "bench", "tests", "examples")
MOST = 6
# The first arguments of functions and constructors that have torch's signatures.
OF_TORCH = (
    ("input", "weight", "bias", "stride", "padding"),
    ("in_channels", "out_channels", "kernel_size"),
    ("out_channels", "kernel_size", "stride"),  # of lazy modules
)


def functions(source: str) -> Iterator[ast.FunctionDef]:
    """Yield all functions except jit functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and not any("triton.jit" in ast.unparse(d) for d in node.decorator_list):
            yield node


def by_place(function: ast.FunctionDef) -> list[str]:
    """Return the names of the positional arguments, without `self` and `cls`."""
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    return [name for name in names if name not in ("self", "cls")]


def too_many(source: str) -> list[str]:
    """Return the names of the functions that take more than `MOST` positional arguments, except for torch's."""
    found = []
    for function in functions(source):
        names = by_place(function)
        is_of_torch = any(tuple(names[: len(first)]) == first for first in OF_TORCH)
        if len(names) > MOST and not is_of_torch:
            found.append(function.name)
    return found


def test_no_function_takes_more_than_six_arguments_by_place() -> None:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 150, "most files of the repository were not found: correct FOLDERS"
    found = {path.relative_to(ROOT).as_posix(): names for path in paths if (names := too_many(path.read_text()))}
    assert not found, (
        f"functions that take more than {MOST} positional arguments: {found}. Nobody can check so many by position. "
        "Put `*,` before the arguments that are to be passed by name, or join those that belong together in one value."
    )


def test_what_is_refused() -> None:
    assert too_many("def right(a, b, c, d, e, f, *, g, **more): ...") == []
    assert too_many("def wrong(a, b, c, d, e, f, g=1): ...") == ["wrong"]
    assert too_many(
        "class A:\n    def right(self, a, b, c, d, e, f): ...\n    def wrong(self, a, b, c, d, e, f, g): ..."
    ) == ["wrong"]
    assert too_many("@triton.jit(debug=True)\ndef kernel(a, b, c, d, e, f, g): ...") == []
    assert too_many("def conv2d(input, weight, bias, stride, padding, dilation, groups): ...") == []
