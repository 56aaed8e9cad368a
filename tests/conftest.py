"""Without a GPU the kernels run in Triton's interpreter: in poisoned, fenced memory, with every address checked."""

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
from tritonconv.launch import failures, plan_cache

torch.set_num_threads(1)  # problems are tiny, and workers share the cores


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """The same numbers in each run, whichever tests ran before; others with another --seed."""
    torch.manual_seed(crc32(f"{request.config.getoption('seed')} {request.node.nodeid}".encode()))


@pytest.fixture(scope="session")
def device() -> str:
    """Where the kernels run: the GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def on_reference() -> Iterator[None]:
    """For what happens above the kernels, and does not depend on them."""
    with tritonconv.using("reference"):
        yield


@pytest.fixture(autouse=True, scope="session")
def quick_interpreter() -> Iterator[None]:
    """Triton's interpreter, without the work that it repeats."""
    with interpreting():
        yield


@pytest.fixture(autouse=True)
def guarded_memory() -> Iterator[None]:
    """Every output starts as NaN between two fences, which must stand at the end; the interpreter checks addresses."""
    with guards.guarded_memory():
        yield


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test plans its calls anew, and knows of no failure: another may have planted errors in what it planned."""
    monkeypatch.setattr(failures, "_reasons", {})
    plan_cache.clear()
    yield
    plan_cache.clear()
