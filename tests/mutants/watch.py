"""A pytest plugin that is loaded by its path: the tests that find most mistakes first, each within a time limit."""

import os
import signal
from pathlib import Path

import pytest

# How the names of the tests begin that go first: small problems that differ in all that kernels distinguish.
EXACT = "tests/test_kernels.py::test_integers_are_exact"
CLOSE = "tests/test_kernels.py::test_agrees_with_float64"
FIRST = (
    f"{CLOSE}[strided]",
    f"{CLOSE}[aligned_grouped]",
    f"{CLOSE}[local_grouped]",
    f"{CLOSE}[per_sample_strided]",
    f"{CLOSE}[dynamic_bias_of_samples]",
    f"{CLOSE}[transposed_local_strided]",
    "tests/test_raster.py",
    "tests/test_launch.py",
    "tests/test_kernels.py::test_split_reductions[1-",
    "tests/test_kernels.py::test_split_reductions[2-",
    f"{CLOSE}[transposed_uneven_kernel]",
    f"{CLOSE}[tall_kernel]",
    f"{CLOSE}[grouped]",
    f"{CLOSE}[many_channels]",
    "tests/test_large_offsets.py",
    "tests/test_kernels.py::test_padding_does_not_spread_nan",
    "tests/test_kernels.py::test_nan_stays_in_its_filter",
    f"{CLOSE}[dilation_and_stride_share_factors]",
    f"{CLOSE}[kernel_taller_than_the_bits]",
    f"{CLOSE}[transposed_kernel_taller_than_the_bits]",
    f"{CLOSE}[transposed_kernel_wider_than_the_bits]",
    f"{CLOSE}[many_tiles_in_a_phase]",
    "tests/test_kernels.py::test_operands_beyond_32_bits",
    "tests/test_kernels.py::test_results_beyond_32_bits",
    "tests/test_phases.py",
    "tests/test_kernels.py::test_split_reductions",
    CLOSE,
    EXACT,
    "tests/test_every_tile.py",
)
# Seconds of processor time that one test may take; the slowest takes some ten of them. On a busy machine they last.
LIMIT = int(os.environ.get("MUTANTS_LIMIT", "90"))
# How many times as long a test may wait for something else, another process say.
WAITING = 20
RUNNING = Path("running.txt")


def rank(name: str) -> int:
    return next((place for place, start in enumerate(FIRST) if name.startswith(start)), len(FIRST))


def watch(name: str, limit: int = LIMIT) -> None:
    """From here on `name` is what fails. The timer ends the process, wherever it is."""
    RUNNING.write_text(name)
    signal.setitimer(signal.ITIMER_PROF, limit)
    signal.alarm(WAITING * limit)


def pytest_configure() -> None:
    watch("collection", 180)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: rank(item.nodeid))


def pytest_runtest_logstart(nodeid: str) -> None:
    watch(nodeid)


def pytest_sessionfinish() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.alarm(0)
