"""Kernels that are launched directly get what Triton's own code around their launchers passes. A fake GPU is launched.

What runs is Triton's own launcher for NVIDIA, up to the function in C, which a fake takes the place of. So these tests
say for which versions of Triton `launchers.PROVEN` holds.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.processes import seen
from tritonconv.launch import kept_plan, launchers, start
from tritonconv.launch.kept_plan import Allocation, KeptLaunch, KeptPlan, TritonRuntime

pytest.importorskip("triton")

pytestmark = pytest.mark.oldest

# A GPU whose launchers are Triton's own, and the training of a small layer on it. `direct` lets its kernels be launched
# directly, whatever this version of Triton is, and `public` does not.
RECORDING = """
import zlib
from functools import partial
from types import SimpleNamespace

import triton
from triton import knobs
from triton.backends.nvidia import driver as nvidia
from triton.runtime import _allocation

import tritonconv
from tritonconv.launch import bounded_cache, launchers, plan_cache, start

class Recording(Gpu):
    "`passed` has what each launch passed to the function in C, `events` what else happened, in order."
    def __init__(self):
        super().__init__()
        self.passed, self.events, self.stream = [], [], 5
    def get_current_stream(self, device):
        return self.stream
    build_signature_metadata = staticmethod(list)
    def launch(self, *values):
        "Stand for the function in C."
        self.passed.append([described(value) for value in values])
    def launcher(self, src, metadata):
        computed, real = super().launcher(src, metadata), nvidia.CudaLauncher(src, metadata)
        def started(*values):
            real(*values)
            name, (about, enter, leave) = src.fn.__name__, values[6:9]
            if enter is not None:
                enter(about)
            self.events.append(["launch", name, values[3]])
            computed(*values)
            if leave is not None:
                leave(about)
        return started

def described(value):
    "Return what tells an argument apart. Of a tensor these are its address and its numbers, because plans take views."
    if isinstance(value, torch.Tensor):
        if value.dtype == torch.int8:
            return ["scratch", value.device.type, *value.shape, value.data_ptr() % 128]
        raw = torch.empty(0, dtype=torch.uint8).set_(value.untyped_storage()).numpy()
        return [str(value.dtype), value.storage_offset(), value.data_ptr() % 16, len(raw), zlib.crc32(raw.tobytes())]
    if isinstance(value, (tuple, list)):
        return [described(each) for each in value]
    if type(value).__name__ == "LazyDict" or isinstance(value, knobs.HookChain) and not value.calls:
        value = None  # what no hook asks for
    return f"{type(value).__name__} {value}"

# What Triton's module in C has. Triton 3.6 compiles one for each kernel.
nvidia.PyKernelArg = lambda **about: [*about.values()]
nvidia.ARG_CONSTEXPR, nvidia.ARG_KERNEL = "constexpr", "kernel"
if hasattr(nvidia, "make_launcher"):
    nvidia.library_dirs = list
    nvidia.compile_module_from_src = lambda **_: SimpleNamespace(launch=lambda *values: gpu.launch(*values))

gpu = install(Recording())
looked_up = []
start_compiled = launchers.start_compiled
launchers.start_compiled = lambda *a: looked_up.append(1) or start_compiled(*a)

def public():
    launchers.PROVEN = ()
    bounded_cache.clear()

def direct():
    launchers.PROVEN = ("",)
    bounded_cache.clear()

def drawn(*shape):
    generator = torch.Generator().manual_seed(len(shape) + sum(shape))
    return torch.randint(-2, 3, shape, generator=generator).half()

def gather():
    "An image, a weight and a bias for the kernels that do not use TMA."
    return drawn(1, 16, 4, 4), drawn(20, 16, 3, 3), drawn(20)

def tma():
    last = torch.channels_last
    return drawn(1, 64, 4, 4).to(memory_format=last), drawn(64, 64, 1, 1).to(memory_format=last), drawn(64)

def trained(operands):
    leaves = [each.requires_grad_() for each in operands()]
    y = tritonconv.conv2d(*leaves)
    y.backward((torch.arange(y.numel()).reshape(y.shape) % 3 - 1).half())
    return [y.detach(), *(each.grad for each in leaves)]

def expected(operands):
    leaves = [each.double().requires_grad_() for each in operands()]
    y = torch.nn.functional.conv2d(*leaves)
    y.backward((torch.arange(y.numel()).reshape(y.shape) % 3 - 1).double())
    return [y.detach(), *(each.grad for each in leaves)]

def same(found, wanted):
    return all(torch.equal(a.double(), b.double()) for a, b in zip(found, wanted, strict=True))
