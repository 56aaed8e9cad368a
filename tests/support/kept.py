"""Plans as values that can be compared: those that the plan cache returns, those that it was given, and new ones."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.support.plans import planned
from tritonconv.call import Call
from tritonconv.geometry import ConvGeometry
from tritonconv.gpu import Gpu
from tritonconv.launch import bounded_cache, plan_cache
from tritonconv.launch.kept_plan import KeptPlan
from tritonconv.launch.plan import Plan
from tritonconv.tiling.tile import Tile


class FakeCompiled:
    """Stands for what Triton has compiled of a kernel. Starting it only calls `note`."""

    def __init__(self, kernel: Any = None) -> None:
        self.of = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *arguments: self.note(self.of, grid, arguments)

    def note(self, kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        """Take note of a start."""


def row_call(width: int, device: str) -> Call:
    """Return a call on an image of one row of this width. Calls of different widths have plans of their own."""
    geometry = ConvGeometry(B=1, C=4, H=1, W=width, F=4, P=1, Q=width, R=1, S=1)
    x, weight = torch.ones(geometry.image_shape, device=device), torch.ones(geometry.weight_shape, device=device)
    return Call.of_geometry("fprop", geometry, (x, weight))


def keep(call: Call, tile: Tile | None = None, gpu: Gpu | None = None) -> Plan:
    """Plan a call and keep the plan, as if its kernels had been compiled and had run. Return the plan."""
    generation = bounded_cache.generation()
    plan = planned(call, tile, gpu)
    plan_cache.keep(call, plan, [FakeCompiled(each.kernel) for each in plan.launches], generation)
    return plan


class Started(NamedTuple):
    """What one launch starts: how many programs, and the kernel's arguments by their names, without launch options."""

    programs: int
    arguments: dict[str, Any]


class Found(NamedTuple):
    """A plan of the plan cache with the tensors of a call, by their numbers."""

    plan: KeptPlan
    tensors: list[Any]

    @property
    def results(self) -> tuple[Tensor, ...]:
        return self.plan.results_in(self.tensors)


def find(call: Call) -> Found | None:
    """Return the plan that is kept for `call`, with its tensors. None if none is kept, or if it can not be filled."""
    plan = plan_cache.find(call)
    tensors = None if plan is None else plan.filled(*call.factors, call.bias)
    return None if plan is None or tensors is None else Found(plan, tensors)


def started(found: Found, new: Plan) -> list[Started]:
    """Return what starting a plan of the plan cache would start. `new` is a plan with the same kernels, planned anew.

    The kernels are FakeCompiled. A kept plan has no names of arguments, which have only an order.
    """
    starts: list[Started] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeCompiled, "note", lambda _, kernel, grid, arguments: noted.append((kernel, grid, arguments)))
        noted: list[Any] = []
        for each in found.plan.launches:
            each.start(found.tensors)
    for (kernel, grid, arguments), named in zip(noted, new.launches, strict=True):
        assert kernel is named.kernel
        starts.append(Started(grid[0], dict(zip(named.kernel.arg_names, arguments, strict=True))))
    return starts


def newly_started(plan: Plan) -> list[Started]:
    """Return what a plan would start that was planned anew."""
    return [
        Started(each.programs, {name: each.arguments[name] for name in each.kernel.arg_names}) for each in plan.launches
    ]


def numbers(launches: list[Started]) -> list[tuple[int, dict[str, Any]]]:
    """Return the programs of each launch, and the arguments that are no tensors."""
    return [
        (programs, {name: value for name, value in arguments.items() if not isinstance(value, Tensor)})
        for programs, arguments in launches
    ]


def compiled_for(launches: list[Started]) -> list[dict[str, tuple[torch.dtype, torch.device, bool]]]:
    """Return what the kernels of each launch are compiled for, of each argument that is a tensor.

    That is its dtype and device, and whether it is aligned to 16 bytes. Triton ignores how a bias is aligned.
    """
    return [
        {
            name: (value.dtype, value.device, name == "bias_ptr" or value.data_ptr() % 16 == 0)
            for name, value in arguments.items()
            if isinstance(value, Tensor)
        }
        for _, arguments in launches
    ]
