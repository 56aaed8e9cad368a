"""Tables as text: in Markdown, in columns, and drawn on a terminal."""

import io
import re
import sys

import pytest

from bench import table
from bench.table import Table

HEADER, ROWS = ["layer", "us"], [["a_long_name_of_a_layer", 1.5], ["b [bold]", None]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO) -> str:
    table.show(["# Title", "", Table(HEADER, ROWS)], stream)
    return stream.getvalue()


def test_files_and_pipes_get_markdown() -> None:
    """An empty paragraph leaves no trace."""
    expected = "| layer | us |\n| --- | ---: |\n| a_long_name_of_a_layer | 1.5 |\n| b [bold] | - |"
    assert shown(io.StringIO()) == f"# Title\n\n{expected}\n\n"
    assert table.joined(["# Title", "", Table(HEADER, ROWS)]) == f"# Title\n\n{expected}\n"


def test_a_terminal_without_rich_gets_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    assert shown(Terminal()) == f"# Title\n\n{table.columns(HEADER, ROWS)}\n\n"


def test_a_terminal_with_rich_gets_a_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names stay whole in a narrow terminal, and brackets in cells are no markup."""
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "40")
    wide = [[name, "many words that need more than one line"] for name, _ in ROWS]
    text = table.for_terminal(HEADER, wide, Terminal())
    assert "───" in text
    assert "| ---" not in text
    assert "a_long_name_of_a_layer" in text
    assert "b [bold]" in text
    assert max(map(len, re.sub(r"\x1b\[\d*m", "", text).splitlines())) <= 40
    assert "───" in shown(Terminal())


def test_other_commands_get_columns_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    """The header is as long as the numbers, which are aligned to the right, as None is."""
    assert table.for_terminal(HEADER, ROWS) == table.columns(HEADER, ROWS)
    assert table.for_terminal(HEADER, ROWS).splitlines() == [
        "layer                    us",
        "a_long_name_of_a_layer  1.5",
        "b [bold]                  -",
    ]
