"""Which implementation runs, and why the others did not."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from tritonconv import runtime
from tritonconv.fallback_warning import warn_once
from tritonconv.geometry import OPERATORS, ConvGeometry, Operator
from tritonconv.gpu import LEAST_CAPABILITY

# In the order of preference. "auto" takes the first that has no reason not to run.
IMPLEMENTATIONS = ("triton", "reference")
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Problem:
    """One call of one operator: all that choosing an implementation depends on."""

    operator: Operator
    geometry: ConvGeometry
    dtype: torch.dtype
    device: torch.device


def why_not(implementation: str, problem: Problem) -> str | None:
    """None if `implementation` can run `problem`, else the reason why it can not. The reference always can."""
    if implementation == "reference":
        return None
    if problem.dtype not in DTYPES:
        return f"the kernels compute in float16, bfloat16 or float32, not in {_name(problem.dtype)}"
    return runtime.no_triton() or _why_not_device(problem.device) or _why_not_size(problem) or _why_not_again(problem)


def _why_not_device(device: torch.device) -> str | None:
    if device.type not in ("cpu", "cuda"):
        return f"the kernels run on CUDA tensors, not on {device.type}"
    if runtime.interpreted():
        return None
    if device.type == "cpu":
        return "the tensors are on the CPU (TRITON_INTERPRET=1, set before Python starts, runs the kernels there)"
    capability, least = runtime.gpu_of(device).architecture.capability, LEAST_CAPABILITY
    if capability is not None and capability < least:
        why = f"Triton has no tensor-core path for compute capability {capability / 10}"
        return f"{why}: the kernels need {least / 10} or newer"
    return None


def _why_not_size(problem: Problem) -> str | None:
    """Positions, pixels, channels, taps of all channels, and programs are counted in 32 bits, with room for one tile.

    For all three operators alike, so that backward can run wherever forward did.
    """
    geometry = problem.geometry
    sampling = (geometry.stride_h, geometry.stride_w, geometry.dilation_h, geometry.dilation_w)
    if max(*sampling, geometry.pad_h, geometry.pad_w) >= 2**15:
        return "a stride, dilation or padding is 2^15 or more"
    channels, (rows, columns) = max(geometry.C, geometry.F), _reach(geometry)
    if channels >= _COUNTED:
        return f"{channels} channels are 2^31 or more"
    if max(rows, columns) >= _COUNTED:
        return f"the padded image, {rows} x {columns}, has an extent of 2^31 or more"
    for operator in OPERATORS:
        M, N, K, _ = geometry.gemm(operator)
        if max(M, N, K) >= _COUNTED:
            return f"the matrix product of {operator}, {M} x {N} x {K}, has an extent of 2^31 or more"
        M, N, _, G = geometry.launched(operator)
        # The smallest tile is 64 x 16, or of a weight for each location 16 x 16, but where there are few rows.
        if (1 + M // (16 if geometry.per_location else 64)) * (1 + N // 16) * G >= 2**31:
            return f"{operator} would take 2^31 programs or more"
    return None


# What 32 bits count, with room for one tile, and for the step of a stride or a tap beyond the last.
_COUNTED = 2**31 - 2**16


def _reach(geometry: ConvGeometry) -> tuple[int, int]:
    """The rows and columns between the first and the last that some tap may look at, padding included."""
    return (
        max(geometry.H + geometry.pad_h, (geometry.P - 1) * geometry.stride_h + geometry.R * geometry.dilation_h),
        max(geometry.W + geometry.pad_w, (geometry.Q - 1) * geometry.stride_w + geometry.S * geometry.dilation_w),
    )


# Why what failed in this process is not tried again: a kernel in a dtype on a device, or all that is on a device.
_failures: dict[tuple[Operator, str, torch.dtype, torch.device] | torch.device, str] = {}


def give_up(problem: Problem, reason: str, everything: bool) -> None:
    """From now on, Triton runs neither `problem`'s operator in its dtype, for weights that vary as its does, nor, if
    `everything`, any on its device.
    """
    _failures[problem.device if everything else _kernel(problem)] = reason


def _kernel(problem: Problem) -> tuple[Operator, str, torch.dtype, torch.device]:
    return problem.operator, problem.geometry.varies, problem.dtype, problem.device


def _why_not_again(problem: Problem) -> str | None:
    if not _failures:
        return None
    return _failures.get(problem.device) or _failures.get(_kernel(problem))


def choose(problem: Problem, wish: str = "auto") -> str:
    """The implementation that runs `problem`. A `wish` is granted or refused with NotImplementedError."""
    if wish == "auto":
        return next(name for name in IMPLEMENTATIONS if why_not(name, problem) is None)
    reason = why_not(wish, problem)
    if reason is not None:
        raise NotImplementedError(f"{wish}: {reason}")
    return wish


def choose_and_warn(problem: Problem, wish: str) -> str:
    """`choose`, with a `FallbackWarning` where the user of a GPU would have expected a kernel."""
    chosen = choose(problem, wish)
    if chosen == "reference" and wish != "reference" and runtime.is_gpu(problem.device):
        reason = why_not("triton", problem) or ""
        warn_once(f"{problem.operator} runs as reference: {reason}", reason)
    return chosen


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def known(implementation: str) -> str:
    """`implementation`, if there is one of that name; else ValueError."""
    if implementation not in ("auto", *IMPLEMENTATIONS):
        names = ", ".join(repr(name) for name in ("auto", *IMPLEMENTATIONS))
        raise ValueError(f"implementation must be one of {names}, but got {implementation!r}")
    return implementation


# Read once, so that a running cluster can be switched by restarting with another environment.
_FROM_ENVIRONMENT = known(os.environ.get("TRITONCONV_IMPLEMENTATION", "auto"))


class _Default(threading.local):
    implementation = _FROM_ENVIRONMENT


_default = _Default()


def requested(implementation: str | None) -> str:
    """What the caller asks for: the argument, else the innermost `using`, else the environment, else "auto"."""
    return _default.implementation if implementation is None else known(implementation)


@contextmanager
def using(implementation: str) -> Iterator[None]:
    """Within this block and thread, calls that name no implementation use this one, their backward included.

    >>> import torch, tritonconv
    >>> with tritonconv.using("reference"):
    ...     y = tritonconv.conv2d(torch.zeros(1, 3, 8, 8), torch.zeros(4, 3, 3, 3))
    >>> y.shape
    torch.Size([1, 4, 6, 6])
    """
    before = _default.implementation
    _default.implementation = known(implementation)
    try:
        yield
    finally:
        _default.implementation = before
