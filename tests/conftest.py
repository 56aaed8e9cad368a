"""Fixtures of all tests, and the choice of where kernels run: on a GPU, or without one in Triton's interpreter.

Every test runs with NaN-filled outputs between guard bands; the interpreter also checks every address.
"""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton

from collections.abc import Iterator
from zlib import crc32

import pytest

import tritonconv
from tests.support import guards
from tests.support.interpreter import interpreting
from tests.support.selection import pytest_addoption, pytest_collection_modifyitems, pytest_terminal_summary  # noqa: F401
from tritonconv.launch import bounded_cache, failures

torch.set_num_threads(1)  # problems are tiny, and pytest-xdist's workers share the cores


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """Seed torch from --seed and the test's name, so that a test draws the same numbers whichever tests ran before."""
    torch.manual_seed(crc32(f"{request.config.getoption('seed')} {request.node.nodeid}".encode()))


@pytest.fixture(scope="session")
def device() -> str:
    """The device that the kernels run on: the GPU if there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def on_reference() -> Iterator[None]:
    """Run calls by the reference, unless they name another implementation. For tests that do not need the kernels."""
    with tritonconv.using("reference"):
        yield


@pytest.fixture(autouse=True, scope="session")
def quick_interpreter() -> Iterator[None]:
    """Run interpreted kernels by the quicker variant of Triton's interpreter (tests/support/interpreter.py)."""
    with interpreting():
        yield


@pytest.fixture(autouse=True)
def guarded_memory() -> Iterator[None]:
    """Fill new results and workspaces with NaN, check guard bands around them, and in the interpreter every address."""
    with guards.guarded_memory():
        yield


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start every test with empty caches and without recorded failures, and empty the caches after it.

    A test may plant errors, and the cache would keep the plans that have them.
    """
    monkeypatch.setattr(failures, "_reasons", {})
    bounded_cache.clear()
    yield
    bounded_cache.clear()
