"""A pytest plugin that writes a line of JSON as each test ends, so that nothing is lost if the tests are killed.

It also leaves out tests that passed before, and begins no test that may not end in time.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

# The reason of tests that are not begun because there is no time.
LATER = "the time was up"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", type=Path, help="write a line of JSON for each test to this file")
    parser.addoption("--leave-out", type=Path, help="leave out the tests whose names this file lists, one a line")
    parser.addoption("--until", type=float, help="begin no test that may not end at this time of time.monotonic()")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that --leave-out lists."""
    path = config.getoption("--leave-out")
    known = set(path.read_text().splitlines()) if path else set()
    left_out = [item for item in items if item.nodeid in known]
    items[:] = [item for item in items if item.nodeid not in known]
    config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Record how many tests of each file will run. Under xdist, only its workers collect tests."""
    if not hasattr(session.config, "workerinput") and not session.config.pluginmanager.hasplugin("dsession"):
        collected([item.nodeid for item in session.items])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: Sequence[str]) -> None:
    """Record how many tests of each file will run. All workers collect the same."""
    if not _counted:
        collected(ids)


def collected(ids: Sequence[str]) -> None:
    if _file is not None:
        _counted.append(True)
        write({"collected": dict(Counter(each.partition("::")[0] for each in ids))})


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Record one failure for a file that pytest cannot collect. pytest reports it twice, because of its doctests."""
    if report.failed and report.nodeid not in _not_collected:
        _not_collected.add(report.nodeid)
        write({"test": report.nodeid, "outcome": "failed", "seconds": 0.0, "message": str(report.longrepr)[-1500:]})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Learn how long the longest test takes."""
    start = time.monotonic()
    result = yield
    _longest[0] = max(_longest[0], time.monotonic() - start)
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that may take as long as the longest one so far, if that is too long."""
    until = item.config.getoption("--until")
    if until is not None and time.monotonic() + _longest[0] >= until:
        pytest.skip(LATER)


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
_counted: list[bool] = []
_longest = [0.0]


def pytest_configure(config: pytest.Config) -> None:
    global _file
    # Under xdist the controller gets the report of every test, so the workers need not write.
    _file = None if hasattr(config, "workerinput") else config.getoption("--record")
