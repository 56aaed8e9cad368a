"""Tables as text: drawn or in columns for a terminal, or in Markdown. All of bench's tables are made here."""

import io
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO


@dataclass(frozen=True)
class Table:
    """A table whose form is chosen where it is written: as text it is Markdown, and `show` draws it on a terminal."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def __str__(self) -> str:
        return markdown(self.header, self.rows)


Part = str | Table


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


def for_terminal(header: Sequence[str], rows: Iterable[Sequence[Any]], stream: TextIO | None = None) -> str:
    """Return a table as text to print to `stream`, by default the standard output.

    A terminal gets it drawn by rich, if that is installed. Everything else gets `columns`: files, pipes, and terminals
    without rich.
    """
    body = [list(row) for row in rows]
    stream = stream or sys.stdout
    return (drawn(header, body) if stream.isatty() else None) or columns(header, body)


def drawn(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str | None:
    """Return a table as rich draws it in the terminal's width, or None if rich is not installed."""
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table as Drawing
        from rich.text import Text
    except ImportError:
        return None
    drawing = Drawing(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for n, name in enumerate(header):
        # Names in the first column stay whole. If the terminal is narrow, the other cells get more lines instead.
        drawing.add_column(Text(name), justify="right" if n else "left", no_wrap=n == 0, overflow="fold")
    for row in rows:
        drawing.add_row(*(Text(text(value)) for value in row))
    captured = io.StringIO()
    Console(file=captured, force_terminal=True, width=shutil.get_terminal_size().columns).print(drawing)
    return captured.getvalue().strip("\n")


def joined(parts: Iterable[Part]) -> str:
    """Return paragraphs and tables as one Markdown text. Empty ones are left out."""
    return "\n\n".join(str(part) for part in parts if part) + "\n"


def show(parts: Iterable[Part], stream: TextIO | None = None) -> None:
    """Print paragraphs and tables to `stream`, by default the standard output.

    On a terminal, tables are drawn or in columns (`for_terminal`). Files and pipes get Markdown (`joined`).
    """
    stream = stream or sys.stdout
    if stream.isatty():
        parts = [for_terminal(part.header, part.rows, stream) if isinstance(part, Table) else part for part in parts]
    print(joined(parts), file=stream)
