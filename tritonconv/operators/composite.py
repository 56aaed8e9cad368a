"""The operators composed of torch's own operations, by the reference."""

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType

from tritonconv import reference
from tritonconv.bias import broadcastable, sum_for
from tritonconv.call import Call
from tritonconv.operators.decision import Decision
from tritonconv.reference.torch_rules.formats import widened

NESTED = "torch differentiates no autograd Function in forward mode inside forward mode"


def composed(call: Call) -> Tensor:
    """Return the result of `call`, bias included, as the reference computes it. 16 bits are not rounded yet."""
    first, second, bias = widened(*call.factors, call.bias)
    result: Tensor = getattr(reference, call.operator)(first, second, **call.settings.reference_arguments)
    return result if bias is None else result + broadcastable(bias)


def forward_mode_is_nested() -> bool:
    """Whether this call is inside two or more `torch.func.jvp` transforms. `jacfwd` is one, too."""
    transforms = torch._C._functorch.get_interpreter_stack() or []
    return sum(each.key() == TransformType.Jvp for each in transforms) > 1


def in_nested_forward_mode(name: str, arguments: tuple[Any, ...]) -> Any:
    """Return the result of the operator `name`, or both results of `wgrad_with_bias`, by the reference.

    In nested forward mode, an autograd Function would lose the derivative of its tangent without an error. On a GPU,
    warn of the fallback once. Raise NotImplementedError if the call insists on Triton.
    """
    call = Call(name, arguments)
    if call.settings.implementation == "triton":
        raise NotImplementedError(f"triton: {NESTED}")
    if call.settings.implementation == "auto":
        Decision(call, "reference", {"triton": NESTED}, None).warn_of_fallback()
    result = composed(call).to(call.dtype)
    return (result, sum_for("", call.factors[1])) if call.finds_bias else result
