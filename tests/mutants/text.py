"""A source file with its syntax tree, and the bytes of the source that each node stands for or that replace it."""

import ast
from itertools import accumulate

# Start and end of a span of the source, in bytes, and the text that replaces it.
Change = tuple[int, int, str]


class Text:
    """A source, its syntax tree, and the parent of each node."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.tree = ast.parse(source)
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self._lines = [0, *accumulate(len(line) for line in source.splitlines(keepends=True))]

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Return where the node's code starts and ends in the source, in bytes."""
        start = self._lines[node.lineno - 1] + node.col_offset
        return start, self._lines[node.end_lineno - 1] + node.end_col_offset

    def of(self, node: ast.AST) -> str:
        """Return the node's code."""
        start, end = self.span(node)
        return self.source[start:end].decode()

    def operand(self, node: ast.AST) -> str:
        """Return the node's code for use in a longer expression: in parentheses if it is an operation or comparison."""
        return f"({self.of(node)})" if isinstance(node, ast.Compare | ast.BoolOp | ast.BinOp) else self.of(node)

    def function(self, node: ast.AST) -> ast.FunctionDef:
        """Return the innermost function that contains the node."""
        while not isinstance(node, ast.FunctionDef):
            node = self.parents[node]
        return node

    def context(self, node: ast.AST, most: int = 100) -> ast.AST:
        """Return the largest node around `node` whose code is on one line, with at most `most` characters.

        If there is none, return `node` itself, however long.
        """
        largest = node
        while (node := self.parents.get(node)) is not None and not isinstance(node, ast.Module | ast.match_case):
            if hasattr(node, "lineno"):
                text = self.of(node)
                if "\n" in text or len(text) > most:
                    break
                largest = node
        return largest
