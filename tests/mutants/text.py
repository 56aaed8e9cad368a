"""A source file as bytes, in which nodes of its syntax tree can be found and changed."""

import ast
from itertools import accumulate


class Text:
    """The source, its tree, and the parent of each node."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.tree = ast.parse(source)
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self._lines = [0, *accumulate(len(line) for line in source.splitlines(keepends=True))]

    def span(self, node: ast.AST) -> tuple[int, int]:
        start = self._lines[node.lineno - 1] + node.col_offset
        return start, self._lines[node.end_lineno - 1] + node.end_col_offset

    def of(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.source[start:end].decode()

    def operand(self, node: ast.AST) -> str:
        """`node` as it may stand in a longer expression: with the parentheses that its span leaves out."""
        return f"({self.of(node)})" if isinstance(node, ast.Compare | ast.BoolOp | ast.BinOp) else self.of(node)

    def context(self, node: ast.AST, most: int = 100) -> ast.AST:
        """The largest part of the code around `node` that is written on one line of at most `most` characters."""
        while (parent := self.parents.get(node)) is not None and not isinstance(parent, ast.Module | ast.match_case):
            if hasattr(parent, "lineno"):
                text = self.of(parent)
                if "\n" in text or len(text) > most:
                    break
            node = parent
        return node
