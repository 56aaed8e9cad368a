"""The mutation operators ("kinds"): typical mistakes of somebody who writes convolution kernels.

Each takes a node of a syntax tree and yields the changes that make this mistake there. `conditions` has a module of its
own.
"""

import ast
from collections.abc import Callable, Iterator

from tests.mutants.conditions import all_but_one, conditions
from tests.mutants.text import Change, Text

WRONG_BOUNDS = {ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">")}
WRONG_BOUNDS |= {ast.Eq: ("==", "!="), ast.NotEq: ("!=", "==")}
WRONG_SIGNS = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "+"), ast.FloorDiv: ("//", "%")}
WRONG_SIGNS |= {ast.Mod: ("%", "//"), ast.LShift: ("<<", ">>"), ast.RShift: (">>", "<<"), ast.BitOr: ("|", "&")}
OTHER_AXIS = {"h": "w", "p": "q", "r": "s", "i": "j", "H": "W", "P": "Q", "R": "S"}
OPPOSITE = {"tl.minimum": "tl.maximum", "tl.maximum": "tl.minimum", "min": "max", "max": "min"}
WIDE = ".to(tl.int64)"


def between(text: Text, left: ast.AST, right: ast.AST, signs: tuple[str, str]) -> Change:
    """Return the change that replaces the operator between two operands: `signs` are the old one and the new one."""
    start, end = text.span(left)[1], text.span(right)[0]
    return start, end, text.source[start:end].decode().replace(*signs, 1)


def bounds(node: ast.AST, text: Text) -> Iterator[Change]:
    """A comparison with the wrong operator: `<` for `<=`, `>` for `>=` or `==` for `!=`, or the reverse.

    In a chain `a < b < c`, only the first operator is changed. `in` and `is` are not changed.
    """
    if isinstance(node, ast.Compare) and type(node.ops[0]) in WRONG_BOUNDS:
        yield between(text, node.left, node.comparators[0], WRONG_BOUNDS[type(node.ops[0])])


def signs(node: ast.AST, text: Text) -> Iterator[Change]:
    """An arithmetic operator replaced as `WRONG_SIGNS` says (`+` by `-`, `//` by `%`), or a minus sign left out.

    Operators for which `is_one_of_many` holds are skipped. The minus sign of a constant stays.
    """
    if isinstance(node, ast.BinOp) and type(node.op) in WRONG_SIGNS and not is_one_of_many(node, text):
        yield between(text, node.left, node.right, WRONG_SIGNS[type(node.op)])
    if isinstance(node, ast.AugAssign):
        yield between(text, node.target, node.value, WRONG_SIGNS[type(node.op)])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        yield *text.span(node), text.operand(node.operand)


def is_one_of_many(node: ast.BinOp, text: Text) -> bool:
    """Whether `signs` skips this operator, because other mutants change the same expression.

    In a chain of the same operator, only the last is changed. A product is changed only where it is a whole assigned
    value or keyword argument. In longer expressions `axes` changes the names, and `signs` the sums.
    """
    around = text.parents[node]
    if isinstance(node.op, ast.Mult):
        return not isinstance(around, ast.Assign | ast.AugAssign | ast.keyword)
    return isinstance(around, ast.BinOp) and isinstance(around.op, type(node.op))


def axes(node: ast.AST, text: Text) -> Iterator[Change]:
    """A name of the vertical axis replaced by its horizontal counterpart: `stride_h` by `stride_w`.

    A variable is replaced only if the function has the other one, too. An attribute is replaced only if it belongs to
    `geometry` or `self`.
    """
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id[-1] in OTHER_AXIS:
        other = node.id[:-1] + OTHER_AXIS[node.id[-1]]
        if other in names_around(node, text):
            yield *text.span(node), other
    if isinstance(node, ast.Attribute) and node.attr[-1] in OTHER_AXIS and text.of(node.value) in ("geometry", "self"):
        yield *text.span(node), f"{text.of(node.value)}.{node.attr[:-1]}{OTHER_AXIS[node.attr[-1]]}"


def names_around(node: ast.AST, text: Text) -> set[str]:
    """Return the names of the positional parameters and of the variables of the function that contains `node`."""
    function = text.function(node)
    stored = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return stored | {argument.arg for argument in function.args.args}


