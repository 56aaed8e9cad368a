"""Units of `bench.device.exactness` that take the interpreter little time."""

import pytest
import torch

from bench import results
from bench.device import exactness
from bench.device.exactness_units import Unit, units
from tests.support.blocks import IN_INTERPRETER
from tritonconv import runtime
from tritonconv.geometry import OPERATORS
from tritonconv.gpu import Gpu

CPU = torch.device("cpu")
HERE = torch.device("cuda") if torch.cuda.is_available() else CPU
H100 = Gpu.of("sm_90", 132)


def small(name: str) -> Unit:
    """Return the unit of this name for the interpreter."""
    (found,) = [each for each in units(IN_INTERPRETER) if each.name == name]
    return found


# One unit of each operator that takes the interpreter little time, and a layer.
FPROP, DGRAD, WGRAD = (
    "fprop pointwise_groups, line, bfloat16",
    "dgrad pointwise_groups, line, bfloat16",
    "wgrad padded_by_strides, images, bfloat16",
)
OVERHANGING = "wgrad overhanging, line, bias, bfloat16"


def checked(unit: Unit, many: int = 0) -> results.Row:
    """Return the row of a unit."""
    return exactness.check(unit, CPU, exactness.about(unit, runtime.gpu_of(CPU), dict.fromkeys(OPERATORS, "a")), many)


needs_interpreter = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are not interpreted")
