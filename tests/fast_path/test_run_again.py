"""A kept plan is run again on its own GPU, whichever GPU is current. `torch.cuda` and the launcher are replaced."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tritonconv.launch import kept_plan, start
from tritonconv.launch.kept_plan import Allocation, KeptLaunch, KeptPlan, TritonRuntime

pytest.importorskip("triton")

pytestmark = pytest.mark.oldest


class Devices:
    """Stands for `torch.cuda`'s functions for the current device. `entered` lists those that were switched to."""

    def __init__(self, current: int) -> None:
        self.current = current
        self.entered: list[int] = []

    def current_device(self) -> int:
        return self.current

    @contextmanager
    def device(self, index: int) -> Iterator[None]:
        self.entered.append(index)
        before, self.current = self.current, index
        try:
            yield
        finally:
            self.current = before


class Launcher:
    """Stands for the launcher of a compiled kernel, and notes what it is passed, and the current device."""

    def __init__(self, devices: Devices) -> None:
        self.devices = devices
        self.passed: list[tuple[int, tuple[Any, ...]]] = []

    def __call__(self, *values: Any) -> None:
        self.passed.append((self.devices.current, values))


def plan_of(launcher: Launcher, direct: bool) -> KeptPlan:
    """Return a plan on GPU 1 with one launch of four programs, whose arguments are its weight, 7, result and image."""
    unused: Any = None
    hooks = SimpleNamespace(launch_enter_hook=SimpleNamespace(calls=[]), launch_exit_hook=SimpleNamespace(calls=[]))
    pointers, values = [(0, 1), (2, 3), (3, 0)], [None, 7, None, None]

    def stream_of(index: int | None) -> int:
        return 100 + (index or 0)

    def publicly(tensors: list[Any]) -> None:
        launcher(tensors[1], 7, tensors[3], tensors[0])

    return KeptPlan(
        tile=unused,
        request=unused,
        kind="cuda",
        index=1,
        launches=[KeptLaunch(publicly, launcher, "function", "metadata", 4, values, pointers, descriptors=[])],
        triton=TritonRuntime(stream_of, hooks, ContextVar("allocator"), unused) if direct else None,
        allocations=[Allocation((2, 2), (1, 2), torch.float32)],
        results=1,
        copies=[],
        remainders=[0],
        multiplies_in_tf32=False,
    )


@pytest.mark.parametrize("current", [0, 1])
@pytest.mark.parametrize("direct", [True, False])
def test_the_device_of_the_plan_is_current_while_it_runs(
    direct: bool, current: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory, stream and launches are those of the plan's GPU. After that, the caller's GPU is current again."""
    devices = Devices(current)
    launcher, allocated = Launcher(devices), list[int]()

    def allocate(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        allocated.append(devices.current)
        return torch.empty_strided(shape, strides, dtype=dtype)

    monkeypatch.setattr(start, "_current_device", devices.current_device)
    monkeypatch.setattr(torch.cuda, "device", devices.device)
    monkeypatch.setitem(kept_plan.allocators, "cuda", allocate)
    x, weight = torch.ones(2), torch.ones(3)
    tensors = start.run_again(plan_of(launcher, direct), x, weight, None)
    assert tensors is not None
    assert allocated == [1]
    ((running_on, passed),) = launcher.passed
    assert running_on == 1
    before = (4, 1, 1, 101, "function", "metadata", None, None, None) if direct else ()
    assert passed[: len(before)] == before
    assert [*map(id, passed[len(before) :])] == [*map(id, (weight, 7, tensors[3], x))]
    assert devices.entered == ([] if current == 1 else [1])
    assert devices.current == current
