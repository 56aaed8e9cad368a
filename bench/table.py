"""Tables as text: in columns for a terminal, or in Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any


def text(value: Any) -> str:
    """Return the text of a cell: "-" for None."""
    return "-" if value is None else str(value)


def columns(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table as text in aligned columns. None becomes "-".

    A column is aligned to the right if each of its values is a number or None, and else to the left.
    """
    body = [list(row) for row in rows]
    cells = [list(header), *([text(value) for value in row] for row in body)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [all(isinstance(row[i], int | float | None) for row in body) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    )


def markdown(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table: its first column is aligned to the left, the others to the right. None becomes "-"."""
    body = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(text(value) for value in row)} |" for row in body)
