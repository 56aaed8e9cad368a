"""A pytest plugin: a line of JSON for each test, written as it ends, so that nothing is lost when time is up."""

import json
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", type=Path, help="where to write the outcomes")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file whose tests can not be collected has failed: once, though pytest looks for doctests in it, too."""
    if report.failed and report.nodeid not in _not_collected:
        _not_collected.add(report.nodeid)
        write({"test": report.nodeid, "outcome": "failed", "seconds": 0.0, "message": str(report.longrepr)[-1500:]})


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Of each test the call, and setup and teardown where they fail or skip."""
    if report.when != "call" and report.passed:
        return
    line: dict[str, Any] = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 3)}
    if report.failed:
        line["message"] = str(report.longrepr)[-1500:]
    elif report.skipped:
        line["message"] = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    write(line)


def write(line: dict[str, Any]) -> None:
    if _file is not None:
        with _file.open("a") as file:
            file.write(json.dumps(line) + "\n")


_file: Path | None = None
_not_collected: set[str] = set()


def pytest_configure(config: pytest.Config) -> None:
    global _file
    # Under xdist the controller hears of every test, and the workers need not write.
    _file = None if hasattr(config, "workerinput") else config.getoption("--record")
