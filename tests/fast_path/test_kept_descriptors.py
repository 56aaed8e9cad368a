"""TMA descriptors that the host makes are kept with their plan, one for each address, and freed with it.

The GPU is a fake one, whose launches the interpreter computes.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import seen

pytest.importorskip("triton")

pytestmark = pytest.mark.oldest

# `filled` has the address of each descriptor that was filled.
HOST = """
import gc, weakref
from tests.support.triton_launchers import *
gpu = recording_gpu()
gpu.host_descriptors = True
direct()
filled = []
fill = gpu.fill_tma_descriptor
def noting(*about):
    filled.append(about[0])
    return fill(*about)
gpu.fill_tma_descriptor = noting
x, weight, bias = host()
out = tritonconv.conv2d(x, weight, bias)  # through Triton's public interface, which fills three descriptors
def right(y, x, weight=weight):
    return torch.equal(y.double(), torch.nn.functional.conv2d(x.double(), weight.double(), bias.double()))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Triton's disk cache for all tests of this file, which then compile each kernel once."""
    return tmp_path_factory.mktemp("cache")


def computed(code: str, cache: Path) -> Any:
    """Return what the one call returned that `code` observes. Assert that nothing was warned of."""
    found = seen(HOST + code, cache)
    assert found["warnings"] == []
    (result,) = found["results"]
    assert isinstance(result, list), result
    return result


def test_a_descriptor_is_filled_once_for_each_address(cache: Path) -> None:
    """Equal addresses fill none again, and another image fills only its own. All results are right."""
    code = """
from tritonconv.launch import kept_plan
y = torch.empty_like(out)
kept_plan.allocators["cpu"] = lambda *about: y  # so that all results have the same address
def counts():
    found = []
    other = drawn(1, 64, 8, 8).flip(0, 2).contiguous(memory_format=torch.channels_last)
    names = {x.data_ptr(): "image", other.data_ptr(): "other", weight.data_ptr(): "weight", y.data_ptr(): "result"}
    for image in (x, x, other, x, other):
        filled.clear()
        assert right(tritonconv.conv2d(image, weight, bias), image)
        found.append(sorted(names[address] for address in filled))
    return found
observe(counts)
"""
    # The first of these calls is the first to start the kernel by its launcher.
    assert computed(code, cache) == [["image", "result", "weight"], [], ["other"], [], []]


def test_the_least_recently_used_descriptor_is_evicted(cache: Path) -> None:
    code = """
from tritonconv.launch import kept_descriptors
kept_descriptors.KEPT_DESCRIPTORS = 2
bounded_cache.clear()
tritonconv.conv2d(x, weight, bias)
images = [drawn(1, 64, 8, 8).contiguous(memory_format=torch.channels_last) for _ in range(3)]
def counts():
    found = []
    for i in (0, 1, 0, 2, 0, 1):
        filled.clear()
        assert right(tritonconv.conv2d(images[i], weight, bias), images[i])
        found.append(filled.count(images[i].data_ptr()))
    return found
observe(counts)
"""
    assert computed(code, cache) == [1, 1, 0, 1, 0, 1]


def test_descriptors_are_freed_with_their_plan_and_hold_no_tensor(cache: Path) -> None:
    code = """
class Held:
    pass
alive = weakref.WeakSet()
def holding(*about):
    described = Held()
    described.filled = fill(*about)
    alive.add(described)
    return described
# Nothing is computed: these would keep or read the descriptors.
gpu.launch = gpu.start = lambda *_: None
import tests.support.pretend as pretend
pretend.named_arguments = lambda *_: {}
gpu.fill_tma_descriptor = holding
def counts():
    image = drawn(1, 64, 8, 8).contiguous(memory_format=torch.channels_last)
    y = tritonconv.conv2d(image, weight, bias)
    del y
    gc.collect()
    found = [len(alive)]
    freed = weakref.ref(image)
    del image
    gc.collect()
    found += [freed() is None, len(alive)]
    bounded_cache.clear()
    gc.collect()
    return [*found, len(alive)]
observe(counts)
"""
    assert computed(code, cache) == [3, True, 3, 0]


