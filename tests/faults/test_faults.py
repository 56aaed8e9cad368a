"""Faults of kernels and GPUs must end in a correct result with one warning, or in an error.

Each test plants its fault in a new process, with a pretended GPU (`tests/support/pretend.py`).
"""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from tests.support.processes import one_warning, seen
from tritonconv.geometry import OPERATORS, VARIES
from tritonconv.gpu import ARCHITECTURES, KIB, Gpu
from tritonconv.launch import recovery
from tritonconv.tiling import catalogue, fits
from tritonconv.tiling.tile import Operands

pytest.importorskip("triton")

pytestmark = pytest.mark.oldest

BREAK = """
import triton
from tritonconv.kernels.{module} import {kernel}_kernel as kernel
kernel._unsafe_update_src(kernel.src + "    tl.static_assert(False, 'planted')\\n")
"""


def test_a_kernel_that_does_not_compile(tmp_path: Path) -> None:
    """The operator of that kernel falls back to the reference and is not compiled again.

    The other operators run in Triton.
    """
    code = """
import tritonconv
tries = []
kernel.add_pre_run_hook(lambda *_, **__: tries.append(1))
gpu = install(Gpu())
def reason():
    chosen = {each.operator: each.reasons for each in tritonconv.explain(tritonconv.conv2d, *operands())}
    return [len(tries), *map(str, chosen.values())]
observe(step, step, reason, gpu=gpu)
"""
    found = seen(BREAK.format(module="gather.dgrad", kernel="dgrad") + code, tmp_path)
    reason = "dgrad can not be compiled for float16: CompileTimeAssertionFailure: planted"
    one_warning(found, f"dgrad runs as the reference (plain PyTorch), because {reason}")
    assert found["results"] == [True, True, [1, "{}", f"{{'triton': '{reason}'}}", "{}"]]
    assert {name.split("_kernel")[0] for name in found["started"]} == {"fprop", "wgrad", "sum_partials"}


def test_a_kernel_that_does_not_compile_but_must(tmp_path: Path) -> None:
    code = "gpu = install(Gpu())\nwish = lambda: forward(implementation='triton')\nobserve(wish, wish, gpu=gpu)"
    found = seen(BREAK.format(module="gather.fprop", kernel="fprop") + code, tmp_path)
    refusal = "NotImplementedError: triton: fprop can not be compiled for float16: "
    first, second = found["results"]
    assert first.startswith(f"{refusal}CompileTimeAssertionFailure: planted <- CompileTimeAssertionFailure: at ")
    assert second == f"{refusal}CompileTimeAssertionFailure: planted"
    assert (found["warnings"], found["started"]) == ([], [])


def test_a_warning_that_is_an_error_has_the_compilers_error_for_its_context(tmp_path: Path) -> None:
    code = """
from tritonconv import FallbackWarning
def context():
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        try:
            return forward()
        except FallbackWarning as error:
            return type(error.__context__).__name__
observe(context, gpu=install(Gpu()))
"""
    found = seen(BREAK.format(module="gather.fprop", kernel="fprop") + code, tmp_path)
    assert (found["results"], found["started"]) == (["CompileTimeAssertionFailure"], [])


def test_compiler_passes_and_assembler_that_fail(tmp_path: Path) -> None:
    code = """
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime.errors import PTXASError
def fails(*_): raise {error}
CUDABackend.{stage} = staticmethod(fails) if "{stage}" == "make_ttir" else fails
observe(forward, forward, gpu=install(Gpu()))
"""
    for stage, error in (("make_ttir", "RuntimeError('PassManager::run failed')"), ("make_cubin", "PTXASError('no')")):
        found = seen(code.format(stage=stage, error=error), tmp_path)
        one_warning(found, "fprop runs as the reference (plain PyTorch), because fprop can not be compiled for float16")
        assert (found["results"], found["started"]) == ([True, True], [])


