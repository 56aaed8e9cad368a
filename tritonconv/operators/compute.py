"""Compute a call of an operator: in Triton if that may run it, and else by the reference."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from tritonconv import reference
from tritonconv.bias import broadcastable, sum_for
from tritonconv.call import OPERATOR_NAMES, Call
from tritonconv.launch import plan_cache, start
from tritonconv.launch.layout import allocate
from tritonconv.launch.recovery import Recovery
from tritonconv.operators.decision import decide
from tritonconv.operators.library import library

# Called with each call that ran in Triton, and its results: the last one counts. `tritonconv.verify` puts itself here,
# for all threads, because on CUDA another than the user's runs backward.
observers: list[Callable[[Call, tuple[Tensor, ...]], None]] = []


def compute(call: Call) -> tuple[Tensor, ...]:
    """The result of a call; of wgrad that `finds_bias`, also the gradient of the bias."""
    plan = plan_cache.find(call)
    if plan is None:
        return compute_first(call)
    start.start_kernels(plan)
    results = plan.results
    del plan  # its copies and workspaces are memory that an observer may need
    return observed(call, results) if observers else results


def compute_first(call: Call) -> tuple[Tensor, ...]:
    """Compute a call that no plan is kept of."""
    results = compute_in_triton(call)
    return compute_by_reference(call) if results is None else observed(call, results)


def compute_in_triton(call: Call) -> tuple[Tensor, ...] | None:
    """Compute a call with kernels, or None if the reference is to compute it.

    If a kernel fails, `Recovery` changes something, and the call is decided again.
    """
    with Recovery(call) as recovery:
        while True:
            generation = plan_cache.generation()
            decision = decide(call)
            plan = decision.plan
            if plan is None:
                decision.warn_of_fallback()
                return None
            try:
                compiled = start.start_kernels(plan)
            except Exception as error:
                if not recovery.handle(error, plan):
                    raise
                if recovery.gave_up:
                    # Decided here as well, so that the error is the cause or context of what is raised.
                    warn_or_refuse(call, error)
            else:
                recovery.succeed()
                plan_cache.keep(call, plan, compiled, generation)
                return plan.results
            del plan, decision  # the results are too large to keep while planning again


def warn_or_refuse(call: Call, error: Exception) -> None:
    """Warn that the reference computes a call, or raise NotImplementedError if Triton must, because of `error`."""
    try:
        decide(call).warn_of_fallback()
    except NotImplementedError as refusal:
        raise refusal from error


def observed(call: Call, results: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The results, after the last observer has seen them."""
    for observe in observers[-1:]:  # in one step, because other threads enter and leave
        observe(call, results)
    return results


def compute_by_reference(call: Call) -> tuple[Tensor, ...]:
    """What `compute` returns, computed by the reference."""
    first, second = call.factors
    result: Tensor = getattr(reference, call.operator)(first, second, **call.settings.reference_arguments)
    if call.bias is not None:
        result = result + broadcastable(call.bias)
    # A copy, because autograd must not see a view, nor the user's tensor keep a larger one alive.
    copied = allocate(call.result_shape, result, call.result_is_channels_last).copy_(result)
    return (copied, sum_for("", second)) if call.finds_bias else (copied,)


def torch_implementation(name: str) -> Callable[..., Any]:
    """What torch calls to compute the operator `name`."""

    def computed(*arguments: Any) -> Any:
        call = Call(name, arguments)
        results = compute(call)
        return results if call.finds_bias else results[0]

    return computed


for _name in OPERATOR_NAMES:
    library.impl(_name, torch_implementation(_name), "CompositeExplicitAutograd")
