"""Which implementation runs a call, and why the others do not."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tritonconv import runtime
from tritonconv.call import Call
from tritonconv.geometry import OPERATORS, ConvGeometry
from tritonconv.gpu import LEAST_CAPABILITY
from tritonconv.launch import failures

# In order of preference. "auto" takes the first one that can run the call.
IMPLEMENTATIONS = ("triton", "reference")
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def why_not(implementation: str, call: Call) -> str | None:
    """Return the reason why `implementation` can not run `call`. None if it can. The reference always can."""
    if implementation == "reference":
        return None
    if call.dtype not in DTYPES:
        return f"the kernels compute in float16, bfloat16 or float32, not in {_name(call.dtype)}"
    return (
        runtime.no_triton()
        or _why_not_device(call.device)
        or _why_not_size(call.geometry)
        or failures.why_not_again(call)
    )


def _why_not_device(device: torch.device) -> str | None:
    """Return the reason why the kernels can not run on the device. None if they can."""
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


def _why_not_size(geometry: ConvGeometry) -> str | None:
    """Return the reason why the convolution is too large for the kernels. None if it is not.

    The kernels count positions, pixels, channels, the elements of a filter, and programs in 32 bits, with room for one
    tile. The limits hold for all three operators alike, so that backward can run wherever forward did.
    """
    sampling = (geometry.stride_h, geometry.stride_w, geometry.dilation_h, geometry.dilation_w)
    if max(*sampling, geometry.pad_h, geometry.pad_w) >= 2**15:
        return "a stride, dilation or padding is 2^15 or more"
    channels, (rows, columns) = max(geometry.C, geometry.F), _reach(geometry)
    if channels >= _COUNTED:
        return f"{channels} channels are too many for {_INDICES}"
    if max(rows, columns) >= _COUNTED:
        return f"the padded image, {rows} x {columns}, is too large for {_INDICES}"
    for operator in OPERATORS:
        M, N, K, G = geometry.gemm(operator)
        if max(M, N, K) >= _COUNTED:
            return f"the matrix product of {operator}, {M} x {N} x {K}, is too large for {_INDICES}"
        if operator == "dgrad":  # the others launch programs for the product itself
            M, N, _, G = geometry.launched(operator)
        # The smallest tile is 64 x 16, or 16 x 16 for a weight of each location. With few rows it is smaller.
        if (1 + M // (16 if geometry.per_location else 64)) * (1 + N // 16) * G >= 2**31:
            return f"{operator} would launch 2^31 programs or more, which a GPU can not"
    return None


# The limit of 32-bit counts, with room for one tile, and for the step of a stride or a tap beyond the last.
_COUNTED = 2**31 - 2**16
_INDICES = "the kernels' 32-bit indices, which must stay below 2^31 - 2^16"


def _reach(geometry: ConvGeometry) -> tuple[int, int]:
    """Return how many rows and columns the taps may look at, padding included, with room for one more tap.

    They are at least those of the image with its leading padding.
    """
    return (
        max(geometry.H + geometry.pad_h, (geometry.P - 1) * geometry.stride_h + geometry.R * geometry.dilation_h),
        max(geometry.W + geometry.pad_w, (geometry.Q - 1) * geometry.stride_w + geometry.S * geometry.dilation_w),
    )


def choose(call: Call) -> tuple[str, dict[str, str]]:
    """Return the implementation that runs `call`, and for each one that is preferred to it the reason why it does not.

    If the call names an implementation, none is preferred to that. Raise NotImplementedError, with the reason, if the
    named implementation can not run the call.
    """
    asked = call.settings.implementation
    if asked != "auto":
        reason = why_not(asked, call)
        if reason is not None:
            raise NotImplementedError(f"{asked}: {reason}")
        return asked, {}
    reasons: dict[str, str] = {}
    for name in IMPLEMENTATIONS:
        reason = why_not(name, call)
        if reason is None:
            return name, reasons
        reasons[name] = reason
    raise AssertionError("the reference refuses nothing")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def known(implementation: str) -> str:
    """Return `implementation` unchanged. Raise ValueError if it is not "auto" or one of IMPLEMENTATIONS."""
    if implementation not in ("auto", *IMPLEMENTATIONS):
        names = ", ".join(repr(name) for name in ("auto", *IMPLEMENTATIONS))
        raise ValueError(f"implementation must be one of {names}, but got {implementation!r}")
    return implementation


# Read once, at import: a running cluster is switched by a restart with another environment.
_FROM_ENVIRONMENT = known(os.environ.get("TRITONCONV_IMPLEMENTATION", "auto"))


class _Default(threading.local):
    implementation = _FROM_ENVIRONMENT


_default = _Default()


def requested(implementation: str | None) -> str:
    """Return the implementation that is asked for, by name: the argument, unless it is None.

    If it is None, the innermost `using` of this thread decides, else the environment, else it is "auto". Raise
    ValueError if the argument is not a known name.
    """
    return _default.implementation if implementation is None else known(implementation)


@contextmanager
def using(implementation: str) -> Iterator[None]:
    """Choose the implementation for all calls in this block, in this thread.

    It does not apply to calls and layers that choose for themselves, by their argument or attribute `implementation`.
    A backward pass follows the choice for its forward pass, also after the block. Outside of `using`, the environment
    variable TRITONCONV_IMPLEMENTATION chooses for the whole process.

    Args:
        implementation: "triton", "reference", or "auto" for Triton where it can run.

    Raises:
        ValueError: for any other name.
        NotImplementedError: from a call in the block, if "triton" was chosen and Triton can not run the call.

    To find out whether a training problem comes from the kernels, train a few steps without them:

    >>> import torch, tritonconv
    >>> model = tritonconv.Conv2d(3, 4, 3)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with tritonconv.using("reference"):
    ...     for images in torch.randn(3, 2, 3, 8, 8):
    ...         optimizer.zero_grad()
    ...         model(images).square().mean().backward()
    ...         optimizer.step()
    """
    before = _default.implementation
    _default.implementation = known(implementation)
    try:
        yield
    finally:
        _default.implementation = before
