"""Compile what a training step needs before the first one, in parallel processes."""

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from tritonconv import launch, processor
from tritonconv.dispatch import Problem, choose
from tritonconv.launch import Launch
from tritonconv.ops import Sampling, geometry_of


def warmup(model: Callable[..., Any], *inputs: Any, processes: int | None = None) -> None:
    """Compile every kernel that one training step of `model(*inputs)` launches, and print what was done.

    Inputs of another shape, dtype or memory format may need other kernels. Call it in the `torch.autocast` and `using`
    of the step. Nothing is computed and nothing of the model changes: forward and backward run on tensors without
    data. At most `processes` (by default, one for each CPU) compile at a time; what they compile they leave in Triton's
    cache on disk, so that the next start of the program finds it there. Raises what the model's forward raises.

    >>> import torch, tritonconv
    >>> model = tritonconv.Conv2d(3, 8, 3, dtype=torch.float64)
    >>> tritonconv.warmup(model, torch.zeros(2, 3, 8, 8, dtype=torch.float64))
    tritonconv.warmup: nothing to compile, because none of the 2 operators of a step runs in Triton
    """
    start = time.perf_counter()
    calls = step_calls(model, inputs)
    launches = [each for call in calls for each in launches_of(*call)]
    jobs = list({each.variant: each for each in launches}.values())
    step = f"the {len(calls)} operators of a step"
    if not launches:
        print(f"tritonconv.warmup: nothing to compile, because none of {step} runs in Triton")
    elif processor.interpreted():
        print(f"tritonconv.warmup: nothing to compile, because Triton's interpreter runs {step}")
    else:
        with torch.cuda.device_of(calls[0][1][0]):
            compiled, used = compile_all(jobs, processes or os.cpu_count() or 1)
        print(
            f"tritonconv.warmup: {len(jobs)} kernels for {step}: {compiled} compiled in {used} processes, "
            f"{len(jobs) - compiled} found in Triton's cache; {time.perf_counter() - start:.1f} s"
        )


def step_calls(model: Callable[..., Any], inputs: tuple[Any, ...]) -> list[tuple[str, tuple[Any, ...]]]:
    """Every call of an operator in a step, forward and backward: its name and arguments, the tensors without data."""
    listener = _Listener()
    # On one thread, because the listener hears only its own.
    with torch.autograd.set_multithreading_enabled(False), FakeTensorMode(allow_non_fake_inputs=True) as fake, listener:
        fakes = tree_map_only(Tensor, fake.from_tensor, inputs)
        if isinstance(model, nn.Module):
            tensors = (*model.named_parameters(), *model.named_buffers())
            state: dict[str, Tensor] = {name: fake.from_tensor(tensor) for name, tensor in tensors}
            outputs = torch.func.functional_call(model, state, fakes)
        else:
            outputs = model(*fakes)
        roots = [t for t in tree_leaves(outputs) if isinstance(t, Tensor) and t.requires_grad]
        if roots:
            # Gradients that lie in memory as the outputs do: those of a sum would have no strides.
            torch.autograd.backward(roots, [torch.empty_like(root) for root in roots])
    return listener.calls


class _Listener(TorchDispatchMode):
    """Notes every call of an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "tritonconv":
            self.calls.append((func._opname, args))
        return func(*args, **(kwargs or {}))


def launches_of(name: str, arguments: tuple[Any, ...]) -> list[Launch]:
    """What the operator `name` would launch, if Triton would run it."""
    sampling = Sampling.of(arguments)
    operator: Any = name.removesuffix("_with_bias")
    first, second, *bias = arguments[: -len(sampling)]
    geometry = geometry_of(operator, first.shape, second.shape, sampling)
    if choose(Problem(operator, geometry, first.dtype, first.device), sampling.implementation) != "triton":
        return []
    factors = tree_map_only(Tensor, without_data, (first, second, *(bias or [name == "wgrad_with_bias"])))
    plan = launch.PLANS[operator](*factors, geometry, sampling.channels_last, processor.device_of(first.device))
    return plan.launches


def without_data(tensor: Tensor) -> Tensor:
    """On the meta device a tensor has an address, which fake tensors do not: zero, aligned to anything."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def compile_all(jobs: list[Launch], processes: int) -> tuple[int, int]:
    """Compile in up to `processes` processes, then load what they left. Returns how many were compiled by how many."""
    from triton.runtime import driver

    target = driver.active.get_current_target()
    shares = [jobs[i::processes] for i in range(min(processes, len(jobs)))]
    with ThreadPoolExecutor(len(shares)) as pool:
        compiled = sum(pool.map(lambda share: compile_elsewhere(share, target), shares))
    for job in jobs:
        job.kernel.warmup(grid=(job.programs,), **job.arguments)
    return compiled, len(shares)


def compile_elsewhere(jobs: list[Launch], target: Any) -> int:
    """How many of `jobs` a process of its own compiled. If it fails, they are left to this one, which then says why."""
    portable = [
        (job.kernel.__module__, job.kernel.__name__, tree_map_only(Tensor, lambda t: t.dtype, job.arguments))
        for job in jobs
    ]
    done = subprocess.run(
        [sys.executable, "-c", "from tritonconv.warmup import worker; worker()"],
        input=pickle.dumps((target, portable)),
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    return int(done.stdout.split()[-1]) if done.returncode == 0 else 0


def worker() -> None:
    """The other side of `compile_elsewhere`: compiles what comes in, for a GPU that it need not see."""
    from triton import knobs
    from triton.runtime import driver

    target, jobs = pickle.load(sys.stdin.buffer)
    compiled = 0

    def count(*, cache_hit: bool, **_: Any) -> None:
        nonlocal compiled
        compiled += not cache_hit

    knobs.compilation.listener = count
    driver.set_active(Elsewhere(target))
    for module, name, arguments in jobs:
        kernel = getattr(import_module(module), name)
        tensors = tree_map_only(torch.dtype, lambda dtype: torch.empty(0, dtype=dtype, device="meta"), arguments)
        kernel.warmup(grid=(1,), **tensors)
    print(compiled)


class Elsewhere:
    """In the place of Triton's driver: a GPU that is only compiled for."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0
