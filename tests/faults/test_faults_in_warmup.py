"""A kernel that `tritonconv.warmup` can not load, and one that would be loaded while a CUDA graph is captured."""

from pathlib import Path

import pytest

from tests.support.processes import one_warning, seen

pytest.importorskip("triton")

pytestmark = pytest.mark.oldest

WARMED = """
import contextlib
import tritonconv
from triton import knobs
from tritonconv.tools import parallel_compile
parallel_compile.compile_elsewhere = lambda *_: (0, [])
knobs.runtime.launch_enter_hook = None  # with hooks, Triton itself loads a kernel that was not loaded
events = []
def note(event):
    events.append(event)
def warmed():
    events.clear()
    layer = tritonconv.Conv2d(16, 20, 3).half()
    with contextlib.redirect_stdout(None), torch.no_grad():
        tritonconv.warmup(layer.requires_grad_(False), operands()[0])
    return events.count("load")
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_the_first_call_after_warmup_only_starts_kernels(cache: Path) -> None:
    code = (
        "gpu = install(Gpu(hook=note))\nobserve(warmed, lambda: events.clear() or forward(), lambda: events, gpu=gpu)"
    )
    found = seen(WARMED + code, cache)
    assert found["results"] == [1, True, ["start"]]
    assert found["warnings"] == []


def test_a_kernel_that_does_not_fit_is_left_to_the_first_call(cache: Path) -> None:
    """The call then chooses a smaller tile, with a warning, as it does without `warmup`."""
    code = "gpu = install(Gpu(shared=16_000, hook=note))\nobserve(warmed, forward, forward, gpu=gpu)"
    found = seen(WARMED + code, cache)
    one_warning(found, "64x32x32w4s4 does not fit this GPU: out of resource: shared memory", "tile 64x16x32w8s2")
    assert (found["results"], found["started"]) == ([0, True, True], ["fprop_kernel 64x16x32"] * 2)


def test_a_kernel_that_fails_to_load_is_loaded_by_the_first_call(cache: Path) -> None:
    """Triton must forget it. Otherwise it would start a kernel that is not there."""
    code = """
def fails(event):
    note(event)
    if event == "load":
        raise RuntimeError("Triton Error [CUDA]: planted")
gpu = install(Gpu(hook=fails))
def later():
    gpu.hook = note
    events.clear()
    return forward()
observe(warmed, later, lambda: events, gpu=gpu)
"""
    found = seen(WARMED + code, cache)
    assert found["results"] == [1, True, ["build", "load", "start"]]
    assert found["warnings"] == []


def test_a_kernel_that_is_loaded_in_a_capture_says_what_to_do(cache: Path) -> None:
    """The driver's error is raised, and a note on it tells of `warmup`. Other errors have no such note."""
    code = """
def failing(message):
    def fails(event):
        if event == "load":
            raise RuntimeError(message)
    def call():
        gpu.hook = fails
        try:
            return forward()
        except RuntimeError as error:
            return [str(error), *getattr(error, "__notes__", [])]
    return call
gpu = install(Gpu())
prefix = "Triton Error [CUDA]: "
observe(failing(prefix + "operation not permitted when stream is capturing"), failing(prefix + "other"), gpu=gpu)
"""
    (capturing, other), warnings = (seen(WARMED + code, cache)[name] for name in ("results", "warnings"))
    assert capturing[0] == "Triton Error [CUDA]: operation not permitted when stream is capturing"
    assert len(capturing) == 2
    assert "tritonconv.warmup" in capturing[1]
    assert other == ["Triton Error [CUDA]: other"]
    assert warnings == []
