"""Which tests run and in what order, and what the end of a run says about those that were skipped.

Slow tests run with `--all`, and where they are chosen by `-m slow` or named one by one (`tests/test_x.py::test_y`).
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.cases import Case

# Quick tests that notice most mistakes in the kernels come first, then all that run kernels. Then those begin that
# take longest, so that no worker is left with one at the end.
ORDER = ("first", "gpu", "long", "slow")

# Cases whose kernels load, store or choose blocks otherwise in another dtype: of few channels and of many, one by one,
# by two, by vectors, in blocks of pixels, with phases, padding, groups and taps that are not packed into bits.
TELLING = (
    "plain",
    "transposed_plain",
    "strided",
    "transposed_strided",
    "grouped",
    "transposed_depthwise",
    "aligned",
    "transposed_aligned",
    "aligned_grouped",
    "aligned_by_two",
    "many_channels",
    "transposed_some_channels",
    "kernel_wider_than_the_bits",
    "offset",
)


def in_dtypes(
    cases: Sequence[Case],
    dtypes: Sequence[str] = ("float32", "bfloat16", "float16"),
    telling: Sequence[str] = TELLING,
) -> list[Any]:
    """Each case in each dtype, as parameters `case` and `dtype` of a test.

    Triton's interpreter multiplies and adds every dtype as float32. So without a GPU `make test` takes the telling
    cases in every dtype and the others in the first only. `make test-all` takes all.
    """
    everywhere = torch.cuda.is_available()
    return [
        pytest.param(
            case,
            dtype,
            id=f"{case.title}-{dtype}",
            marks=[] if everywhere or dtype == dtypes[0] or case.title in telling else [pytest.mark.slow],
        )
        for case in cases
        for dtype in dtypes
    ]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run slow tests, too")
    parser.addoption("--seed", type=int, default=0, help="each test draws its numbers from this seed and its name")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=turn)
    if config.option.all or "slow" in config.option.markexpr:
        return
    left_out = {item for item in items if item.get_closest_marker("slow") and not named(item, config.args)}
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


def turn(item: pytest.Item) -> int:
    """The place of a test in the order. What runs on the reference tells nothing about kernels, on a GPU or without."""
    markers = {marker.name for marker in item.iter_markers()}
    if "on_reference" in getattr(item, "fixturenames", ()):
        markers -= {"gpu"}
    return next((turn for turn, marker in enumerate(ORDER) if marker in markers), len(ORDER))


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
