"""Which tests run and in what order, and what the end of a run says about those that were skipped.

Slow tests run with `--all`, and where they are chosen by `-m` or named one by one (`tests/test_x.py::test_y`).
"""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

# Quick tests that notice most mistakes in the kernels come first, then all that run kernels. Then those begin that
# take longest, so that no worker is left with one at the end.
ORDER = ("first", "gpu", "long", "slow")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run slow tests, too")
    parser.addoption("--seed", type=int, default=0, help="each test draws its numbers from this seed and its name")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=turn)
    if config.option.all or config.option.markexpr:
        return
    left_out = {item for item in items if item.get_closest_marker("slow") and not named(item, config.args)}
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


def turn(item: pytest.Item) -> int:
    return next((turn for turn, marker in enumerate(ORDER) if item.get_closest_marker(marker)), len(ORDER))


def named(item: pytest.Item, arguments: list[str]) -> bool:
    """Whether one of the arguments of the command is the name of this test, or of the function that has its cases."""
    _, _, name = item.nodeid.partition("::")
    for argument in arguments:
        file, _, wanted = argument.partition("::")
        if wanted and Path(file).name == item.path.name and name in (wanted, f"{wanted}[{name.partition('[')[2]}"):
            return True
    return False


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line for each reason why tests were skipped."""
    reasons = Counter(reason(report) for report in terminalreporter.stats.get("skipped", []))
    if reasons:
        terminalreporter.section("skipped tests by reason", sep="=")
        for why, count in reasons.most_common():
            terminalreporter.line(f"{count:6} {why}")


def reason(report: pytest.TestReport) -> str:
    why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return " ".join(why.removeprefix("Skipped: ").split())
