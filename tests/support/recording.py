"""A fake GPU that records launches instead of computing them, and its records as values that can be compared.

Use it in a process of its own (`processes.python`), because Triton really compiles kernels for the fake GPU.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.host.idle_gpu import IdleGpu, install
from tests.support.guards import fill_with_nan

# Kernel, hash of what Triton compiled, grid, and arguments by name.
Launch = tuple[str, str, tuple[int, int, int], dict[str, Any]]


class RecordingGpu(IdleGpu):
    """An idle GPU that records each launch. It keeps the tensors alive, so that no two have the same address."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[Launch] = []

    def launcher(self, src: Any, metadata: Any) -> Callable[..., None]:
        allocate_scratch = super().launcher(src, metadata)
        names = src.fn.arg_names

        def start(x: int, y: int, z: int, stream: int, function: str, *rest: Any) -> None:
            allocate_scratch(x, y, z, stream, function, *rest)
            arguments = dict(zip(names, rest[-len(names) :], strict=True))
            self.launches.append((function, metadata.hash, (x, y, z), arguments))

        return start


def installed() -> RecordingGpu:
    """Make tritonconv use a recording GPU, and return it.

    New results and workspaces are filled with NaN, so that none looks like a copy of an operand that was there before.
    """
    gpu = RecordingGpu()
    install(gpu)
    fill_with_nan()
    return gpu


def recorded(launches: list[Launch], roles: dict[str, Tensor]) -> list[Any]:
    """Return the launches as values that can be compared. A tensor becomes its role, size, dtype and alignment.

    Kernels see no shapes and strides of tensors but those among the other arguments. The role of a tensor that is no
    operand and no result is the operand that it is a copy of, or "workspace", and the number of other tensors before.
    """
    names = {tensor.data_ptr(): role for role, tensor in roles.items()}
    found: list[Any] = []
    for kernel, compiled, grid, arguments in launches:
        values = {}
        for name, value in arguments.items():
            if isinstance(value, Tensor):
                address = value.data_ptr()
                if address not in names:
                    names[address] = f"{other_role(value, roles)} {len(names)}"
                values[name] = (names[address], value.numel(), value.dtype, address % 16)
            else:
                values[name] = str(value)
        found.append((kernel, compiled, grid, values))
    return found


def other_role(tensor: Tensor, roles: dict[str, Tensor]) -> str:
    """Return the name of the operand that a tensor is a copy of, perhaps with zeros between, or "workspace"."""
    values = tensor[tensor != 0].sort().values
    for role in ("input", "weight", "bias", "gradient"):
        if role in roles:
            original = roles[role].to(tensor.dtype)
            if torch.equal(original[original != 0].sort().values, values):
                return f"copy of {role}"
    return "workspace"


def described(tensor: Tensor) -> tuple[Any, ...]:
    """Return what can be said of a tensor apart from its numbers, and its address modulo 16."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.data_ptr() % 16