"""

# The kernels of a step, by which of these functions draws its operands.
STARTED = {
    "gather": ["fprop_kernel", "wgrad_kernel", "sum_partials_kernel", "dgrad_kernel"],
    "tma": ["fprop_tma_kernel", "wgrad_kernel", "sum_partials_kernel", "dgrad_tma_kernel"],
}
FAMILIES = tuple(STARTED)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Triton's disk cache for all tests of this file, which then compile each kernel once."""
    return tmp_path_factory.mktemp("cache")


def computed(code: str, cache: Path) -> Any:
    """Return what the one call returned that `code` observes. Assert that all of it ran in Triton."""
    found = seen(RECORDING + code, cache)
    assert not [each for each in found["warnings"] if each.startswith("FallbackWarning")]
    (result,) = found["results"]
    assert isinstance(result, list), result
    return result


@pytest.mark.parametrize("family", FAMILIES)
def test_both_ways_pass_the_same(family: str, cache: Path) -> None:
    """Three steps each way start the same kernels, in the same order, with the same arguments, results and memory."""
    code = f"""
def steps(way):
    way()
    looked_up.clear()
    found = []
    for _ in range(3):
        gpu.passed.clear()
        gpu.events.clear()
        right = same(trained({family}), expected({family}))
        found.append([right, gpu.events.copy(), gpu.passed.copy()])
    return found, len(looked_up)
def compared():
    (publicly, through_triton), (directly, not_directly) = steps(public), steps(direct)
    first = publicly[0]
    scratch = [value for launch in first[2] for value in launch if value[0] == "scratch"]
    equal = [step == first for step in publicly + directly]
    return [*first[:2], len(first[2]), scratch, equal, through_triton, not_directly]
observe(compared)
"""
    right, events, launches, scratch, equal, through_triton, not_directly = computed(code, cache)
    assert right
    kernels = STARTED[family]
    assert events == [["launch", name, 5] for name in kernels]
    assert launches == len(kernels)
    # One program of each kernel that uses TMA asks for three descriptors of 128 bytes.
    assert scratch == [["scratch", "cpu", 3 * 128, 0] for name in kernels if "tma" in name]
    assert equal == [True] * 6
    assert (through_triton, not_directly) == (2 * len(kernels), 0)  # in the second and the third step


def test_launch_hooks_are_called_as_by_triton(cache: Path) -> None:
    """They are called in the same order, with the same metadata, also if they were added after the plan was kept.

    There are those of a chain, one alone before or after launches, and functions and None in the place of the chain.
    """
    code = """
gpu.start = lambda *_: None  # which computes nothing
runtime = knobs.runtime
chains = runtime.launch_enter_hook, runtime.launch_exit_hook

def noting(what):
    return lambda about: gpu.events.append([what, *(str(about.get()[name]) for name in ("name", "function", "stream"))])
enter, other, leave = noting("enter"), noting("also enter"), noting("leave")

def chained(): chains[0].add(enter), chains[0].add(other), chains[1].add(leave)
def before(): chains[0].add(enter)
def after(): chains[1].add(leave)
def replaced(): runtime.launch_enter_hook, runtime.launch_exit_hook = enter, leave
def none(): runtime.launch_enter_hook = runtime.launch_exit_hook = None
def none_before(): runtime.launch_enter_hook = None
def nothing(): pass

def events(change):
    for operands in (gather, tma):
        trained(operands)  # without hooks
    gpu.events.clear()
    looked_up.clear()
    try:
        change()
        for operands in (gather, tma):
            trained(operands)
    finally:
        for chain in chains:
            chain.calls.clear()
        runtime.launch_enter_hook, runtime.launch_exit_hook = chains
    return gpu.events.copy()

def compared():
    found = []
    for change in (nothing, chained, before, after, replaced, none, none_before):
        both = []
        for way in (public, direct):
            way()
            trained(gather), trained(tma)
            both.append(events(change))
        found.append([change.__name__, both[0], both[0] == both[1], len(looked_up)])
    return found
observe(compared)
"""
    around = {
        "nothing": [["launch"]],
        "chained": [["enter"], ["also enter"], ["launch"], ["leave"]],
        "before": [["enter"], ["launch"]],
        "after": [["launch"], ["leave"]],
        "replaced": [["enter"], ["launch"], ["leave"]],
        "none": [["launch"]],
        "none_before": [["launch"]],
    }
    kernels = [name for names in STARTED.values() for name in names]
    for name, publicly, equal, looked_up in computed(code, cache):
        expected = [
            [what, kernel, 5] if what == "launch" else [what, kernel, kernel, "5"]
            for kernel in kernels
            for (what,) in around[name]
        ]
        assert publicly == expected, name
        assert equal, name
        assert looked_up == (0 if name == "nothing" else len(kernels)), name


