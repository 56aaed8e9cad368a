"""A fake GPU whose kernels do nothing, so that the time of a call is the host's time alone.

Triton really compiles kernels for the fake GPU, and loads them. Tensors that are said to be on it lie on the CPU.
Importing this module does not import Triton, which `tests/support/pretend.py` must not do so early.
"""

from collections.abc import Callable
from typing import Any


class IdleGpu:
    """It takes the place of Triton's driver, of the driver's functions in C, and of CUDA. It is an H100.

    `as_triton` says that the launchers of kernels do as much in Python as Triton's own, and not as little as possible.
    `host_descriptors` is that of its architecture. When it changes, the caches of plans must be emptied.
    """

    def __init__(self) -> None:
        self.utils, self.launcher_cls = self, self.launcher
        self.as_triton = self.host_descriptors = False

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

    def fill_tma_descriptor(self, address: int, *layout: Any) -> object:
        """Return an object in the place of a TMA descriptor. Triton 3.6 calls this, and newer versions the next one."""
        return object()

    def fill_tma_descriptor_tiled(self, *about: Any) -> object:
        return self.fill_tma_descriptor(*about)

    def launcher(self, src: Any, metadata: Any) -> Callable[..., None]:
        return IdleLauncher(self, src, metadata)


class IdleLauncher:
    """The launcher of a compiled kernel, which allocates the kernel's scratch memory and starts nothing.

    If the GPU is `as_triton`, it enters the Python functions that Triton's own launcher enters: one for that memory,
    and one for the memory of profilers. In Triton's own, `launch` fills TMA descriptors and calls a function in C.
    Here `bool` takes the place of that function, and this launcher never calls `launch`.
    """

    def __init__(self, gpu: IdleGpu, src: Any, metadata: Any) -> None:
        from triton.backends.nvidia import driver
        from triton.runtime import _allocation

        self.gpu, self.allocation = gpu, _allocation
        # torch aligns memory of the CPU to 64 bytes, where that of a GPU is aligned to 512.
        self.size, self.alignment = metadata.global_scratch_size, min(metadata.global_scratch_align, 64)
        layouts = getattr(metadata, "tensordesc_meta", None)
        self.launch = driver.wrap_handle_tensordesc(bool, src.signature, layouts)

    def __call__(self, x: int, y: int, z: int, stream: int, function: str, *rest: Any) -> None:
        if self.gpu.as_triton:
            self.start_as_triton(x * y * z, stream)
        elif self.size:
            self.allocation._allocator.get()(x * y * z * self.size, self.alignment, stream)

    def start_as_triton(self, programs: int, stream: int) -> None:
        def allocate_scratch(size: int, alignment: int, allocator: Any) -> Any:
            return allocator.get()(programs * size, alignment, stream) if size else None

        allocate_scratch(self.size, self.alignment, self.allocation._allocator)
        allocate_scratch(0, 1, self.allocation._profile_allocator)


def install(gpu: IdleGpu) -> None:
    """Make tritonconv treat CPU tensors as tensors on `gpu`. Tiles are picked as for an H100, which is like an H200."""
    from triton.runtime import driver

    from tritonconv import dispatch, runtime
    from tritonconv.gpu import Gpu

    driver.set_active(gpu)
    h100 = Gpu.of("sm_90", 132, "NVIDIA H100")
    described = h100.switched(host_descriptors=True)
    runtime.gpu_of = lambda device: described if gpu.host_descriptors else h100  # type: ignore[assignment]
    runtime.is_gpu = lambda device: True
    dispatch._why_not_device = lambda device: None