def test_out_of_resources(tmp_path: Path) -> None:
    """The smallest tile runs instead, also in later calls. If even that does not fit, the reference runs."""
    found = seen("observe(forward, forward, gpu=install(Gpu(shared=16_000)))", tmp_path)
    one_warning(found, "64x32x32w4s4 does not fit this GPU: out of resource: shared memory", "tile 64x16x32w8s2")
    assert (found["results"], found["started"]) == ([True, True], ["fprop_kernel 64x16x32"] * 2)
    found = seen("observe(forward, forward, gpu=install(Gpu(shared=1_000)))", tmp_path)
    one_warning(found, "fprop can not be compiled", "OutOfResources: out of resource")
    assert (found["results"], found["started"]) == ([True, True], [])


ALIGNED = """
import tritonconv
gpu = install(Gpu())
image, weight = (torch.randint(-2, 3, shape).half() for shape in ((1, 64, 12, 12), (64, 64, 3, 3)))
image = image.contiguous(memory_format=torch.channels_last)
def call(**wish):
    expected = torch.nn.functional.conv2d(image.double(), weight.double())
    return torch.equal(tritonconv.conv2d(image, weight, **wish).double(), expected)
observe(call, lambda: call(implementation="triton"), gpu=gpu)
"""


def test_blocks_of_pixels_that_can_not_be_copied(tmp_path: Path) -> None:
    """If the TMA kernel does not compile, the gather kernel runs from then on, with one warning."""
    found = seen(ALIGNED, tmp_path)
    assert (found["results"], found["warnings"]) == ([True, True], [])
    assert {name.split()[0] for name in found["started"]} == {"fprop_tma_kernel"}
    found = seen(BREAK.format(module="tma.fprop", kernel="fprop_tma") + ALIGNED, tmp_path)
    one_warning(found, "fprop gathers pixels one by one, because its TMA kernel can not be compiled", "planted")
    assert found["results"] == [True, True]
    assert {name.split()[0] for name in found["started"]} == {"fprop_kernel"}


def test_what_did_not_help_is_taken_back(tmp_path: Path) -> None:
    """A compiler error that looks like an error of Triton's cache must not change the cache folder for good.

    Recovery tries a temporary cache folder. It did not help, so the folder before is set again, and the knob is not.
    """
    code = """
from triton import knobs
from triton.backends.nvidia.compiler import CUDABackend
def fails(*_): raise ValueError("no such pass")
CUDABackend.make_ttir = staticmethod(fails)
before = knobs.cache.dir
observe(forward, lambda: [knobs.cache.dir == before, "dir" in vars(knobs.cache)], gpu=install(Gpu()))
"""
    found = seen(code, tmp_path)
    one_warning(found, "fprop runs as the reference", "fprop can not be compiled for float16: ValueError: no such pass")
    assert (found["results"], found["started"]) == ([True, [True, False]], [])


def test_warnings_that_are_errors_are_raised_every_time(tmp_path: Path) -> None:
    code = """
from tritonconv import FallbackWarning
def strict():
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        return forward()
observe(strict, strict, forward, forward, gpu=install(Gpu(shared=16_000)))
"""
    found = seen(code, tmp_path)
    one_warning(found, "64x32x32w4s4 does not fit this GPU")
    first, second, *then = found["results"]
    assert first == second
    assert first.startswith("FallbackWarning: tritonconv: fprop runs with tile 64x16x32w8s2")
    assert then == [True, True]


@pytest.mark.parametrize("itemsize", [2, 4])
def test_the_smallest_tile_fits_everywhere(itemsize: int) -> None:
    """The smallest tile is one that is shipped, so other tests compile and check it. No tunable tile is smaller."""
    sm_86 = ARCHITECTURES["sm_86"]
    # Of these 49 KiB a block may have 48: the limit on GPUs for a kernel that does not opt in to more.
    multiprocessor = sm_86.multiprocessor._replace(shared_bytes=49 * KIB)
    gpu = Gpu(replace(sm_86, multiprocessor=multiprocessor), 1)
    for operator, varies in product(OPERATORS, VARIES):
        smallest = catalogue.smallest_tile(operator, itemsize, varies)
        operands = Operands(itemsize, 1, varies=varies)
        assert fits.fits(smallest, operator, itemsize, gpu)
        assert smallest in catalogue.shipped(operator, operands)
        for other in (
            catalogue.shipped(operator, operands) if "p" in varies else fits.tuning_grid(operator, operands, gpu)
        ):
            if catalogue.images(other, operator) >= 16:  # with tensor cores
                assert smallest.BLOCK_M * smallest.BLOCK_N <= other.BLOCK_M * other.BLOCK_N
                assert smallest.num_stages <= other.num_stages


