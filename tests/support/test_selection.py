"""Tests of test selection: which tests a command runs, in which order, and the summary of skipped tests."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import selection
from tests.support.cases import CONV, TRANSPOSED
from tests.support.processes import ran

FILE = """
import pytest

def test_plain(): pass

@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2])
def test_slow(n): pass

@pytest.mark.long
def test_long(): pass

@pytest.fixture
def on_reference(): pass

@pytest.mark.gpu
@pytest.mark.usefixtures("on_reference")
def test_reference(): pass

@pytest.mark.gpu
@pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.first)])
def test_kernel(n): pass

@pytest.mark.parametrize("n", [1, 2, 3])
def test_skipped(n): pytest.skip("for one reason" if n < 3 else "for   another")
"""
EARLY, PLAIN = ["test_kernel[2]", "test_kernel[1]", "test_long"], ["test_plain", "test_reference"]
SKIPPED = ["test_skipped[1]", "test_skipped[2]", "test_skipped[3]"]
SLOW = ["test_slow[1]", "test_slow[2]"]


@pytest.fixture
def pytest_says(tmp_path: Any) -> Any:
    """Return a function that runs pytest on `FILE` with our hooks and some options, and returns the lines it prints.

    The function's `name` follows the file's path: "::test_slow" runs only that test.
    """
    path = tmp_path / "test_file.py"
    path.write_text(FILE)

    def says(*options: str, name: str = "") -> list[str]:
        given = [
            "-p",
            "tests.support.selection",
            "-c",
            "pyproject.toml",
            "-p",
            "no:cacheprovider",
            "-v",
            f"{path}{name}",
        ]
        done = ran(f"import sys, pytest; sys.exit(pytest.main({[*given, *options]}))")
        assert done.returncode == 0, done.stdout
        return done.stdout.splitlines()

    return says


def names(lines: list[str]) -> list[str]:
    """Return the names of the tests that ran, in their order."""
    return [line.partition("::")[2].split()[0] for line in lines if "::" in line and "%]" in line]


def test_telling_and_long_tests_begin_and_slow_ones_are_left_out(pytest_says: Any) -> None:
    lines = pytest_says()
    assert names(lines) == EARLY + PLAIN + SKIPPED
    assert "5 passed, 3 skipped, 2 deselected" in lines[-1]


def test_slow_tests_run_where_they_are_asked_for(pytest_says: Any) -> None:
    assert names(pytest_says("--all")) == EARLY + SLOW + PLAIN + SKIPPED
    assert names(pytest_says("-m", "slow or long")) == ["test_long", *SLOW]
    assert names(pytest_says("-m", "not long")) == EARLY[:2] + PLAIN + SKIPPED
    assert names(pytest_says(name="::test_slow")) == SLOW
    assert names(pytest_says(name="::test_slow[2]")) == SLOW[1:]


def test_others_can_be_chosen_as_always(pytest_says: Any) -> None:
    assert names(pytest_says("-k", "kernel")) == EARLY[:2]
    assert names(pytest_says("-k", "slow or plain")) == ["test_plain"]
    assert names(pytest_says(name="::test_plain")) == ["test_plain"]


def test_one_line_for_each_reason(pytest_says: Any) -> None:
    lines = pytest_says()
    start = next(place for place, line in enumerate(lines) if "skipped tests by reason" in line)
    counted = [line.split(maxsplit=1) for line in lines[start + 1 : start + 3]]
    assert counted == [["2", "for one reason"], ["1", "for another"]]
    assert not [line for line in lines[start:] if line.startswith("SKIPPED")]


def test_telling_cases_exist() -> None:
    assert set(selection.TELLING) <= {case.title for case in CONV + TRANSPOSED}


@pytest.mark.parametrize(
    ("argument", "chosen"),
    [
        ("tests/test_a.py::test_b", True),
        ("./test_a.py::test_b[1-2]", True),
        ("tests/test_a.py::test_b[1-3]", False),
        ("tests/test_a.py::test", False),
        ("tests/test_c.py::test_b", False),
        ("tests/test_a.py", False),
    ],
)
def test_named(argument: str, chosen: bool) -> None:
    item: Any = SimpleNamespace(nodeid="tests/test_a.py::test_b[1-2]", path=SimpleNamespace(name="test_a.py"))
    assert selection.named(item, ["tests", argument]) == chosen
