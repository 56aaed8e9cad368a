"""Plans of calls for a geometry, on operands that the test lays out."""

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
    """The call of an operator on those of the factors that it takes, as `Call.of_geometry` makes it."""
    return Call.of_geometry(operator, geometry, taken(operator, factors), bias, **how)


def meta_factors(geometry: ConvGeometry, dtype: torch.dtype = torch.float32) -> dict[Factor, Tensor]:
    """The three factors, in NCHW on the meta device."""
    names: tuple[Factor, ...] = ("x", "weight", "y")
    return {name: torch.empty(geometry.shape_of(name), dtype=dtype, device="meta") for name in names}


def planned(call: Call, tile: Tile | None = None, gpu: Gpu | None = None) -> Plan:
    """The plan of `call` with this tile: on `gpu`, or on what computes in this process."""
    return planners.plan(call, gpu or runtime.gpu_of(call.device), tile)
