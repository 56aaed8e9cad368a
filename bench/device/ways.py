"""Two ways to run the same calls: with a switch of `tritonconv.gpu.Architecture` off, and with it on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bench.run.memory import Computation
from tritonconv import runtime
from tritonconv.call import Call
from tritonconv.geometry import Operator
from tritonconv.launch import bounded_cache, failures, plan_cache, planners
from tritonconv.launch.plan import TileRequest
from tritonconv.operators.library import torch_operators
from tritonconv.tiling.tile import Tile


@contextmanager
def switched(**switches: bool) -> Iterator[None]:
    """Within this block, plan all calls for a GPU whose architecture has these switches.

    The caches are empty at the start of the block, and again after it.
    """
    before = runtime.gpu_of
    runtime.gpu_of = lambda device: before(device).switched(**switches)  # type: ignore[assignment]
    bounded_cache.clear()
    try:
        yield
    finally:
        runtime.gpu_of = before
        bounded_cache.clear()


@contextmanager
def forced(tiles: Mapping[Operator, Tile]) -> Iterator[None]:
    """Within this block, plan calls of these operators with these tiles. Other operators choose their tiles."""
    planner: Any = planners
    choose: Callable[[TileRequest], Tile] = planner.tile_for
    planner.tile_for = lambda request: tiles.get(request.operator) or choose(request)
    try:
        yield
    finally:
        planner.tile_for = choose


def forget_failures() -> None:
    """Forget what failed so far, so that it is tried again. Otherwise another way is taken, without a word."""
    for failure in list(failures._reasons):
        failures.remove(failure)


class Way:
    """Calls on a device whose architecture has the given switches, with a plan cache of their own.

    So calls of two ways may take turns, as timing does, and neither is planned again. Make them within `taking_turns`.
    """

    def __init__(self, device: torch.device, **switches: bool) -> None:
        gpu = runtime.gpu_of(device).switched(**switches)
        self.gpu_of = lambda _: gpu
        self.plans: dict[Any, Any] = {}

    def computation(self, call: Call) -> Computation:
        """Return a function that makes the call this way, and returns a tuple of its one result."""
        operator, arguments = getattr(torch_operators, call.name), call.arguments

        def compute() -> tuple[Tensor]:
            plan_cache.plans.entries = self.plans
            runtime.gpu_of = self.gpu_of  # type: ignore[assignment]
            return (operator(*arguments),)

        return compute


@contextmanager
def taking_turns() -> Iterator[None]:
    """Within this block, calls of a `Way` may be made. After it, calls are planned as before it."""
    gpu_of, plans = runtime.gpu_of, plan_cache.plans.entries
    try:
        yield
    finally:
        runtime.gpu_of, plan_cache.plans.entries = gpu_of, plans


def same_bits(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors are equal. NaN counts as equal to NaN."""
    return all(
        a.dtype == b.dtype
        and torch.equal(a.isnan(), b.isnan())
        and torch.equal(*(t.where(~t.isnan(), 0) for t in (a, b)))
        for a, b in zip(one, other, strict=True)
    )
