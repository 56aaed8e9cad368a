"""A pretended GPU whose launchers are Triton's own, up to the function in C, and the training of a small layer on it.

`direct` lets its kernels be launched directly, whatever this version of Triton is, and `public` does not.

Use it in a process of its own (`processes.seen`), which imports `tests.support.pretend` before anything else.
"""

import ctypes
import zlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import tritonconv
from tests.support.pretend import Filled, Gpu, install
from tritonconv import runtime
from tritonconv.launch import bounded_cache, launchers


class Recording(Gpu):
    """`passed` has what each launch passed to the function in C, `events` what else happened, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: list[list[Any]] = []
        self.events: list[list[Any]] = []
        self.stream = 5

    def get_current_stream(self, device: int) -> int:
        return self.stream

    build_signature_metadata = staticmethod(list)

    def launch(self, *values: Any) -> None:
        """Stand for the function in C."""
        self.passed.append([described(value) for value in values])

    def launcher(self, src: Any, metadata: Any) -> Callable[..., None]:
        from triton.backends.nvidia.driver import CudaLauncher

        gpu, computed = self, super().launcher(src, metadata)

        class Started(CudaLauncher):  # type: ignore[misc]
            """Triton's launcher for NVIDIA. When it has launched, the interpreter computes."""

            def __call__(self, *values: Any) -> None:
                super().__call__(*values)
                name, (about, enter, leave) = src.fn.__name__, values[6:9]
                if enter is not None:
                    enter(about)
                gpu.events.append(["launch", name, values[3]])
                computed(*values)
                if leave is not None:
                    leave(about)

        return Started(src, metadata)  # type: ignore[no-any-return]


def described(value: Any) -> Any:
    """Return what tells an argument apart. Of a tensor these are its address and its numbers: plans take views."""
    from triton import knobs

    if isinstance(value, Tensor):
        if value.dtype == torch.int8:
            return ["scratch", value.device.type, *value.shape, value.data_ptr() % 128]
        raw = torch.empty(0, dtype=torch.uint8).set_(value.untyped_storage()).numpy()
        return [str(value.dtype), value.storage_offset(), value.data_ptr() % 16, len(raw), zlib.crc32(raw.tobytes())]
    if isinstance(value, Filled):
        address, *about = value
        return ["descriptor", *about, address % 16, zlib.crc32(ctypes.string_at(address, value.bytes))]
    if isinstance(value, (tuple, list)):
        return [described(each) for each in value]
    if type(value).__name__ == "LazyDict" or (isinstance(value, knobs.HookChain) and not value.calls):
        value = None  # what no hook asks for
    return f"{type(value).__name__} {value}"


# Has one element for each launch that goes through Triton's public interface.
looked_up: list[int] = []


def recording_gpu() -> Recording:
    """Install a GPU that records, in the place of Triton's module in C, which Triton 3.6 compiles for each kernel."""
    from triton.backends.nvidia import driver as nvidia

    gpu = install(Recording())
    nvidia.PyKernelArg = lambda **about: [*about.values()]
    nvidia.ARG_CONSTEXPR, nvidia.ARG_KERNEL = "constexpr", "kernel"
    if hasattr(nvidia, "make_launcher"):
        nvidia.library_dirs = list
        nvidia.compile_module_from_src = lambda **_: SimpleNamespace(launch=gpu.launch)
    start_compiled = launchers.start_compiled
    launchers.start_compiled = lambda *a: looked_up.append(1) or start_compiled(*a)
    return gpu


def public() -> None:
    runtime.PROVEN = ()
    bounded_cache.clear()


def direct() -> None:
    runtime.PROVEN = ("",)
    bounded_cache.clear()


def drawn(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape) + sum(shape))
    return torch.randint(-2, 3, shape, generator=generator).half()


Operands = Callable[[], tuple[Tensor, Tensor, Tensor]]


def gather() -> tuple[Tensor, Tensor, Tensor]:
    """Return an image, a weight and a bias for the kernels that do not use TMA."""
    return drawn(1, 16, 4, 4), drawn(20, 16, 3, 3), drawn(20)


def tma() -> tuple[Tensor, Tensor, Tensor]:
    """Return operands for the kernels that use TMA."""
    last = torch.channels_last
    return drawn(1, 64, 4, 4).to(memory_format=last), drawn(64, 64, 1, 1).to(memory_format=last), drawn(64)


def host() -> tuple[Tensor, Tensor, Tensor]:
    """Return operands for three kernels that use TMA. The host makes their descriptors if `gpu.host_descriptors`."""
    last = torch.channels_last
    return drawn(1, 64, 8, 8).to(memory_format=last), drawn(64, 64, 1, 1).to(memory_format=last), drawn(64)


def trained(operands: Operands) -> list[Tensor]:
    """Return the result of conv2d and the gradients of its operands."""
    leaves = [each.requires_grad_() for each in operands()]
    y = tritonconv.conv2d(*leaves)
    y.backward((torch.arange(y.numel()).reshape(y.shape) % 3 - 1).half())
    return [y.detach(), *(each.grad for each in leaves)]


def expected(operands: Operands) -> list[Tensor]:
    """Return what `trained` must return, computed by torch in float64."""
    leaves = [each.double().requires_grad_() for each in operands()]
    y = torch.nn.functional.conv2d(*leaves)
    y.backward((torch.arange(y.numel()).reshape(y.shape) % 3 - 1).double())
    return [y.detach(), *(each.grad for each in leaves)]


def same(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return all(torch.equal(a.double(), b.double()) for a, b in zip(found, wanted, strict=True))
