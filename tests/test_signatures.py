"""What one has to count is passed by name: a function takes at most six arguments by place.

Those whose arguments are torch's take as many as torch's, in torch's order; kernels are launched by name. What is
looked at is what functions are defined to take, not the fields of dataclasses and named tuples.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("tritonconv", "reference", "bench", "tests", "examples")
MOST = 6
# How the arguments begin of what has the signature of one of torch's functions or modules.
OF_TORCH = (
    ("input", "weight", "bias", "stride", "padding"),
    ("in_channels", "out_channels", "kernel_size"),
    ("out_channels", "kernel_size", "stride"),  # of lazy modules
)


def functions(source: str) -> Iterator[ast.FunctionDef]:
    """All functions but those of Triton."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and not any("triton.jit" in ast.unparse(d) for d in node.decorator_list):
            yield node


def by_place(function: ast.FunctionDef) -> list[str]:
    """The arguments that may be passed by their places, without the object or class of a method."""
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    return [name for name in names if name not in ("self", "cls")]


def too_many(source: str) -> list[str]:
    """The functions that take more arguments by place than they may."""
    found = []
    for function in functions(source):
        names = by_place(function)
        is_of_torch = any(tuple(names[: len(first)]) == first for first in OF_TORCH)
        if len(names) > MOST and not is_of_torch:
            found.append(function.name)
    return found


def test_no_function_takes_more_than_six_arguments_by_place() -> None:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 150
    assert {path.relative_to(ROOT).as_posix(): names for path in paths if (names := too_many(path.read_text()))} == {}


def test_what_is_refused() -> None:
    assert too_many("def right(a, b, c, d, e, f, *, g, **more): ...") == []
    assert too_many("def wrong(a, b, c, d, e, f, g=1): ...") == ["wrong"]
    assert too_many(
        "class A:\n    def right(self, a, b, c, d, e, f): ...\n    def wrong(self, a, b, c, d, e, f, g): ..."
    ) == ["wrong"]
    assert too_many("@triton.jit(debug=True)\ndef kernel(a, b, c, d, e, f, g): ...") == []
    assert too_many("def conv2d(input, weight, bias, stride, padding, dilation, groups): ...") == []
