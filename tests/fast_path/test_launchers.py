"""Kernels that are launched directly get what Triton's own code around their launchers passes. A fake GPU is launched.

What runs is Triton's own launcher for NVIDIA, up to the function in C, which a fake takes the place of. So these tests
say for which versions of Triton `runtime.PROVEN` holds.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.processes import seen
from tritonconv.launch import launchers
from tritonconv.launch.descriptors import HostDescriptor
from tritonconv.launch.plan import Launch
from tritonconv.launch.scratch import LEAST

pytest.importorskip("triton")

pytestmark = pytest.mark.oldest

RECORDING = """
from tests.support.triton_launchers import *
gpu = recording_gpu()
"""

# The kernels of a step, by which function of `tests.support.triton_launchers` draws its operands.
STARTED = {
    "gather": ["fprop_kernel", "wgrad_kernel", "sum_partials_kernel", "dgrad_kernel"],
    "tma": ["fprop_tma_kernel", "wgrad_kernel", "sum_partials_kernel", "dgrad_tma_kernel"],
    "host": ["fprop_tma_kernel", "wgrad_tma_kernel", "sum_partials_kernel", "dgrad_tma_kernel"],
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
def descriptors(values):
    return sum(isinstance(v, list) and (v[:1] == ["descriptor"] or descriptors(v)) for v in values)
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
    gpu.host_descriptors = "{family}" == "host"
    (publicly, through_triton), (directly, not_directly) = steps(public), steps(direct)
    first = publicly[0]
    scratch = [value for launch in first[2] for value in launch if value[0] == "scratch"]
    described = [descriptors(launch) for launch in first[2]]
    equal = [step == first for step in publicly + directly]
    return [*first[:2], len(first[2]), scratch, described, equal, through_triton, not_directly]
observe(compared)
"""
    right, events, launches, scratch, described, equal, through_triton, not_directly = computed(code, cache)
    assert right
    kernels = STARTED[family]
    assert events == [["launch", name, 5] for name in kernels]
    assert launches == len(kernels)
    # Each kernel whose programs build descriptors gets the buffer of the stream, which is kept.
    assert scratch == [["scratch", "cpu", LEAST, 0] for name in kernels if "tma" in name and family == "tma"]
    assert described == ([3, 2, 0, 3] if family == "host" else [0] * 4)
    assert equal == [True] * 6
    assert (through_triton, not_directly) == (2 * len(kernels), 0)  # in the second and the third step


def test_launch_hooks_are_called_as_by_triton(cache: Path) -> None:
    """They are called in the same order, with the same metadata, also if they were added after the plan was kept.

    There are those of a chain, one alone before or after launches, and functions and None in the place of the chain.
    """
    code = """
from triton import knobs
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
    kernels = [*STARTED["gather"], *STARTED["tma"]]
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
import triton
from triton.runtime import _allocation
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


def test_only_proven_versions_are_launched_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version is proven as a whole: 3.10 is not taken for 3.1. Kernels for AMD, or not compiled yet, never are."""
    import triton
    from triton.compiler import CompiledKernel

    class Compiled(CompiledKernel):  # type: ignore[misc]
        def __init__(self, backend: str) -> None:
            """Compile nothing."""
            self.metadata = SimpleNamespace(target=SimpleNamespace(backend=backend))

        def __del__(self) -> None:
            """Unload nothing."""

    plain = Launch(kernel=None, programs=1, arguments={})
    described = Launch(kernel=None, programs=1, arguments=dict(image=HostDescriptor(None, (1,), (1,), (1,))))
    compiled, for_amd = Compiled("cuda"), Compiled("hip")
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
        assert launchers.has_proven_launcher(plain, compiled) == proven, version
        assert not launchers.has_proven_launcher(described, compiled)  # a kernel that was not compiled for TMA
        assert not launchers.has_proven_launcher(plain, for_amd)
        assert not launchers.has_proven_launcher(plain, None)
