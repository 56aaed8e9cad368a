"""Between jit functions all arguments go by name, in the order of the signature.

Nobody can check thirty arguments by their places. The order of the signature is the order in which they are evaluated:
Triton writes its code in that order, and by mixing both ways of passing it would change. One or two arguments whose
meaning is plain may go by their places, both of them.
"""

import ast
from pathlib import Path

import pytest

from tests.support.processes import ROOT

KERNELS = ROOT / "tritonconv" / "kernels"
MAY_GO_BY_PLACE = 2


def jit_functions(trees: list[ast.Module]) -> dict[str, list[str]]:
    """The parameters of each jit function, by its name, which no other has."""
    found: dict[str, list[str]] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and any(map(is_jit, node.decorator_list)):
                assert node.name not in found, f"two jit functions are called {node.name}"
                found[node.name] = [argument.arg for argument in node.args.args]
    return found


def is_jit(decorator: ast.expr) -> bool:
    return ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator) == "triton.jit"


def called(node: ast.Call) -> str:
    """The name of what is called, without that of its module."""
    return ast.unparse(node.func).rpartition(".")[2]


def fault(call: ast.Call, parameters: list[str]) -> str | None:
    """What is wrong with how a call passes arguments."""
    given = [keyword.arg for keyword in call.keywords]
    if None in given or any(isinstance(argument, ast.Starred) for argument in call.args):
        return "unpacked"
    if call.args and given:
        return "mixed"
    if len(call.args) > MAY_GO_BY_PLACE:
        return "by place"
    if given and given != parameters:
        return "not the parameters in their order"
    return None


def calls(trees: list[ast.Module]) -> list[ast.Call]:
    """All calls of jit functions that are defined in these modules."""
    names = jit_functions(trees)
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return [node for node in nodes if isinstance(node, ast.Call) and called(node) in names]


def faults(trees: list[ast.Module]) -> list[str]:
    """A line for each call that breaks the rule, and each import that hides whom a call is of."""
    functions, found = jit_functions(trees), []
    for call in calls(trees):
        wrong = fault(call, functions[called(call)])
        if wrong is not None:
            found.append(f"{called(call)}: {wrong}")
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom):
            found += [f"{alias.name}: imported as {alias.asname}" for alias in node.names if alias.asname]
    return found


def modules(folder: Path = KERNELS) -> list[ast.Module]:
    return [ast.parse(path.read_text()) for path in sorted(folder.rglob("*.py"))]


def test_kernels_pass_arguments_by_name() -> None:
    assert faults(modules()) == []


def test_every_function_between_kernels_is_looked_at() -> None:
    """All jit functions are called by another, but the kernels, which are launched."""
    functions = jit_functions(modules())
    uncalled = set(functions) - {called(call) for call in calls(modules())}
    assert {name for name in functions if name.endswith("_kernel")} == uncalled
    assert len(uncalled) == 7
    assert sum(len(call.keywords) > 10 for call in calls(modules())) >= 10


SOURCE = """
import triton
from tritonconv.kernels.index import raster

@triton.jit
def inside(position, extent):
    return position < extent

@triton.jit(do_not_specialize=["a"])
def added(a, b, c):
    return a + b + c

@triton.jit
def kernel(a, b, c):
    return {}
"""


@pytest.mark.parametrize(
    ("call", "wrong"),
    [
        ("added(a=a, b=b, c=c)", None),
        ("inside(position=a, extent=b)", None),
        ("inside(a, b)", None),
        ("triton.cdiv(a, b, c)", None),
        ("added(a, b, c)", "by place"),
        ("elsewhere.added(a, b, c)", "by place"),
        ("a + added(a, b=b, c=c)", "mixed"),
        ("inside(a, extent=b)", "mixed"),
        ("added(b=b, a=a, c=c)", "not the parameters in their order"),
        ("inside(extent=a, position=b)", "not the parameters in their order"),
        ("added(a=a, b=b)", "not the parameters in their order"),
        ("added(*a)", "unpacked"),
        ("added(**a)", "unpacked"),
    ],
)
def test_what_is_refused(call: str, wrong: str | None) -> None:
    name = "inside" if "inside" in call else "added"
    assert faults([ast.parse(SOURCE.format(call))]) == ([f"{name}: {wrong}"] if wrong else [])


def nested(tree: ast.Module) -> list[str]:
    """What is unpacked over two levels, where Triton's hash of a kernel's source raises a TypeError."""
    targets = [target for node in ast.walk(tree) if isinstance(node, ast.Assign) for target in node.targets]
    outer = [target for target in targets if isinstance(target, ast.Tuple)]
    return [ast.unparse(target) for target in outer if any(isinstance(each, ast.Tuple) for each in target.elts)]


def test_tuples_are_unpacked_one_level_at_a_time() -> None:
    assert [each for tree in modules() for each in nested(tree)] == []
    assert nested(ast.parse("(a, b), c = (1, 2), 3\na, b = 1, 2")) == ["((a, b), c)"]


def test_a_function_keeps_its_name() -> None:
    source = SOURCE.format("a").replace("import raster", "import raster as tiles")
    assert faults([ast.parse(source)]) == ["raster: imported as tiles"]
    with pytest.raises(AssertionError, match="two jit functions are called inside"):
        faults([ast.parse(SOURCE.format("a"))] * 2)