def test_triton_is_not_installed(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["triton"] = None
import tritonconv
from tritonconv import runtime
runtime.is_gpu = lambda _: True
observe(step, step, lambda: forward(implementation="triton"))
"""
    found = seen(code, tmp_path)
    one_warning(found, "fprop runs as the reference (plain PyTorch), because Triton is not installed")
    assert found["results"] == [True, True, "NotImplementedError: triton: Triton is not installed"]


def test_triton_can_not_be_imported(tmp_path: Path) -> None:
    """Triton may be installed but not fit the system. On the CPU nothing warns about it."""
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text("raise ImportError('GLIBC_2.99 not found')")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import tritonconv
from tritonconv import runtime
wish = lambda: forward(implementation="triton")
def gpu():
    runtime.is_gpu = lambda _: True
    return step()
observe(step, gpu, step, wish)
"""
    found = seen(code, tmp_path)
    reason = "Triton can not be imported: ImportError: GLIBC_2.99 not found"
    one_warning(found, f"fprop runs as the reference (plain PyTorch), because {reason}")
    assert found["results"] == [True, True, True, f"NotImplementedError: triton: {reason}"]


def test_an_error_of_the_gpu_is_raised(tmp_path: Path) -> None:
    """An error while a kernel is loaded or started is raised in every call. There is no fallback and no warning."""
    code = """
from tritonconv import reference
from triton import knobs
knobs.runtime.launch_enter_hook = None
reference.fprop = lambda *_, **__: 1 / 0
gpu = install(Gpu())
def fails(where, error):
    def hook(event):
        if event == where:
            raise error
    def call():
        gpu.hook = hook
        return forward()
    return call
lost = "Triton Error [CUDA]: an illegal memory access was encountered"
def healthy():
    gpu.hook = lambda event: None
    return forward()
calls = [
    fails("load", RuntimeError(lost)), fails("load", RuntimeError("Triton Error [CUDA]: out of memory")),
    fails("load", RuntimeError("CUDA error: misaligned address")),
    fails("load", torch.AcceleratorError("CUDA error: misaligned address")),
    fails("load", torch.AcceleratorError("of another wording")), fails("start", RuntimeError(lost)),
    fails("start", torch.AcceleratorError("CUDA error: unspecified launch failure")),
    fails("start", RuntimeError("of any kind")),
]
observe(*calls, healthy, gpu=gpu)
"""
    found = seen(code, tmp_path)
    illegal = "RuntimeError: Triton Error [CUDA]: an illegal memory access was encountered"
    assert found["results"] == [
        illegal,
        "RuntimeError: Triton Error [CUDA]: out of memory",
        "RuntimeError: CUDA error: misaligned address",
        "AcceleratorError: CUDA error: misaligned address",
        "AcceleratorError: of another wording",
        illegal,
        "AcceleratorError: CUDA error: unspecified launch failure",
        "RuntimeError: of any kind",
        True,
    ]
    assert found["warnings"] == []


def test_what_the_gpu_says_comes_first(tmp_path: Path) -> None:
    """If a call fails before its kernel starts, the GPU is checked first. Its error is raised, without any fallback."""
    code = """
from tritonconv import reference
from tritonconv.launch import recovery
reference.fprop = lambda *_, **__: 1 / 0
def unwell(device):
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
recovery.check_gpu = unwell
gpu = install(Gpu(shared=1_000))
observe(forward, forward, gpu=gpu)
"""
    found = seen(code, tmp_path)
    lost = "AcceleratorError: CUDA error: an illegal memory access was encountered"
    assert (found["results"], found["warnings"], found["started"]) == ([lost, lost], [], [])


def test_the_gpu_is_checked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """`check_gpu` raises a pending error of the GPU. It does not synchronize while a CUDA graph is captured."""

    def unwell(_: torch.device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", unwell)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        recovery.check_gpu(torch.device("cuda"))
    recovery.check_gpu(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    recovery.check_gpu(torch.device("cuda"))
