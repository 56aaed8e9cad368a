"""A pytest plugin that writes a line of JSON as each test ends, so that nothing is lost if the tests are killed."""

import json
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", type=Path, help="write a line of JSON for each test to this file")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Record one failure for a file that pytest cannot collect. pytest reports it twice, because of its doctests."""
    if report.failed and report.nodeid not in _not_collected:
        _not_collected.add(report.nodeid)
        write({"test": report.nodeid, "outcome": "failed", "seconds": 0.0, "message": str(report.longrepr)[-1500:]})


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record the outcome of each test, and of its setup and teardown if these fail or skip."""
    if report.when != "call" and report.passed:
        return
    line: dict[str, Any] = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 3)}
    if report.failed:
        line["message"] = str(report.longrepr)[-1500:]
    elif report.skipped:
        line["message"] = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    write(line)


def write(line: dict[str, Any]) -> None:
    """Append a line of JSON to the file of --record. Do nothing if this process writes none."""
    if _file is not None:
        with _file.open("a") as file:
            file.write(json.dumps(line) + "\n")


_file: Path | None = None
_not_collected: set[str] = set()


def pytest_configure(config: pytest.Config) -> None:
    global _file
    # Under xdist the controller gets the report of every test, so the workers need not write.
    _file = None if hasattr(config, "workerinput") else config.getoption("--record")
