"""Whether a call is plain: whether it may take the fast path, which bypasses torch's dispatcher."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad, profiler
from torch.nn import Parameter
from torch.utils._device import DeviceContext

from tritonconv.operators import compute

TYPES = (Tensor, Parameter)
_is_compiling = torch.compiler.is_dynamo_compiling


def dispatch_keys(*names: str) -> int:
    """Return the set of dispatch keys of these names as a number, which is quicker to look for than a set."""
    found = torch._C.DispatchKeySet(torch._C.DispatchKey.Undefined)
    for name in names:
        found = found.add(getattr(torch._C.DispatchKey, name))
    return found.raw_repr()


# These functions are private to torch. If a version lacks one, no call is plain. They are bound once, because looking
# them up takes longer than calling them.
try:
    # The dispatch keys of torch's own dense tensors: with autograd, and also those of tensors made in inference mode.
    WITH_AUTOGRAD = frozenset(
        dispatch_keys(device, f"Autocast{device}", "ADInplaceOrView", f"Autograd{device}") for device in ("CPU", "CUDA")
    )
    PLAIN_KEYS = WITH_AUTOGRAD | {dispatch_keys(device, f"Autocast{device}") for device in ("CPU", "CUDA")}
    _keys_of = torch._C._dispatch_keys
    _in_functorch = torch._C._are_functorch_transforms_active
    _tracing_state = torch._C._get_tracing_state
    _is_profiling = torch._C._autograd._profiler_enabled
    _dispatch_mode_count = torch._C._len_torch_dispatch_stack
    _function_mode_count = torch._C._len_torch_function_stack
    _function_mode_at = torch._C._get_function_stack_at
    _is_excluded = torch._C._dispatch_tls_is_dispatch_key_excluded
    _is_grad_enabled = torch.is_grad_enabled
    _AUTOGRAD = torch._C.DispatchKey.AutogradFunctionality
    in_any_autocast = torch._C._is_any_autocast_enabled
    _ = profiler._is_profiler_enabled
    AVAILABLE = True
except AttributeError:
    AVAILABLE = False


def is_plain(first: Any, second: Any, third: Any) -> bool:
    """Whether a call on these tensors may take the fast path. The third tensor may be None.

    It may not if

    - a tensor is of another type than Tensor and Parameter
    - the dispatch keys of a tensor are not those of a dense one: batches of vmap, negative and conjugate views, zero
      tensors, fake tensors and sparse ones have others
    - a functorch transform, forward-mode AD, `torch.compile`, `torch.jit.trace` or a profiler is active
    - a mode is active that sees torch's functions or operators, other than that of a default device
    - `tritonconv.verify` checks calls
    - gradients are enabled, but autograd is excluded from torch's dispatch, as in the body of a custom operator, or a
      tensor was made in inference mode
    """
    if (
        _is_compiling()  # first, because torch.compile can not trace the other questions
        or not AVAILABLE
        or compute.observers
        or _in_functorch()
        or forward_ad._current_level >= 0
        or _dispatch_mode_count()
        or _tracing_state() is not None
        or _is_profiling()
        or profiler._is_profiler_enabled  # also where other threads are profiled
        or (_function_mode_count() and not only_default_devices())
    ):
        return False
    keys = PLAIN_KEYS
    if _is_grad_enabled():
        if _is_excluded(_AUTOGRAD):
            return False
        keys = WITH_AUTOGRAD
    return (
        type(first) in TYPES
        and type(second) in TYPES
        and _keys_of(first).raw_repr() in keys
        and _keys_of(second).raw_repr() in keys
        and (third is None or (type(third) in TYPES and _keys_of(third).raw_repr() in keys))
    )


def only_default_devices() -> bool:
    """Whether all modes that see torch's functions are those of `torch.set_default_device` and `with torch.device`."""
    return all(type(_function_mode_at(i)) is DeviceContext for i in range(_function_mode_count()))
