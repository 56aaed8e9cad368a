"""Without a GPU the kernels run in Triton's interpreter: in poisoned, fenced memory, with every address checked."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton

from collections.abc import Iterator, Sequence

import pytest
from torch import Tensor

import tritonconv
from tests import guards
from tritonconv import launch

torch.set_num_threads(1)  # problems are tiny, and workers share the cores


@pytest.fixture(scope="session")
def device() -> str:
    """Where the kernels run: the GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def on_reference() -> Iterator[None]:
    """For what happens above the kernels, and does not depend on them."""
    with tritonconv.using("reference"):
        yield


@pytest.fixture
def guarded_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every output starts as NaN between two fences, which must stand at the end; the interpreter checks addresses."""
    outputs: list[tuple[Tensor, Tensor]] = []
    plain = launch.allocate

    def poisoned(shape: Sequence[int], like: Tensor, channels_last: bool, dtype: torch.dtype | None = None) -> Tensor:
        wanted = plain(shape, like, channels_last, dtype)
        if wanted.device.type == "meta" or not guards.guardable(wanted):
            return wanted
        result, storage = guards.fence(wanted.fill_(float("nan")), guards.FENCE)
        outputs.append((result, storage))
        return result

    monkeypatch.setattr(launch, "allocate", poisoned)
    with guards.checked_addresses():
        yield
    for result, storage in outputs:
        assert guards.fences_stand(result, storage), "a kernel wrote outside its output"
