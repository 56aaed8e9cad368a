"""A fake GPU for tests of compiling, loading and launching on a computer without one.

Triton really compiles kernels for the fake GPU and loads them. Its launches are computed by Triton's interpreter, in a
forked process, because kernels that were imported to be interpreted can not be compiled.

Use it in a process of its own (`processes.seen`), and import it before anything that imports Triton.
"""

import ctypes
import json
import os
import pickle
import re
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.host import idle_gpu
from bench.host.idle_gpu import IdleGpu, IdleLauncher

torch.set_num_threads(1)


def interpreter() -> Connection:
    """Fork a process that runs kernels in Triton's interpreter, and return the connection to it.

    The forked process receives the arguments of `interpreted`, pickled, and sends back what `interpreted` returns. It
    ends when the connection is closed.
    """
    here, there = Pipe()
    if os.fork():
        there.close()
        return here
    here.close()
    os.environ["TRITON_INTERPRET"] = "1"
    from tests.support.interpreter import interpreting

    try:
        with interpreting():
            while True:
                there.send_bytes(pickle.dumps(interpreted(*pickle.loads(there.recv_bytes()))))
    except EOFError:
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def interpreted(module: str, name: str, programs: int, arguments: dict[str, Any]) -> dict[str, Tensor]:
    """Run `programs` programs of the kernel `module.name` in the interpreter, and return its tensor arguments."""
    import triton.language as tl

    if "DOT_DTYPE" in arguments:
        arguments["DOT_DTYPE"] = (
            tl.float32
        )  # the dtype that tritonconv.launch.kernel_arguments passes in the interpreter
    if "DEPENDENT_LAUNCH" in arguments:
        arguments["DEPENDENT_LAUNCH"] = False  # the interpreter has no dependent launches
    getattr(import_module(module), name)[(programs,)](**arguments)
    return tensors_of(arguments)


def tensors_of(arguments: dict[str, Any]) -> dict[str, Tensor]:
    """Return the arguments that are tensors, and the tensors of those that are TMA descriptors."""
    bases = {name: getattr(value, "base", value) for name, value in arguments.items()}
    return {name: value for name, value in bases.items() if isinstance(value, Tensor)}


class Filled(NamedTuple):
    """What stands for the 128 bytes of a TMA descriptor: what the driver was asked to put into them."""

    address: int
    swizzle: int
    itemsize: int
    kind: int
    block: tuple[int, ...]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    padding: int

    @property
    def bytes(self) -> int:
        """How many bytes there are from the address up to the last element."""
        last = sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        return (last + 1) * self.itemsize

    def in_triton(self, of: str) -> Any:
        """Return the descriptor as kernels in the interpreter take it. `of` is its type: `tensordesc<fp16[1, 8, 64]>`.

        Its tensor is memory at that address, up to the last element.
        """
        from triton.tools.tensor_descriptor import TensorDescriptor

        dtype, block = re.findall(r"<(\w+)\[([\d, ]+)\]", of)[0]
        there = (ctypes.c_uint8 * self.bytes).from_address(self.address)
        known = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
        return TensorDescriptor(
            torch.frombuffer(there, dtype=known[dtype]), self.shape, self.strides, [*map(int, block.split(","))]
        )


def named_arguments(src: Any, values: Sequence[Any]) -> dict[str, Any]:
    """Return the arguments of a kernel by their names, from what its launcher was passed.

    A descriptor that the caller has filled is followed by its shape and its strides.
    """
    passed, found = list(values), {}
    for name in src.fn.arg_names:
        value = passed.pop(0)
        if isinstance(value, Filled):
            expected = [*value.shape, *value.strides]
            assert passed[: len(expected)] == expected, "a descriptor is followed by its shape and strides"
            del passed[: len(expected)]
            value = value.in_triton(src.signature[name])
        found[name] = value
    assert not passed, "there are too many arguments"
    return found


INTERPRETER = interpreter()