def test_no_scratch_memory_is_asked_for(cache: Path) -> None:
    """Kernels whose descriptors the host makes need no scratch memory, the first time or later."""
    code = """
def refuse(*_):
    raise AssertionError("scratch memory")
launchers.scratch = refuse
bounded_cache.clear()
observe(lambda: [same(trained(host), expected(host)) for _ in range(3)])
"""
    assert computed(code, cache) == [True] * 3


@pytest.mark.parametrize("when", ["describe", "compile"])
def test_programs_build_their_descriptors_if_the_host_can_not(when: str, cache: Path, tmp_path: Path) -> None:
    """If the driver refuses a descriptor, or a kernel does not compile with it, one warning says so."""
    code = """
bounded_cache.clear()
def refuses(what):
    if what == "describe":
        raise RuntimeError("Triton Error [CUDA]: Failed to create tensor map descriptor: invalid argument")
if "WHEN" == "describe":
    gpu.hook = refuses
else:
    from triton.backends.nvidia.compiler import CUDABackend
    make_ttir = CUDABackend.make_ttir
    def fails(mod, *rest):
        if "tensordesc" in str(mod).split("{")[1]:
            raise RuntimeError("planted")
        return make_ttir(mod, *rest)
    CUDABackend.make_ttir = staticmethod(fails)
gpu.started.clear()
observe(*[lambda: right(tritonconv.conv2d(x, weight, bias), x)] * 3, gpu=gpu)
""".replace("WHEN", when)
    before = HOST.replace("out = ", "# out = ") if when == "compile" else HOST
    found = seen(before + code, tmp_path)
    assert found["results"] == [True] * 3
    assert [name.split()[0] for name in found["started"]] == ["fprop_tma_kernel"] * 3
    (warning,) = found["warnings"]
    assert "the programs of fprop build their TMA descriptors, because the host's fail: " in warning


def test_a_launcher_that_was_wrapped_is_not_called_directly(tmp_path: Path) -> None:
    """If a profiler has wrapped what Triton's launcher calls, the plan is kept, and started by the public interface."""
    code = """
from triton.backends.nvidia import driver as nvidia
wrap = nvidia.wrap_handle_tensordesc
class Profiler:
    def __init__(self, launch):
        self.launch = launch
    def __call__(self, *values):
        return self.launch(*values)
nvidia.wrap_handle_tensordesc = lambda *about: Profiler(wrap(*about))
def calls():
    return [[right(tritonconv.conv2d(x, weight, bias), x), len(looked_up)] for _ in range(3)]
observe(calls)
"""
    found = seen(HOST.replace("out = ", "# out = ") + code, tmp_path)
    assert (found["results"], found["warnings"]) == ([[[True, 0], [True, 1], [True, 2]]], [])


def test_warmup_compiles_kernels_that_take_descriptors(tmp_path: Path) -> None:
    """Another process compiles them, and the first step finds them in Triton's cache."""
    code = """
from contextlib import redirect_stdout
from triton import knobs
from tritonconv.tools.parallel_compile import count_misses
layer = tritonconv.Conv2d(64, 64, 1).half().to(memory_format=torch.channels_last)
image = x.requires_grad_()
with redirect_stdout(None):
    tritonconv.warmup(layer, image, processes=1)
missed = count_misses(knobs)
def step():
    filled.clear()
    layer(image).sum().backward()
    return [len(missed), len(filled)]
observe(step)
"""
    found = seen(HOST.replace("out = ", "# out = ") + code, tmp_path)
    # fprop and dgrad have three descriptors each, and wgrad has two.
    assert (found["results"], found["warnings"]) == ([[0, 8]], [])