def test_the_stream_of_the_moment_is_passed(cache: Path) -> None:
    code = """
gpu.start = lambda *_: None  # which computes nothing
def compared():
    found = []
    for way in (public, direct):
        way()
        for stream in (5, 5, 7, 9):
            gpu.stream = stream
            gpu.events.clear()
            trained(gather)
            found.append([passed for _, _, passed in gpu.events])
    return found
observe(compared)
"""
    assert computed(code, cache) == [[stream] * 4 for stream in (5, 5, 7, 9)] * 2


@pytest.mark.parametrize("way", ["public", "direct"])
def test_the_allocator_of_the_caller_stays(way: str, cache: Path) -> None:
    """It is set as before, and was never asked, also after an error of a launch. The next call is right again."""
    code = f"""
def fails(what):
    if what == "start":
        raise RuntimeError("planted")
def mine(*_):
    asked.append(1)
asked, states = [], []
def state():
    states.append(_allocation._allocator.get() is mine)
def compared():
    {way}()
    triton.set_allocator(mine)
    for _ in range(3):
        assert same(trained(tma), expected(tma))
        state()
    gpu.hook = fails
    for _ in range(2):
        try:
            trained(tma)
        except RuntimeError as error:
            states.append(str(error))
        state()
    gpu.hook = lambda _: None
    assert same(trained(tma), expected(tma))
    state()
    return [states, len(asked)]
observe(compared)
"""
    states = [True, True, True, "planted", True, "planted", True, True]
    assert computed(code, cache) == [states, 0]


class Devices:
    """Stands for `torch.cuda`'s functions for the current device. `entered` lists those that were switched to."""

    def __init__(self, current: int) -> None:
        self.current = current
        self.entered: list[int] = []

    def current_device(self) -> int:
        return self.current

    @contextmanager
    def device(self, index: int) -> Iterator[None]:
        self.entered.append(index)
        before, self.current = self.current, index
        try:
            yield
        finally:
            self.current = before


class Launcher:
    """Stands for the launcher of a compiled kernel, and notes what it is passed, and the current device."""

    def __init__(self, devices: Devices) -> None:
        self.devices = devices
        self.passed: list[tuple[int, tuple[Any, ...]]] = []

    def __call__(self, *values: Any) -> None:
        self.passed.append((self.devices.current, values))


def plan_of(launcher: Launcher, direct: bool) -> KeptPlan:
    """Return a plan on GPU 1 with one launch of four programs, whose arguments are its weight, 7, result and image."""
    unused: Any = None
    hooks = SimpleNamespace(launch_enter_hook=SimpleNamespace(calls=[]), launch_exit_hook=SimpleNamespace(calls=[]))
    pointers, values = [(0, 1), (2, 3), (3, 0)], [None, 7, None, None]

    def stream_of(index: int | None) -> int:
        return 100 + (index or 0)

    return KeptPlan(
        tile=unused,
        request=unused,
        kind="cuda",
        index=1,
        launches=[KeptLaunch(lambda passed: launcher(*passed), launcher, "function", "metadata", 4, values, pointers)],
        triton=TritonRuntime(lambda index: 100 + (index or 0), hooks, ContextVar("allocator"), unused)
        if direct
        else None,
        allocations=[Allocation((2, 2), (1, 2), torch.float32)],
        results=1,
        copies=[],
        remainders=[0],
    )


