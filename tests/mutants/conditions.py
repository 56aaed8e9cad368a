"""The mutation operator ("kind") `conditions`, in parts: each part leaves out conditions of one form.

A boolean expression is right only if every one of its conditions is needed. So a test must fail without each of them.
Like the kinds of `kinds`, each part takes a node of a syntax tree and yields the changes there.
"""

import ast
from collections.abc import Iterator
from itertools import pairwise

from tests.mutants.text import Change, Text

Display = ast.Tuple | ast.List | ast.Set
SWAPPED = {"any": "all", "all": "any"}


def conditions(node: ast.AST, text: Text) -> Iterator[Change]:
    """One condition left out of an expression, or made always true or never true.

    It is an operand of `and` or `or`, a term of a chained comparison, `not`, the test of an `if` or of a comprehension,
    or a comparison whose value is kept. It may also hide in `any`, `all`, `min`, `max`, a searched tuple or a list that
    is multiplied by a flag. In kernels only `and`, `or` and chains are changed. The other conditions there are on
    flags, and the launchers' conditions on these are changed.
    """
    parts = (operands, chains) if in_kernel(node, text) else (operands, chains, *PARTS)
    for part in parts:
        yield from part(node, text)


def in_kernel(node: ast.AST, text: Text) -> bool:
    """Whether the node is in a function for Triton, which is decorated."""
    return any("jit" in text.of(each) for each in text.function(node).decorator_list)


def all_but_one(node: ast.AST, terms: list[ast.AST], sign: str, text: Text) -> Iterator[Change]:
    """Yield, for each term, the change that leaves it out of the chain `node`."""
    for left_out in terms:
        yield *text.span(node), sign.join(text.operand(term) for term in terms if term is not left_out)


def operands(node: ast.AST, text: Text) -> Iterator[Change]:
    """An operand left out of a chain of `and` or of `or`."""
    if isinstance(node, ast.BoolOp):
        yield from all_but_one(node, node.values, " and " if isinstance(node.op, ast.And) else " or ", text)


def chains(node: ast.AST, text: Text) -> Iterator[Change]:
    """A term left out of `a == b == c`, a link left out of `a < b <= c`, or a pair left out of `(a, b) == (c, d)`."""
    if not isinstance(node, ast.Compare):
        return
    terms = [node.left, *node.comparators]
    if len(terms) > 2 and all(isinstance(op, ast.Eq) for op in node.ops):
        yield from all_but_one(node, terms, " == ", text)
    elif len(terms) > 2:
        links = [(text.span(a)[0], text.span(b)[1]) for a, b in pairwise(terms)]
        for left_out in links:
            kept = [text.source[start:end].decode() for start, end in links if (start, end) != left_out]
            yield *text.span(node), f"({' and '.join(kept)})"
    elif isinstance(node.ops[0], ast.Eq | ast.NotEq) and all(isinstance(term, ast.Tuple) for term in terms):
        sign = " == " if isinstance(node.ops[0], ast.Eq) else " != "
        for left_out in range(len(terms[0].elts)):
            yield *text.span(node), sign.join(without(term, left_out, text) for term in terms)


def without(display: Display, left_out: int, text: Text) -> str:
    """Return the code of the tuple, list or set without one entry. A set of nothing is a tuple."""
    kept = [text.of(entry) for place, entry in enumerate(display.elts) if place != left_out]
    opening, closing = (
        "[]" if isinstance(display, ast.List) else "()" if not kept or text.of(display)[0] != "{" else "{}"
    )
    return f"{opening}{', '.join(kept)}{',' * (opening == '(' and len(kept) == 1)}{closing}"


def negations(node: ast.AST, text: Text) -> Iterator[Change]:
    """A `not` left out."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield *text.span(node), text.operand(node.operand)


def tests(node: ast.AST, text: Text) -> Iterator[Change]:
    """The test of an `if` or of a conditional expression made true, or false; the `if` of a comprehension made true."""
    around = text.parents[node]
    if isinstance(around, ast.If | ast.IfExp) and around.test is node:
        yield from ((*text.span(node), answer) for answer in ("True", "False"))
    if isinstance(around, ast.comprehension) and node in around.ifs:
        yield *text.span(node), "True"


def answers(node: ast.AST, text: Text) -> Iterator[Change]:
    """A comparison or a `not` made true, or false, where its value is returned, stored or passed on."""
    kept = isinstance(
        text.parents[node], ast.Return | ast.Assign | ast.AnnAssign | ast.keyword | ast.Call | ast.Dict | Display
    )
    if kept and isinstance(node, ast.Compare | ast.UnaryOp) and isinstance(getattr(node, "op", ast.Not()), ast.Not):
        yield from ((*text.span(node), answer) for answer in ("True", "False"))


def quantifiers(node: ast.AST, text: Text) -> Iterator[Change]:
    """`any` for `all`, or the reverse; or an argument left out of `min` or `max`."""
    if isinstance(node, ast.Call) and text.of(node.func) in SWAPPED:
        yield *text.span(node.func), SWAPPED[text.of(node.func)]
    if isinstance(node, ast.Call) and text.of(node.func) in ("min", "max") and len(node.args) > 1:
        for left_out in node.args:
            kept = [each for each in node.args if each is not left_out]
            alone = len(kept) == 1 and not isinstance(kept[0], ast.Starred)
            function = "" if alone else text.of(node.func)
            yield *text.span(node), f"{function}({', '.join(map(text.of, kept))})"


def entries(node: ast.AST, text: Text) -> Iterator[Change]:
    """An entry left out of a tuple, list or set that is searched (`in`), looped over, or unpacked with `*`.

    That may happen where it is written, or by the name that it is given.
    """
    if isinstance(node, Display) and (is_read(node, text) or any(is_read(name, text) for name in names_of(node, text))):
        for left_out in range(len(node.elts)):
            yield *text.span(node), without(node, left_out, text)


def is_read(node: ast.AST, text: Text) -> bool:
    """Whether the entries of `node` are searched, looped over or unpacked."""
    around = text.parents[node]
    if isinstance(around, ast.Compare):
        return isinstance(around.ops[-1], ast.In | ast.NotIn) and around.comparators[-1] is node
    return isinstance(around, ast.Starred) or (isinstance(around, ast.For | ast.comprehension) and around.iter is node)


def names_of(node: ast.AST, text: Text) -> list[ast.Name]:
    """Return where the variable is read that `node` is assigned to. Nothing if it is not assigned to one."""
    assigned = text.parents[node]
    if not isinstance(assigned, ast.Assign) or not isinstance(assigned.targets[0], ast.Name):
        return []
    name = assigned.targets[0].id
    return [each for each in ast.walk(text.function(node)) if isinstance(each, ast.Name) and each.id == name]


def flags(node: ast.AST, text: Text) -> Iterator[Change]:
    """`[a] * flag` as if the flag were true, or as if it were false."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and isinstance(node.left, ast.List):
        yield from ((*text.span(node), answer) for answer in (text.of(node.left), "[]"))


PARTS = (negations, tests, answers, quantifiers, entries, flags)
