"""Whether a call is plain: whether it may take the fast path, which torch's dispatcher does not see."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.utils._device import DeviceContext

TYPES = (Tensor, Parameter)


def dispatch_keys(*names: str) -> int:
    """Return the set of dispatch keys of these names as a number, which is quicker to look for than a set."""
    found = torch._C.DispatchKeySet(torch._C.DispatchKey.Undefined)
    for name in names:
        found = found.add(getattr(torch._C.DispatchKey, name))
    return found.raw_repr()


# What is asked of torch is private to it. Were a version without one of these, no call would be plain there. They are
# bound once, because looking them up takes longer than calling them.
try:
    # The dispatch keys of torch's own dense tensors: those made in inference mode, without autograd, and all others.
    PLAIN_KEYS = frozenset(
        dispatch_keys(device, f"Autocast{device}", *autograd)
        for device in ("CPU", "CUDA")
        for autograd in ((), ("ADInplaceOrView", f"Autograd{device}"))
    )
    _keys_of = torch._C._dispatch_keys
    _in_functorch = torch._C._are_functorch_transforms_active
    _tracing_state = torch._C._get_tracing_state
    _is_profiling = torch._C._autograd._profiler_enabled
    _dispatch_modes = torch._C._len_torch_dispatch_stack
    _function_modes = torch._C._len_torch_function_stack
    _function_mode = torch._C._get_function_stack_at
    _is_excluded = torch._C._dispatch_tls_is_dispatch_key_excluded
    _is_grad_enabled = torch.is_grad_enabled
    _AUTOGRAD = torch._C.DispatchKey.AutogradFunctionality
    in_any_autocast = torch._C._is_any_autocast_enabled
    AVAILABLE = True
except AttributeError:
    AVAILABLE = False


def is_plain(first: Any, second: Any, third: Any) -> bool:
    """Whether a call on these tensors does no more than compute its result, and its gradients later.

    It is not plain if a tensor has another type than torch's own two, or other dispatch keys than a dense tensor: those
    of subclasses, of batches of vmap, of negative and conjugate views, of zero tensors, and of fake or sparse ones. Nor
    is it if a functorch transform, forward-mode AD, a mode, `torch.jit.trace` or a profiler is active, because these
    must see the operator. A default device is no such mode. Nor is it plain if gradients are enabled, but autograd is
    excluded from torch's dispatch. In inference mode autograd is excluded, too, but gradients are not enabled, so that
    nothing is recorded either way. The third tensor may be None.
    """
    if (
        not AVAILABLE
        or _in_functorch()
        or forward_ad._current_level >= 0
        or _dispatch_modes()
        or _tracing_state() is not None
        or _is_profiling()
        or (_is_excluded(_AUTOGRAD) and _is_grad_enabled())
        or (_function_modes() and not only_default_devices())
    ):
        return False
    return (
        type(first) in TYPES
        and type(second) in TYPES
        and _keys_of(first).raw_repr() in PLAIN_KEYS
        and _keys_of(second).raw_repr() in PLAIN_KEYS
        and (third is None or (type(third) in TYPES and _keys_of(third).raw_repr() in PLAIN_KEYS))
    )


def only_default_devices() -> bool:
    """Whether all modes that see torch's functions are those of `torch.set_default_device` and `with torch.device`."""
    return all(type(_function_mode(i)) is DeviceContext for i in range(_function_modes()))
