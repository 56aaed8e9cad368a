"""A kept plan starts its compiled kernels without Triton's look-up. A fake GPU stands in for a real one."""

from pathlib import Path

import pytest

from tests.support.processes import seen

pytest.importorskip("triton")

pytestmark = pytest.mark.oldest

OBSERVED = """
import triton
from triton.runtime import JITFunction
import tritonconv
from tritonconv.call import Call
from tritonconv.geometry import ConvGeometry
from tritonconv.launch import plan_cache
looked_up = []
run = JITFunction.run
JITFunction.run = lambda self, *a, **k: looked_up.append(self.__name__) or run(self, *a, **k)
gpu = install(Gpu())
def counts(): return [len(looked_up), len(gpu.started), len(plan_cache.plans.entries)]
"""


def test_a_compiled_kernel_is_started_without_looking_it_up(tmp_path: Path) -> None:
    """Only the first of three steps looks kernels up.

    A step has three operators, one of them with a second kernel, and copies of operands.
    """
    found = seen(f"{OBSERVED}observe(step, counts, step, step, counts, gpu=gpu)", tmp_path)
    assert found["results"] == [True, [4, 4, 3], True, True, [4, 12, 3]]
    assert found["warnings"] == []
    assert found["started"][:4] == found["started"][4:8] == found["started"][8:]


def test_kernels_in_blocks_are_given_memory_for_descriptors(tmp_path: Path) -> None:
    """It is at least as large and as aligned as Triton wants it."""
    code = """
from triton.runtime import _allocation
asked = []
def allocate():
    memory = _allocation._allocator.get()(64, 4096, None)
    asked.append([memory.shape[0] >= 64, memory.data_ptr() % 4096])
gpu.hook = lambda what: what == "start" and allocate()
generator = torch.Generator().manual_seed(0)
last = torch.channels_last
def blocks():
    shapes = (2, 64, 6, 6), (64, 64, 3, 3)
    x, weight = (torch.randint(-2, 3, s, generator=generator).half().to(memory_format=last) for s in shapes)
    y = tritonconv.conv2d(x, weight)
    return torch.equal(y.double(), torch.nn.functional.conv2d(x.double(), weight.double()))
observe(blocks, blocks, counts, lambda: asked, gpu=gpu)
"""
    found = seen(OBSERVED + code, tmp_path)
    assert found["results"] == [True, True, [1, 2, 1], [[True, 0], [True, 0]]]
    assert {name.split()[0] for name in found["started"]} == {"fprop_tma_kernel"}


def test_a_kernel_that_is_compiled_in_the_background_is_looked_up(tmp_path: Path) -> None:
    """Triton then returns something that is not a compiled kernel yet. Only the second plan is kept."""
    code = """
from concurrent.futures import ThreadPoolExecutor
def background():
    with ThreadPoolExecutor(2) as executor, triton.AsyncCompileMode(executor):
        return forward()
observe(background, counts, forward, counts, forward, counts, gpu=gpu)
"""
    found = seen(OBSERVED + code, tmp_path)
    assert found["results"] == [True, [1, 1, 0], True, [2, 2, 1], True, [2, 3, 1]]


def test_what_failed_since_then_is_not_started_again(tmp_path: Path) -> None:
    """Once an operator has failed to compile, the reference runs it, even where a compiled kernel was kept."""
    code = """
from triton.backends.nvidia.compiler import CUDABackend
def fails(*_): raise RuntimeError("planted")
def others():
    CUDABackend.make_ttir = staticmethod(fails)
    x, weight, _ = operands()
    x, weight = x[:, :15], weight[:, :15]
    return torch.equal(tritonconv.conv2d(x, weight).double(), torch.nn.functional.conv2d(x.double(), weight.double()))
observe(forward, counts, others, counts, forward, counts, gpu=gpu)
"""
    found = seen(OBSERVED + code, tmp_path)
    assert found["results"] == [True, [1, 1, 1], True, [2, 1, 0], True, [2, 1, 0]]
    assert "fprop can not be compiled for float16: RuntimeError: planted" in found["warnings"][0]


def test_a_kept_plan_takes_few_steps_of_python(tmp_path: Path) -> None:
    """A forward pass without gradients, and a whole step, enter few functions of the package.

    Both take the fast path, the step from the third time on, because the second one keeps its backward pass. Lower the
    limits, never raise them: for a small layer these functions take longer than the GPU.
    """
    code = """
import sys
def entered(call):
    found = []
    def note(frame, event, _):
        if event == "call" and frame.f_globals.get("__name__", "").startswith("tritonconv."):
            found.append(frame.f_code.co_name)
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return len(found)
def inference():
    with torch.no_grad():
        return forward()
observe(inference, lambda: entered(inference), step, step, lambda: entered(step), gpu=gpu)
"""
    right, in_forward, *also_right, in_step = seen(OBSERVED + code, tmp_path)["results"]
    assert right
    assert also_right == [True, True]
    assert 8 < in_forward <= 13
    assert 16 < in_step <= 27
