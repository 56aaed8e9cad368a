"""Make a `Call` or a plan for a geometry, on operands that the test has made."""

from typing import Any

import torch
from torch import Tensor

from tritonconv import runtime
from tritonconv.call import Call
from tritonconv.geometry import ConvGeometry, Factor, Operator, taken
from tritonconv.gpu import Gpu
from tritonconv.launch import planners
from tritonconv.launch.plan import Plan
from tritonconv.tiling.tile import Tile


def call_of(
    operator: Operator, geometry: ConvGeometry, factors: dict[Factor, Tensor], bias: Tensor | None = None, **how: Any
) -> Call:
    """Return the call of an operator, which takes two of the three `factors`. `how` goes to `Call.of_geometry`."""
    return Call.of_geometry(operator, geometry, taken(operator, factors), bias, **how)


def meta_factors(geometry: ConvGeometry, dtype: torch.dtype = torch.float32) -> dict[Factor, Tensor]:
    """Return x, weight and y of this geometry: contiguous, on the meta device, so without data."""
    names: tuple[Factor, ...] = ("x", "weight", "y")
    return {name: torch.empty(geometry.shape_of(name), dtype=dtype, device="meta") for name in names}


def planned(call: Call, tile: Tile | None = None, gpu: Gpu | None = None) -> Plan:
    """Return the plan of `call`, with this tile if one is given.

    It is planned for `gpu` or, without one, for the GPU or interpreter that runs kernels in this process.
    """
    return planners.plan(call, gpu or runtime.gpu_of(call.device), tile)
