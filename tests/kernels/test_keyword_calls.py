"""A rule for kernels: a jit function calls another with all arguments by name, in the order of the signature.

Nobody can check thirty arguments by position. Arguments in the order of the signature are evaluated in that order, and
Triton writes its code in it. Mixing positional and keyword arguments would change the order, and so the code. A call
with one or two arguments whose meaning is plain may pass all of them by position.
"""

import ast
from pathlib import Path

import pytest

from tests.support.processes import ROOT

KERNELS = ROOT / "tritonconv" / "kernels"
MAY_GO_BY_PLACE = 2


def jit_functions(trees: list[ast.Module]) -> dict[str, list[str]]:
    """Return the parameters of each jit function, by its name. Two jit functions must not have the same name."""
    found: dict[str, list[str]] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and any(map(is_jit, node.decorator_list)):
                assert node.name not in found, (
                    f"two jit functions are called {node.name}: rename one, because this test finds functions by name"
                )
                found[node.name] = [argument.arg for argument in node.args.args]
    return found


def is_jit(decorator: ast.expr) -> bool:
    return ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator) == "triton.jit"


def called(node: ast.Call) -> str:
    """Return the name of the function that is called, without its module."""
    return ast.unparse(node.func).rpartition(".")[2]


def fault(call: ast.Call, parameters: list[str]) -> str | None:
    """Return what is wrong with the way in which a call passes its arguments, or None."""
    given = [keyword.arg for keyword in call.keywords]
    if None in given or any(isinstance(argument, ast.Starred) for argument in call.args):
        return "arguments are unpacked by * or **"
    if call.args and given:
        return "positional and keyword arguments are mixed"
    if len(call.args) > MAY_GO_BY_PLACE:
        return "more than two arguments are positional"
    if given and given != parameters:
        return f"expected all parameters in the order {', '.join(parameters)}"
    return None


def calls(trees: list[ast.Module]) -> list[ast.Call]:
    """Return all calls in these modules of jit functions that they define."""
    names = jit_functions(trees)
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return [node for node in nodes if isinstance(node, ast.Call) and called(node) in names]


def faults(trees: list[ast.Module]) -> list[str]:
    """Return a line for each call that breaks the rule, and for each import that gives a function another name."""
    functions, found = jit_functions(trees), []
    for call in calls(trees):
        wrong = fault(call, functions[called(call)])
        if wrong is not None:
            found.append(f"{ast.unparse(call)}: {wrong}")
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom):
            found += [
                f"{alias.name}: imported as {alias.asname}, so its calls are not found"
                for alias in node.names
                if alias.asname
            ]
    return found


def modules(folder: Path = KERNELS) -> list[ast.Module]:
    return [ast.parse(path.read_text()) for path in sorted(folder.rglob("*.py"))]


def test_kernels_pass_arguments_by_name() -> None:
    found = faults(modules())
    assert not found, (
        "calls between jit functions must pass all arguments by name, in the order of the signature, or one or two by "
        "position. Otherwise nobody can check them, and Triton may evaluate them in another order:\n" + "\n".join(found)
    )


def test_every_function_between_kernels_is_looked_at() -> None:
    """Every jit function must be called by another, except the kernels, which are launched."""
    functions = jit_functions(modules())
    uncalled = set(functions) - {called(call) for call in calls(modules())}
    kernels = {name for name in functions if name.endswith("_kernel")}
    assert uncalled - kernels == set(), (
        "no kernel calls these jit functions: remove them, or end a kernel's name in _kernel"
    )
    assert kernels - uncalled == set(), "a jit function whose name ends in _kernel is launched, but these are called"
    assert len(kernels) == 7, f"the kernels have changed: {sorted(kernels)}; correct their number in this test"
    assert sum(len(call.keywords) > 10 for call in calls(modules())) >= 10, "this test no longer finds the long calls"


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
        ("added(a, b, c)", "more than two arguments are positional"),
        ("elsewhere.added(a, b, c)", "more than two arguments are positional"),
        ("a + added(a, b=b, c=c)", "positional and keyword arguments are mixed"),
        ("inside(a, extent=b)", "positional and keyword arguments are mixed"),
        ("added(b=b, a=a, c=c)", "expected all parameters in the order a, b, c"),
        ("inside(extent=a, position=b)", "expected all parameters in the order position, extent"),
        ("added(a=a, b=b)", "expected all parameters in the order a, b, c"),
        ("added(*a)", "arguments are unpacked by * or **"),
        ("added(**a)", "arguments are unpacked by * or **"),
    ],
)
def test_what_is_refused(call: str, wrong: str | None) -> None:
    refused = [f"{call.removeprefix('a + ')}: {wrong}"] if wrong else []
    assert faults([ast.parse(SOURCE.format(call))]) == refused


def nested(tree: ast.Module) -> list[str]:
    """Return the targets of assignments that are nested tuples. Triton can not hash a kernel with one: TypeError."""
    targets = [target for node in ast.walk(tree) if isinstance(node, ast.Assign) for target in node.targets]
    outer = [target for target in targets if isinstance(target, ast.Tuple)]
    return [ast.unparse(target) for target in outer if any(isinstance(each, ast.Tuple) for each in target.elts)]


def test_tuples_are_unpacked_one_level_at_a_time() -> None:
    found = [each for tree in modules() for each in nested(tree)]
    assert not found, f"Triton can not hash a kernel that unpacks nested tuples: {found}. Unpack one level a statement."
    assert nested(ast.parse("(a, b), c = (1, 2), 3\na, b = 1, 2")) == ["((a, b), c)"]


def test_a_function_keeps_its_name() -> None:
    source = SOURCE.format("a").replace("import raster", "import raster as tiles")
    assert faults([ast.parse(source)]) == ["raster: imported as tiles, so its calls are not found"]
    with pytest.raises(AssertionError, match="two jit functions are called inside"):
        faults([ast.parse(SOURCE.format("a"))] * 2)