class Gpu(IdleGpu):
    """A fake sm_90 GPU. It differs from `IdleGpu` in that its launches are computed, and that faults can be planted.

    - `shared` is the shared memory of one block, in bytes.
    - `hook` is called with "build", "load", "describe" or "start" before that happens, and may raise an error to fake a
      fault. "describe" is the filling of a TMA descriptor.
    - `started` lists the kernels that were started, each with its block sizes: "fprop_kernel 64x16x32". If a kernel
      has an argument `splits`, its value follows a slash.
    """

    def __init__(self, shared: int = 232_448, hook: Callable[[str], None] = lambda _: None) -> None:
        super().__init__()
        self.shared, self.hook = shared, hook
        self.started: list[str] = []
        self.busy = threading.Lock()

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": self.shared}

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[str, str, int, int, int]:
        self.hook("load")
        if not binary.startswith(b"\x7fELF"):
            raise RuntimeError("Triton Error [CUDA]: device kernel image is invalid")
        return super().load_binary(name, binary, shared, device)

    def fill_tma_descriptor(self, *about: Any) -> object:
        self.hook("describe")
        address, swizzle, itemsize, kind, *sizes, padding = about
        return Filled(address, swizzle, itemsize, kind, *map(tuple, sizes), padding)

    def launcher(self, src: Any, metadata: Any) -> Callable[..., None]:
        self.hook("build")
        return Launcher(self, src, metadata)

    def start(self, kernel: Any, programs: int, arguments: dict[str, Any]) -> None:
        """Have the interpreter compute a launch, copy what it stored into `arguments`, and note it in `started`."""
        INTERPRETER.send_bytes(pickle.dumps((kernel.__module__, kernel.__name__, programs, arguments)))
        tensors = tensors_of(arguments)
        for name, computed in pickle.loads(INTERPRETER.recv_bytes()).items():
            tensors[name].untyped_storage().copy_(computed.untyped_storage())
        blocks = "x".join(str(arguments[f"BLOCK_{axis}"]) for axis in "MNK" if f"BLOCK_{axis}" in arguments)
        splits = f"/{arguments['splits']}" if "splits" in arguments else ""
        self.started.append(f"{kernel.__name__} {blocks}{splits}")


class Launcher(IdleLauncher):
    """The launcher of a compiled kernel, which the interpreter computes. Only one thread may start kernels."""

    gpu: Gpu

    def __init__(self, gpu: Gpu, src: Any, metadata: Any) -> None:
        super().__init__(gpu, src, metadata)
        self.src = src

    def __call__(self, x: int, y: int, z: int, stream: int, function: str, *rest: Any) -> None:
        assert function == self.src.fn.__name__, "the kernel was started before it was loaded"
        assert self.gpu.busy.acquire(blocking=False), "two threads started kernels at the same time"
        try:
            self.gpu.hook("start")
            # Before the arguments come the metadata and the launch hooks.
            self.gpu.start(self.src.fn, x, named_arguments(self.src, rest[4:]))
        finally:
            self.gpu.busy.release()


def install(gpu: Gpu) -> Gpu:
    """Make tritonconv treat CPU tensors as tensors on `gpu`, and fill new results and workspaces with NaN.

    Tiles are picked as for an H100. Return `gpu`.
    """
    from tests.support.guards import fill_with_nan

    idle_gpu.install(gpu)
    fill_with_nan()
    return gpu


def operands(dtype: torch.dtype = torch.float16) -> tuple[Tensor, Tensor, Tensor]:
    """Return an image, a weight and a bias of random integers from -2 to 2, always the same. Their sums are exact.

    The channel counts are such that the gather kernels run, not those that use TMA.
    """
    generator = torch.Generator().manual_seed(0)
    shapes: tuple[Sequence[int], ...] = ((2, 16, 6, 6), (20, 16, 3, 3), (20,))
    x, weight, bias = (torch.randint(-2, 3, shape, generator=generator).to(dtype) for shape in shapes)
    return x, weight, bias


def forward(**wish: str) -> bool:
    """Whether conv2d of `operands` is exactly right. `wish` goes to conv2d, `implementation="triton"` for example."""
    import tritonconv

    x, weight, bias = operands()
    expected = torch.nn.functional.conv2d(x.double(), weight.double(), bias.double())
    return torch.equal(tritonconv.conv2d(x, weight, bias, **wish).double(), expected)


def step() -> bool:
    """Whether conv2d of `operands`, and its gradients of image, weight and bias, are exactly right."""
    import tritonconv

    found = []
    for function, dtype in ((tritonconv.conv2d, torch.float16), (torch.nn.functional.conv2d, torch.float64)):
        leaves = [each.to(dtype).requires_grad_() for each in operands()]
        y = function(*leaves)
        y.backward(torch.arange(y.numel(), dtype=dtype).reshape(y.shape) % 3 - 1)
        found.append([y.detach().double(), *(each.grad.double() for each in leaves)])
    return all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


def observe(*calls: Callable[[], bool], gpu: Gpu | None = None) -> None:
    """Make the calls one after the other and print, as JSON, what happened. `processes.seen` reads it.

    - "results": for each call, what it returned, or the class and message of its error and of the error's cause
    - "warnings": all warnings
    - "started": the kernels that the fake GPU started; empty without `gpu`
    """
    results: list[bool | str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", "Conversion of an array with ndim > 0")  # the interpreter of Triton 3.6
        warnings.filterwarnings("ignore", "TRITON_DEFAULT_FP_FUSION is unset")  # the compiler of Triton 3.9
        for call in calls:
            try:
                results.append(call())
            except Exception as error:
                causes = [error, error.__cause__] if error.__cause__ else [error]
                results.append(" <- ".join(f"{type(each).__name__}: {each}" for each in causes))
    said = [f"{each.category.__name__}: {each.message}" for each in caught]
    print(json.dumps({"results": results, "warnings": said, "started": gpu.started if gpu else []}))
