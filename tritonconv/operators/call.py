"""Compute a call of an operator: in Triton if that may run it, and else by the reference."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from tritonconv import reference, runtime
from tritonconv.dispatch import Problem, choose_and_warn
from tritonconv.geometry import Operator
from tritonconv.launch import plan_cache, recovery, start
from tritonconv.launch.layout import summand
from tritonconv.operators.library import Sampling, allocate_result, geometry_of, library

# Called with each call that ran in Triton, and its results: the last one counts. `tritonconv.verify` puts itself here,
# for all threads, because on CUDA another than the user's runs backward.
observers: list[Callable[..., None]] = []


def fprop(x: Tensor, weight: Tensor, bias: Tensor | None, *sampling: Any) -> Tensor:
    return run("fprop", x, weight, bias, Sampling(*sampling))[0]


def dgrad(y: Tensor, weight: Tensor, bias: Tensor | None, *sampling: Any) -> Tensor:
    return run("dgrad", y, weight, bias, Sampling(*sampling))[0]


def wgrad(x: Tensor, y: Tensor, *sampling: Any) -> Tensor:
    return run("wgrad", x, y, False, Sampling(*sampling))[0]


def wgrad_with_bias(x: Tensor, y: Tensor, *sampling: Any) -> tuple[Tensor, ...]:
    if Sampling(*sampling).varies:
        raise ValueError("wgrad_with_bias is for a weight that does not vary: sum the features instead")
    return run("wgrad", x, y, True, Sampling(*sampling))


def run(
    operator: Operator, first: Tensor, second: Tensor, bias: Tensor | bool | None, sampling: Sampling
) -> tuple[Tensor, ...]:
    """Choose an implementation and compute. `bias` is added by fprop and dgrad, and says whether wgrad finds one."""
    results = run_in_triton(operator, first, second, bias, sampling)
    if results is not None:
        for observe in observers[-1:]:  # in one step, because other threads enter and leave
            geometry = geometry_of(operator, first.shape, second.shape, sampling)
            observe(operator, first, second, bias, geometry, sampling.channels_last, results)
        return results
    geometry = geometry_of(operator, first.shape, second.shape, sampling)
    result: Tensor = getattr(reference, operator)(first, second, *sampling[:6])
    if isinstance(bias, Tensor):
        result = result + summand(bias)
    # A copy, because autograd must not see a view, nor the user's tensor keep a larger one alive.
    result = allocate_result(operator, geometry, result, sampling.channels_last).copy_(result)
    return (result, second.sum((0, 2, 3))) if bias is True else (result,)


def run_in_triton(
    operator: Operator, first: Tensor, second: Tensor, bias: Tensor | bool | None, sampling: Sampling
) -> tuple[Tensor, ...] | None:
    """Compute, as such a call was computed before if there was one. None if the reference is to compute."""
    call = (operator, *map(tuple, sampling[:4]), *sampling[4:])
    plan = plan_cache.again(first, second, bias, call)
    if plan is not None:
        return start.run(plan)
    geometry = geometry_of(operator, first.shape, second.shape, sampling)
    problem = Problem(operator, geometry, first.dtype, first.device)
    wish, channels_last = sampling.implementation, sampling.channels_last
    if choose_and_warn(problem, wish) != "triton":
        return None
    device = runtime.gpu_of(first.device)
    plan = recovery.run(problem, wish, first, second, bias, geometry, channels_last, device)
    if plan is None:
        return None
    plan_cache.keep(plan, first, second, bias, call)
    return plan.results


for _function in (fprop, dgrad, wgrad, wgrad_with_bias):
    library.impl(_function.__name__, _function, "CompositeExplicitAutograd")