@pytest.mark.parametrize("current", [0, 1])
@pytest.mark.parametrize("direct", [True, False])
def test_the_device_of_the_plan_is_current_while_it_runs(
    direct: bool, current: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory, stream and launches are those of the plan's GPU. After that, the caller's GPU is current again."""
    devices = Devices(current)
    launcher, allocated = Launcher(devices), list[int]()

    def allocate(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        allocated.append(devices.current)
        return torch.empty_strided(shape, strides, dtype=dtype)

    monkeypatch.setattr(torch.cuda, "current_device", devices.current_device)
    monkeypatch.setattr(torch.cuda, "device", devices.device)
    monkeypatch.setitem(kept_plan.allocators, "cuda", allocate)
    x, weight = torch.ones(2), torch.ones(3)
    tensors = start.run_again(plan_of(launcher, direct), x, weight, None)
    assert tensors is not None
    assert allocated == [1]
    ((running_on, passed),) = launcher.passed
    assert running_on == 1
    before = (4, 1, 1, 101, "function", "metadata", None, None, None) if direct else ()
    assert passed[: len(before)] == before
    assert [*map(id, passed[len(before) :])] == [*map(id, (weight, 7, tensors[3], x))]
    assert devices.entered == ([] if current == 1 else [1])
    assert devices.current == current


def test_only_proven_versions_are_launched_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version is proven as a whole: 3.10 is not taken for 3.1. Kernels that are still being compiled never are."""
    import triton
    from triton.compiler import CompiledKernel

    class Compiled(CompiledKernel):  # type: ignore[misc]
        def __init__(self) -> None:
            """Compile nothing."""

        def __del__(self) -> None:
            """Unload nothing."""

    compiled = Compiled()
    for version, proven in [
        ("3.5.1", False),
        ("3.6.0", True),
        ("3.7.1", True),
        ("3.8.0+git", True),
        ("3.9.0", True),
        ("3.10.0", False),
        ("3.60.0", False),
        ("4.0.0", False),
    ]:
        monkeypatch.setattr(triton, "__version__", version)
        assert launchers.has_proven_launcher(compiled) == proven, version
        assert not launchers.has_proven_launcher(None)


def test_launchers_for_amd_are_called_alike() -> None:
    """They take the same arguments as those for NVIDIA, in the same order. On AMD, nothing but this is tested."""
    from triton.backends.amd.driver import HIPLauncher
    from triton.backends.nvidia.driver import CudaLauncher

    alike = inspect.signature(HIPLauncher.__call__).parameters
    assert [*alike] == [*inspect.signature(CudaLauncher.__call__).parameters]
    assert [*alike][:6] == ["self", "gridX", "gridY", "gridZ", "stream", "function"]


# What `Allocate` is passed, for tensors of torch's memory formats, of odd strides, and without elements.
ALLOCATIONS: list[tuple[tuple[int, ...], tuple[int, ...], torch.dtype]] = [
    ((2, 3, 4, 5), (60, 20, 5, 1), torch.float32),
    ((2, 3, 4, 5), (60, 1, 15, 3), torch.bfloat16),
    ((2, 3), (1, 8), torch.float16),
    ((0, 3), (3, 1), torch.float32),
    ((384,), (1,), torch.int8),
]


MODES: dict[str, Any] = {
    "no mode": nullcontext,
    "without gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "default device": partial(torch.device, "meta"),
}


def about(tensor: Tensor) -> tuple[Any, ...]:
    """Return all that torch knows of a new tensor but its address."""
    return (
        type(tensor),
        tensor.shape,
        tensor.stride(),
        tensor.storage_offset(),
        tensor.untyped_storage().nbytes(),
        tensor.dtype,
        tensor.device,
        tensor.layout,
        tensor.requires_grad,
        tensor.is_leaf,
        tensor.is_inference(),
        tensor._version if not tensor.is_inference() else None,
        torch._C._dispatch_keys(tensor).raw_repr(),
    )


@pytest.mark.parametrize("mode", MODES, ids=[*MODES])
def test_both_allocators_return_equal_tensors(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch lacks the quick function, `torch.empty_strided` takes its place. Modes change both alike."""
    quick = kept_plan.allocator_of("cpu")
    assert quick is torch._C._dynamo.guards._empty_strided_cpu
    monkeypatch.delattr(torch._C._dynamo.guards, "_empty_strided_cpu")
    slow = kept_plan.allocator_of("cpu")
    assert slow is not quick
    for allocation in ALLOCATIONS:
        with MODES[mode]():
            found, expected = quick(*allocation), slow(*allocation)
        assert about(found) == about(expected)
        assert found.device.type == "cpu"
        assert (found.shape, found.stride(), found.dtype) == allocation
        assert found.is_inference() == (mode == "inference mode")


def test_memory_of_a_gpu_is_asked_for_by_the_kind_of_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an index, torch allocates on the current GPU."""
    asked: list[Any] = []
    monkeypatch.delattr(torch._C._dynamo.guards, "_empty_strided_cuda", raising=False)
    monkeypatch.setattr(torch, "empty_strided", lambda *values, **more: asked.append((values, more)))
    kept_plan.allocator_of("cuda")((2, 3), (3, 1), torch.float16)
    assert asked == [(((2, 3), (3, 1)), dict(dtype=torch.float16, device="cuda"))]


@pytest.mark.parametrize("offset", [0, 16, 64])
@pytest.mark.parametrize("alignment", [16, 128, 4096])
def test_memory_for_kernels_is_aligned(offset: int, alignment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the size that is asked for, however the memory is aligned that torch allocates."""

    def allocate(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        wide = torch.empty(shape[0] + 8192, dtype=dtype)
        begin = -wide.data_ptr() % 4096 + offset
        return wide[begin : begin + shape[0]]

    monkeypatch.setitem(kept_plan.allocators, "cpu", allocate)
    memory = launchers.scratch("cpu", 384, alignment, None)
    assert (memory.numel(), memory.dtype, memory.device.type) == (384, torch.int8, "cpu")
    assert memory.data_ptr() % alignment == 0
