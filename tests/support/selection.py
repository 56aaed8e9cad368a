"""Test selection: which tests pytest runs, in which order, and a summary of those that were skipped.

Tests marked `slow` run only with `--all`, with `-m slow`, or if named one by one (`tests/test_x.py::test_y`).
tests/conftest.py imports the hooks of pytest below, which makes them active.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.cases import Case

# Tests run in the order of their markers. First come quick tests that find most mistakes in the kernels, then all
# others that run kernels. Then the longest begin, so that no worker of pytest-xdist still runs one at the end.
ORDER = ("first", "gpu", "long", "slow")

# Named cases that run in every dtype, because there the dtype changes how kernels load, store or choose blocks. They
# cover few and many channels, and loads of one element, of two and of vectors. They also cover blocks of pixels,
# sub-images of a stride, padding, groups, and filters with too many taps to pack their masks into bits.
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
    """Return pytest parameters (`case`, `dtype`): each case in each dtype.

    Triton's interpreter multiplies and adds every dtype as float32. So without a GPU all but the first dtype are marked
    slow, except for the cases whose titles are in `telling`. `make test` leaves slow parameters to `make test-all`.
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
    parser.addoption(
        "--all", action="store_true", help="also run the tests that are marked slow, as make test-all does"
    )
    parser.addoption(
        "--seed",
        type=int,
        default=0,
        help="seed of the random numbers in all tests; each test adds its own name (default: 0)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=turn)
    if config.option.all or "slow" in config.option.markexpr:
        return
    left_out = {item for item in items if item.get_closest_marker("slow") and not named(item, config.args)}
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


def turn(item: pytest.Item) -> int:
    """Return the place of a test in `ORDER`, by the first marker there that it has. Without any it is last.

    A test that uses the fixture `on_reference` runs no kernels, so its marker `gpu` does not count.
    """
    markers = {marker.name for marker in item.iter_markers()}
    if "on_reference" in getattr(item, "fixturenames", ()):
        markers -= {"gpu"}
    return next((turn for turn, marker in enumerate(ORDER) if marker in markers), len(ORDER))


def named(item: pytest.Item, arguments: list[str]) -> bool:
    """Whether one of the command line's `arguments` names this test, or its function without the parameters.

    Of an argument's path, only the file's name is compared.
    """
    _, _, name = item.nodeid.partition("::")
    for argument in arguments:
        file, _, wanted = argument.partition("::")
        if wanted and Path(file).name == item.path.name and name in (wanted, f"{wanted}[{name.partition('[')[2]}"):
            return True
    return False


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print each reason for which tests were skipped, with the number of these tests."""
    reasons = Counter(reason(report) for report in terminalreporter.stats.get("skipped", []))
    if reasons:
        terminalreporter.section("skipped tests by reason", sep="=")
        for why, count in reasons.most_common():
            terminalreporter.line(f"{count:6} {why}")


def reason(report: pytest.TestReport) -> str:
    """Return the reason that a skipped test gave, on one line."""
    why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return " ".join(why.removeprefix("Skipped: ").split())
