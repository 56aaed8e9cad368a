"""What has failed in this process and is not tried again: a tile, TMA or its descriptors, a kernel, or all of Triton.

Kept plans were chosen without knowing of a new failure, so each change here empties all caches of plans.
"""

from dataclasses import dataclass

import torch

from tritonconv.call import Call
from tritonconv.geometry import Operator
from tritonconv.gpu import Gpu
from tritonconv.launch import bounded_cache
from tritonconv.tiling.tile import Tile


@dataclass(frozen=True, slots=True)
class TileTooLarge:
    """The operator's tile took more shared memory or registers than the GPU has. `tile` has SPLIT_K = 1, whatever its
    SPLIT_K was.
    """

    operator: Operator
    gpu: Gpu
    tile: Tile


@dataclass(frozen=True, slots=True)
class NoTma:
    """The operator's TMA kernel did not compile for the GPU."""

    operator: Operator
    gpu: Gpu


@dataclass(frozen=True, slots=True)
class NoHostDescriptors:
    """The operator's TMA kernel did not run for the GPU with descriptors that the host makes."""

    operator: Operator
    gpu: Gpu


@dataclass(frozen=True, slots=True)
class NoDependentLaunch:
    """A kernel of wgrad did not compile for the GPU with a dependent launch."""

    gpu: Gpu


@dataclass(frozen=True, slots=True)
class NoKernel:
    """The operator's kernel did not compile for this dtype and device, and for weights that vary over these letters."""

    operator: Operator
    varies: str
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, call: Call) -> "NoKernel":
        """Return the failure that stands for the kernel of `call`, whether or not it happened."""
        return cls(call.operator, call.settings.varies, call.dtype, call.device)


@dataclass(frozen=True, slots=True)
class NoTriton:
    """Triton could build no kernel for the device."""

    device: torch.device


Failure = TileTooLarge | NoTma | NoHostDescriptors | NoDependentLaunch | NoKernel | NoTriton

# The reason of each failure, in the words that the user reads.
_reasons: dict[Failure, str] = {}


def add(failure: Failure, reason: str) -> None:
    """Remember a failure and its reason, so that what failed is not tried again."""
    _reasons[failure] = reason
    bounded_cache.clear()


def remove(failure: Failure) -> None:
    """Forget a failure if it is remembered, so that what failed is tried again."""
    _reasons.pop(failure, None)
    bounded_cache.clear()


def any_happened() -> bool:
    """Whether a failure is remembered."""
    return bool(_reasons)


def happened(failure: Failure) -> bool:
    """Whether this failure is remembered."""
    return failure in _reasons


def why_not_again(call: Call) -> str | None:
    """Return why Triton does not run `call` again: its kernel or its device failed before. None if neither did."""
    if not _reasons:
        return None
    return _reasons.get(NoTriton(call.device)) or _reasons.get(NoKernel.of(call))
