"""A fake GPU whose kernels do nothing, so that the time of a call is the host's time alone.

Triton really compiles kernels for the fake GPU, and loads them. Tensors that are said to be on it lie on the CPU.
Importing this module does not import Triton, which `tests/support/pretend.py` must not do so early.
"""

from collections.abc import Callable
from typing import Any


class IdleGpu:
    """It takes the place of Triton's driver, of the driver's functions in C, and of CUDA. It is an H100.

    `as_triton` says that the launchers of kernels do as much in Python as Triton's own, and not as little as possible.
    """

    def __init__(self) -> None:
        self.utils, self.launcher_cls = self, self.launcher
        self.as_triton = False

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    # Stream 0 for device 0 and for None. A function that is built in adds no Python function, as torch's own adds none.
    get_current_stream = staticmethod(bool)

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232_448}

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[str, str, int, int, int]:
        return "module", name, 32, 0, 1024

    def launcher(self, src: Any, metadata: Any) -> Callable[..., None]:
        """Return the function that starts this compiled kernel. It allocates the kernel's scratch memory.

        With `as_triton` it enters the Python functions that Triton's own launcher enters: one for that memory, and one
        for the memory of profilers.
        """
        from triton.runtime import _allocation

        # torch aligns memory of the CPU to 64 bytes, where that of a GPU is aligned to 512.
        size, alignment = metadata.global_scratch_size, min(metadata.global_scratch_align, 64)

        def start(x: int, y: int, z: int, stream: int, function: str, *rest: Any) -> None:
            if self.as_triton:
                started_as_triton(x * y * z, stream)
            elif size:
                _allocation._allocator.get()(x * y * z * size, alignment, stream)

        def started_as_triton(programs: int, stream: int) -> None:
            def allocate_scratch(size: int, alignment: int, allocator: Any) -> Any:
                return allocator.get()(programs * size, alignment, stream) if size else None

            allocate_scratch(size, alignment, _allocation._allocator)
            allocate_scratch(0, 1, _allocation._profile_allocator)

        return start


def install(gpu: IdleGpu) -> None:
    """Make tritonconv treat CPU tensors as tensors on `gpu`. Tiles are picked as for an H100."""
    from triton.runtime import driver

    from tritonconv import dispatch, runtime
    from tritonconv.gpu import Gpu

    driver.set_active(gpu)
    h100 = Gpu.of("sm_90", 132, "NVIDIA H100")
    runtime.gpu_of = lambda device: h100  # type: ignore[assignment]
    runtime.is_gpu = lambda device: True
    dispatch._why_not_device = lambda device: None
