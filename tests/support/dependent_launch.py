"""Whether wgrad computes the same with programmatic dependent launches (PDL) as without them, on a GPU that has them.

A second kernel that does not wait for the first one reads partial sums too early. How many depends on the moment. So
each plan runs many times, always with other numbers, and its new memory starts as NaN.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from tests.support.oracle import convolution_precision
from tritonconv import runtime
from tritonconv.call import Call
from tritonconv.geometry import ConvGeometry
from tritonconv.gpu import Gpu
from tritonconv.launch import bounded_cache, kept_plan, plan_cache, planners, start
from tritonconv.launch.kept_plan import KeptPlan
from tritonconv.launch.plan import Plan
from tritonconv.tiling.tile import Tile

# The first compute capability with dependent launches, times ten.
LEAST_CAPABILITY = 90
REPEATS = 50
# A problem that takes a GPU longer than it takes to launch a kernel.
GEOMETRY = ConvGeometry(B=32, C=128, H=28, W=28, F=128, P=28, Q=28, R=3, S=3, pad_h=1, pad_w=1)
GATHER, EXACT = Tile(64, 64, 32, 8, 2), Tile(64, 32, 16, 8, 3)
TMA = Tile(64, 64, 32, 4, 3, BLOCK_B=32, BLOCK_H=1, BLOCK_W=1)


class Problem(NamedTuple):
    """wgrad in `dtype` with `tile`, also of a bias if `bias`. The weight's gradient is channels last or contiguous."""

    dtype: torch.dtype
    tile: Tile
    bias: bool
    channels_last: bool = True

    @property
    def launches(self) -> int:
        """How many launches wgrad has: TMA kernels write a weight with its channels last, unless its sum is split."""
        direct = self.tile.uses_tma and self.tile.SPLIT_K == 1 and self.channels_last
        return 1 if direct and not self.bias else 2

    def __str__(self) -> str:
        return f"{self.dtype} {self.tile}{' with a bias' * self.bias}"


# Split, the programs do not all fit on a GPU at once. Then the second kernel starts only with the last of them.
PROBLEMS = [
    Problem(dtype, replace(tile, SPLIT_K=split), bias, channels_last)
    for dtype, tile, channels_last in (
        (torch.bfloat16, GATHER, True),
        (torch.bfloat16, TMA, True),
        (torch.float32, EXACT, False),
    )
    for split in (1, 32)
    for bias in (False, True)
]


def has_dependent_launches(gpu: Gpu) -> bool:
    """Whether such a GPU has dependent launches, whatever `Architecture.dependent_launch` says."""
    capability = gpu.architecture.capability
    return capability is not None and capability >= LEAST_CAPABILITY


def with_dependent_launch(gpu: Gpu, on: bool = True) -> Gpu:
    """Return the same GPU with dependent launches switched on or off."""
    return gpu.switched(dependent_launch=on)


def marks(plan: Plan) -> list[tuple[bool, bool]]:
    """Return for each launch whether its kernel was told of the dependent launch, and whether it is one."""
    return [(each.arguments["DEPENDENT_LAUNCH"], each.arguments.get("launch_pdl", False)) for each in plan.launches]


def expected_marks(launches: int, on: bool) -> list[tuple[bool, bool]]:
    """Return what `marks` must return. Only the second of two launches is a dependent launch."""
    return [(on, False), (on, on)] if launches == 2 else [(False, False)]


def differences(
    device: torch.device,
    problems: Sequence[Problem] = PROBLEMS,
    geometry: ConvGeometry = GEOMETRY,
    repeats: int = REPEATS,
) -> list[str]:
    """Return a line for each problem whose results with dependent launches are not those without, bit for bit."""
    found = []
    with convolution_precision("ieee"), filled_with_nan(device):
        for problem in problems:
            different = different_elements(problem, geometry, device, repeats)
            if different:
                found.append(f"{problem}: {different} elements of {repeats} results differ with dependent launches")
    return found


def different_elements(problem: Problem, geometry: ConvGeometry, device: torch.device, repeats: int) -> int:
    """Return how many elements of the results of `repeats` calls differ, or are NaN without dependent launches.

    The GPU runs all calls before the number is read.
    """
    about = dict(dtype=problem.dtype, device=device)
    x, y = (
        torch.ones(shape, **about).contiguous(memory_format=torch.channels_last)
        for shape in (geometry.image_shape, geometry.feature_shape)
    )
    how = dict(finds_bias=problem.bias, channels_last=problem.channels_last)
    call = Call.of_geometry("wgrad", geometry, (x, y), **how)
    without, dependent = (kept(call, problem, on) for on in (False, True))
    different = torch.zeros((), dtype=torch.int64, device=device)
    for _ in range(repeats):
        x.normal_()
        y.normal_()
        for right, found in zip(run(without, x, y), run(dependent, x, y), strict=True):
            different += (bits(right) != bits(found)).sum() + right.isnan().sum()
    return int(different)


def kept(call: Call, problem: Problem, on: bool) -> KeptPlan:
    """Return the kept plan of a call that has run once, with dependent launches on or off. Assert that they are."""
    gpu, generation = with_dependent_launch(runtime.gpu_of(call.device), on), bounded_cache.generation()
    plan = planners.plan(call, gpu, problem.tile)
    assert marks(plan) == expected_marks(problem.launches, on), problem
    compiled = start.start_kernels(plan)
    assert [each.metadata.launch_pdl for each in compiled] == [dependent for _, dependent in marks(plan)], problem
    plan_cache.keep(call, plan, compiled, generation)
    found = plan_cache.find(call)
    bounded_cache.clear()
    assert found is not None, problem
    return found


def run(plan: KeptPlan, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Start the kernels of a kept plan, and return its results."""
    tensors = start.run_again(plan, x, y, None)
    assert tensors is not None
    return plan.results_in(tensors)


def bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.int16 if tensor.itemsize == 2 else torch.int32)


@contextmanager
def filled_with_nan(device: torch.device) -> Iterator[None]:
    """Within this block, fill the new results and workspaces of kept plans on this kind of device with NaN."""
    allocate = kept_plan.allocators[device.type]

    def poisoned(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        memory = allocate(shape, strides, dtype)
        return memory.fill_(float("nan")) if dtype.is_floating_point else memory

    with patch.dict(kept_plan.allocators, {device.type: poisoned}):
        yield
