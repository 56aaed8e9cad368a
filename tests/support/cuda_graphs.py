"""Checks of CUDA graphs: a replayed step computes the same bits as an eager one. They need a GPU.

`CHECKS` has all checks by name, in the order in which they are to run: the last one unloads kernels, which graphs that
still exist would start. Each check takes a few seconds, most of them for compiling. It raises AssertionError if
something is wrong. `python -m tests.support.cuda_graphs` and tests/api/test_cuda_graphs.py run them. Without a GPU, the
latter runs those of `REHEARSED` with eager calls in the place of graphs, which shows that the checks are right.
"""

import gc
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import tritonconv
from tests.support.graph_problems import ON_GPU, Problem, Training, assert_same_bits
from tritonconv import runtime
from tritonconv.launch import bounded_cache, plan_cache, scratch, start
from tritonconv.tools import parallel_compile

Step = Callable[[], list[Tensor]]


def captured(step: Step) -> tuple[Callable[[], None], list[Tensor]]:
    """Capture a step. Return the function that replays it, and its results, which each replay computes anew."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    return graph.replay, results


def on_side_stream(work: Callable[[], object]) -> None:
    """Do work on another stream, as torch's documentation advises for steps before a capture."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)


def assert_ways_differ(device: str) -> None:
    """Assert that some kept plans use TMA, and some do not, if the GPU has TMA."""
    if device == "cuda" and runtime.gpu_of(torch.device("cuda", 0)).architecture.tma:
        ways = {plan.tile.uses_tma for plan in plan_cache.plans.entries.values()}
        assert ways == {True, False}, f"the plans that use TMA, and those that do not: {ways}"