def masks(node: ast.AST, text: Text) -> Iterator[Change]:
    """One operand left out of a chain of `&`, or a `mask=` made true everywhere.

    A `mask=` that is itself a chain of `&` is not made true. An `&` with a constant is no condition (`is_and`).
    """
    if is_and(node) and not is_and(text.parents[node]):
        yield from all_but_one(node, conjuncts(node), " & ", text)
    elif isinstance(node, ast.keyword) and node.arg == "mask" and not is_and(node.value):
        yield *text.span(node.value), f"({text.of(node.value)}) | True"


def is_and(node: ast.AST) -> bool:
    """Whether `node` is `a & b`, unless b is a constant, as where bits of a number are taken."""
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd) and not isinstance(node.right, ast.Constant)


def conjuncts(node: ast.AST) -> list[ast.AST]:
    """Return the operands of a chain `a & b & c`, or `node` alone if `is_and` does not hold for it.

    The right operand of `a & (b & c)` is not taken apart.
    """
    return [*conjuncts(node.left), node.right] if is_and(node) else [node]


def skips(node: ast.AST, text: Text) -> Iterator[Change]:
    """`range(n)` replaced by `range(n - 1)`, or an update of a variable (`i += 1`, `m = f(m)`) left out.

    Assignments with a cast to 64 bits are skipped: `widths` changes them.
    """
    if isinstance(node, ast.Call) and text.of(node.func) == "range":
        yield *text.span(node), f"range({text.operand(node.args[0])} - 1)"
    if isinstance(node, ast.AugAssign):
        yield *text.span(node), "pass"
    if isinstance(node, ast.Assign) and WIDE not in text.of(node) and isinstance(node.targets[0], ast.Name):
        old = node.targets[0].id
        if any(isinstance(name, ast.Name) and name.id == old for name in ast.walk(node.value)):
            yield *text.span(node), "pass"


def splits(node: ast.AST, text: Text) -> Iterator[Change]:
    """A division that rounds down instead of up, so that a ragged end is lost; or `min` for `max`, or the reverse."""
    if isinstance(node, ast.Call):
        function = text.of(node.func)
        if function in ("tl.cdiv", "ceildiv"):
            yield *text.span(node), "({} // {})".format(*map(text.operand, node.args))
        if function in OPPOSITE:
            yield *text.span(node.func), OPPOSITE[function]


def offsets(node: ast.AST, text: Text) -> Iterator[Change]:
    """A term with `g` or `split` left out of a sum: the part of an offset that finds the group or the split."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        for term, rest in ((node.left, node.right), (node.right, node.left)):
            names = {name.id for name in ast.walk(term) if isinstance(name, ast.Name)}
            sums = any(isinstance(inner, ast.Add) for inner in ast.walk(term))
            if names & {"g", "split"} and not sums:
                yield *text.span(node), text.operand(rest)


def widths(node: ast.AST, text: Text) -> Iterator[Change]:
    """A cast to 64 bits left out, so that large offsets overflow."""
    if isinstance(node, ast.Call) and text.of(node).endswith(WIDE):
        yield text.span(node)[1] - len(WIDE), text.span(node)[1], ""


def unset(node: ast.AST, text: Text) -> Iterator[Change]:
    """A wrong initial value, or a choice left out.

    Masked loads give 1 instead of 0. Accumulators start at 1, or `tl.dot` drops them. `tl.where` becomes one of its
    choices.
    """
    if isinstance(node, ast.keyword) and node.arg == "other":
        yield *text.span(node.value), "1.0"
    if not isinstance(node, ast.Call):
        return
    function = text.of(node.func)
    if function in ("tl.zeros", "tl.zeros_like"):
        yield *text.span(node), f"{text.of(node)} + 1"
    if function == "tl.dot":
        yield text.span(node.args[1])[1], text.span(node.args[2])[1], ""
    if function == "tl.where":
        kept = {
            text.of(target) for target in getattr(text.parents[node], "targets", ())
        }  # `m = tl.where(c, m, n)` without effect is a mutant of `skips`
        choices = [text.operand(choice) for choice in node.args[1:] if text.of(choice) not in kept]
        yield from ((*text.span(node), choice) for choice in choices)


KINDS: dict[str, Callable[[ast.AST, Text], Iterator[Change]]] = {
    kind.__name__: kind for kind in (bounds, signs, axes, conditions, masks, skips, splits, offsets, widths, unset)
}