def disturb(problem: Problem) -> None:
    """Overwrite whatever memory was freed that a graph still needs.

    Kept plans and buffers of scratch memory are dropped, and garbage is collected. Tensors of all sizes are filled with
    NaN. Steps of other sizes then plan, and allocate new buffers.
    """
    bounded_cache.clear()
    scratch.buffers.clear()
    gc.collect()
    sizes = [2**k for k in range(9, problem.overwritten.bit_length())]
    held = [torch.full((size // 4,), float("nan"), device=problem.device) for size in sizes for _ in range(4)]
    for images in (1, 8):
        x = problem.input(images).requires_grad_()
        layer = problem.layer()
        y = layer(x)
        held += torch.autograd.grad(y, [x, *layer.parameters()], torch.ones_like(y))
    del held
    if problem.device == "cuda":
        torch.cuda.empty_cache()  # which unmaps memory, so that a kernel that still uses it fails


def step_is_replayed(problem: Problem = ON_GPU) -> None:
    """Capture a training step after eager ones. Replays train as eager steps do, though memory is overwritten."""
    model = problem.network()
    graphed, eager = Training(model, problem), Training(deepcopy(model), problem)
    batches = [(problem.image(), problem.target()) for _ in range(7)]

    def before() -> None:
        for batch in batches[:3]:
            graphed.feed(batch)
            graphed.step()

    on_side_stream(before)
    for batch in batches[:3]:
        eager.feed(batch)
        eager.step()
    assert_ways_differ(problem.device)
    buffers = {key: each.data_ptr() for key, each in scratch.buffers.items()}
    replay, results = captured(graphed.step)
    assert buffers == {key: each.data_ptr() for key, each in scratch.buffers.items()}, "a capture changed a buffer"
    for number, batch in enumerate(batches[3:]):
        if number:
            disturb(problem)
        graphed.feed(batch)
        replay()
        eager.feed(batch)
        expected = eager.step()
        assert_same_bits(results, expected, f"replay {number}")
        assert_same_bits(graphed.parameters, eager.parameters, f"parameters after replay {number}")


def two_graphs_run_at_once(problem: Problem = ON_GPU, rounds: int = 20, at_once: int = 5, layers: int = 6) -> None:
    """Capture two steps on one stream, and replay them on two streams at the same time.

    The grids are small, so that the GPU runs kernels of both graphs at once.
    """

    def step_of(network: nn.Module, x: Tensor, gradient: Tensor) -> list[Tensor]:
        y = network(x)
        return [y.detach(), *torch.autograd.grad(y, [x, *network.parameters()], gradient)]

    steps: list[Step] = []
    for _ in range(2):
        network = nn.Sequential(*(problem.layer() for _ in range(layers)))
        steps.append(partial(step_of, network, problem.input().requires_grad_(), problem.input()))
    for step in steps:
        on_side_stream(step)
    graphs = [captured(step) for step in steps]
    expected = [step() for step in steps]
    synchronize(problem)
    streams = [torch.cuda.Stream() for _ in steps]
    for number in range(rounds):
        for stream, (_, results) in zip(streams, graphs, strict=True):
            with torch.cuda.stream(stream):
                for each in results:
                    each.fill_(float("nan"))
        for _ in range(at_once):
            for stream, (replay, _) in zip(streams, graphs, strict=True):
                with torch.cuda.stream(stream):
                    replay()
        synchronize(problem)
        for which, ((_, results), wanted) in enumerate(zip(graphs, expected, strict=True)):
            assert_same_bits(results, wanted, f"round {number} of graph {which}")
    assert not torch.equal(expected[0][0], expected[1][0]), "one graph could pass for the other"


def synchronize(problem: Problem) -> None:
    if problem.device == "cuda":
        torch.cuda.synchronize()


def graphed_callable_trains(problem: Problem = ON_GPU) -> None:
    """Train a layer that `torch.cuda.make_graphed_callables` has captured, forward and backward apart."""
    layer = problem.layer()
    twin = deepcopy(layer)
    layer = torch.cuda.make_graphed_callables(layer, (problem.input().requires_grad_(),))  # type: ignore[assignment]
    for number in range(4):
        x, gradient = problem.input(), problem.input()
        found = []
        for module in (layer, twin):
            leaf = x.clone().requires_grad_()
            y = module(leaf)
            y.backward(gradient)
            parameters = list(module.parameters())
            found.append([each.clone() for each in (y.detach(), leaf.grad, *(p.grad for p in parameters))])
            with torch.no_grad():
                for parameter in parameters:
                    parameter.sub_(parameter.grad, alpha=0.01)
                    parameter.grad = None
        assert_same_bits(*found, f"step {number}")
        disturb(problem)


@contextmanager
def counted_replays() -> Iterator[list[None]]:
    """Return a list that grows by one None for each replay of a CUDA graph in this block."""
    counted: list[None] = []
    replay = torch.cuda.CUDAGraph.replay

    def replayed(self: Any) -> None:
        counted.append(None)
        replay(self)

    torch.cuda.CUDAGraph.replay = replayed  # type: ignore[method-assign]
    try:
        yield counted
    finally:
        torch.cuda.CUDAGraph.replay = replay  # type: ignore[method-assign]


def compiled_step_is_replayed(problem: Problem = ON_GPU, steps: int = 6) -> None:
    """Train a model that `torch.compile` compiles with CUDA graphs, which it must really use.

    Operands are small integers, so that sums are exact in any order: torch's compiler may change the memory formats.
    """
    from torch._dynamo.utils import counters
    from torch._inductor.cudagraph_trees import reset_cudagraph_trees

    model = problem.network()
    twin = deepcopy(model)
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(model, mode="reduce-overhead")
    with counted_replays() as replays:
        for number in range(steps):
            weights = [problem.drawn(*each.shape, integers=True) for each in model.parameters()]
            x, gradient = problem.image(integers=True), problem.target(integers=True)
            found = []
            for module, called in ((model, compiled), (twin, twin)):
                with torch.no_grad():
                    for parameter, values in zip(module.parameters(), weights, strict=True):
                        parameter.copy_(values)
                        parameter.grad = None
                if module is model:
                    torch.compiler.cudagraph_mark_step_begin()
                y = called(x)
                y.backward(gradient)
                found.append([y.detach().clone(), *(each.grad.clone() for each in module.parameters())])
                del y
            assert_same_bits(*found, f"step {number}")
            if number == steps - 2:
                disturb(problem)
    if problem.device == "cuda":
        skips = {reason: n for reason, n in counters["inductor"].items() if "skip" in reason}
        assert counters["inductor"]["cudagraph_skips"] == 0, f"torch used no CUDA graphs: {skips}"
        # Steps are compiled and run once without a graph, and captured by the next. Forward and backward have one each.
        assert len(replays) >= 2 * (steps - 3), f"{len(replays)} replays in {steps} steps"
    del compiled
    torch._dynamo.reset()
    reset_cudagraph_trees()  # which frees the graphs


def scratch_in_a_capture_is_of_the_graph(problem: Problem = ON_GPU) -> None:
    """Memory of a launch comes from the pool of the graph. Buffers come from no pool, even within `use_mem_pool`."""
    device = problem.input().device

    def asked(size: int) -> Tensor:
        with start.starting:
            return scratch.scratch(device, device.type, size, 128, torch.cuda.current_stream().cuda_stream)

    def lies_in(address: int, segments: list[dict[str, Any]]) -> bool:
        return any(each["address"] <= address < each["address"] + each["total_size"] for each in segments)

    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        kept = asked(64)
    with torch.cuda.graph(graph, stream=stream):
        assert stream == torch.cuda.current_stream()
        new = [asked(size) for size in (64, 64, 4 * scratch.LEAST)]
        new[0].fill_(0)  # because torch warns of empty graphs
    addresses = [each.data_ptr() for each in new]
    assert len({kept.data_ptr(), *addresses}) == 4
    segments = torch.cuda.memory_snapshot(graph.pool(), include_traces=False)
    assert all(lies_in(address, segments) for address in addresses)
    assert not lies_in(kept.data_ptr(), segments)
    with torch.cuda.stream(stream):
        assert asked(64) is kept

    pool, stream = torch.cuda.MemPool(), torch.cuda.Stream()
    scratch.buffers.pop((device, stream.cuda_stream), None)
    with torch.cuda.stream(stream), torch.cuda.use_mem_pool(pool):
        other = torch.empty(64, device=device)
        buffer = asked(64)
        assert asked(64) is buffer
    segments = pool.snapshot(include_traces=False)
    assert lies_in(other.data_ptr(), segments)
    assert not lies_in(buffer.data_ptr(), segments)
    del other  # before the pool


def unload() -> None:
    """Let Triton forget the kernels of this package, so that the next start loads them again."""
    synchronize(ON_GPU)
    bounded_cache.clear()
    for name, module in list(sys.modules.items()):
        if name.startswith("tritonconv.kernels"):
            for each in vars(module).values():
                if hasattr(each, "device_caches"):
                    each.device_caches.clear()
    gc.collect()


def first_step_is_captured_after_warmup(problem: Problem = ON_GPU) -> None:
    """Capture the first step of a model, whose kernels `tritonconv.warmup` has loaded."""
    model, x, gradient = problem.network(), problem.image(), problem.target()

    def step() -> list[Tensor]:
        y = model(x)
        return [y.detach(), *torch.autograd.grad(y, list(model.parameters()), gradient)]

    with tritonconv.using("reference"):
        step()  # loads the kernels of torch
    if problem.device == "cuda":
        unload()
    elsewhere = parallel_compile.compile_elsewhere
    parallel_compile.compile_elsewhere = lambda *_: (0, [])  # because starting processes takes longer
    try:
        tritonconv.warmup(model, x)
    finally:
        parallel_compile.compile_elsewhere = elsewhere
    replay, results = captured(step)
    for number in range(2):
        x.copy_(problem.image())
        gradient.copy_(problem.target())
        replay()
        assert_same_bits(results, step(), f"replay {number}")
        disturb(problem)


@contextmanager
def only_our_warnings() -> Iterator[None]:
    """Within this block, ignore the warnings of torch, and raise those of this package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", tritonconv.FallbackWarning)
        yield


CHECKS: dict[str, Callable[..., None]] = {
    check.__name__: only_our_warnings()(check)
    for check in (
        step_is_replayed,
        two_graphs_run_at_once,
        graphed_callable_trains,
        scratch_in_a_capture_is_of_the_graph,
        compiled_step_is_replayed,
        first_step_is_captured_after_warmup,
    )
}
REHEARSED = [name for name in CHECKS if "scratch" not in name]


def loading_in_a_capture(problem: Problem = ON_GPU) -> str:
    """Return what happens if kernels are loaded during a capture, which depends on the GPU's driver.

    If that fails, the GPU can not be used again in this process.
    """
    layer, x = problem.layer(), problem.input()
    with torch.no_grad():
        expected = layer(x)
        unload()
        try:
            replay, results = captured(lambda: [layer(x)])
        except Exception as error:
            first = error.__context__ or error  # ending the capture fails, too
            return " ".join([f"{type(first).__name__}: {first}", *getattr(first, "__notes__", [])])
        replay()
        assert_same_bits(results, [expected], "replay")
    return "works"


def run_all() -> dict[str, str]:
    """Run all checks on the GPU. Return for each how many seconds it took, or its error."""
    found = {}
    for name, check in CHECKS.items():
        torch.manual_seed(0)
        begin = time.perf_counter()
        try:
            check()
            found[name] = f"passed in {time.perf_counter() - begin:.1f} s"
        except Exception as error:
            traceback.print_exc()
            found[name] = f"failed: {type(error).__name__}: {error}"
    return found


if __name__ == "__main__":
    results = run_all()
    print(*(f"{name}: {said}" for name, said in results.items()), sep="\n")
    print("loading kernels during a capture:", loading_in_a_capture())
    sys.exit(any(said.startswith("failed") for said in results.values()))
