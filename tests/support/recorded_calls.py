"""Calls on a fake GPU that records launches instead of computing them, and comparisons of the fast path with plans.

Use it in a process of its own (`processes.ran`), because Triton really compiles kernels for the fake GPU.
"""

import json
import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import tritonconv
from bench.host.idle_gpu import IdleGpu, install
from tests.support.cases import DTYPES, Case
from tests.support.neighbours import shifted
from tests.support.oracle import convolution_precision, hostile
from tests.support.ways import noted_long_ways
from tritonconv.launch import bounded_cache, kept_plan, layout

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


@dataclass(frozen=True)
class Problem:
    """A call and its backward pass.

    `needs` has the first letters of the inputs that require a gradient: "x", "w" and "b". Without any, the call runs
    under `torch.no_grad`. If `autocast`, it runs under autocast to bfloat16. If `layer`, the module is called.
    `shifted` has the letters of the operands whose addresses are no multiples of 16.
    """

    case: Case
    dtype: str = "bfloat16"
    needs: str = "xwb"
    autocast: bool = False
    layer: bool = False
    shifted: str = ""

    def run(self, gpu: RecordingGpu, seed: int) -> list[Any]:
        """Make the call with new tensors, and return the launches and what describes results and gradients."""
        gpu.launches.clear()
        tensors, gradient, y, gradients = self.step(seed)
        named = dict(zip(("input", "weight", "bias", "gradient", "y"), (*tensors, gradient, y), strict=True))
        named |= {f"result {i}": each for i, each in enumerate(gradients)}
        roles = {name: tensor.detach() for name, tensor in named.items() if tensor is not None}
        return [*recorded(gpu.launches, roles), *map(described, (y, *gradients))]

    def step(self, seed: int) -> tuple[tuple[Tensor, Tensor, Tensor | None], Tensor, Tensor, tuple[Tensor, ...]]:
        """Make the call with new tensors. Return its operands, the incoming gradient, the result and its gradients."""
        input, weight, bias = (
            shifted(each) if each is not None and name in self.shifted else each
            for name, each in zip("xwb", self.case.operands(DTYPES[self.dtype], seed=seed), strict=True)
        )
        assert input is not None
        assert weight is not None
        tensors = (input, weight, bias)
        leaves = [
            each.requires_grad_(name in self.needs)
            for name, each in zip("xwb", tensors, strict=True)
            if each is not None
        ]
        switch = convolution_precision("tf32" if self.dtype == "tf32" else "ieee")
        cast = torch.autocast("cpu", torch.bfloat16) if self.autocast else nullcontext()
        with switch, torch.set_grad_enabled(bool(self.needs)):
            with cast:
                y = self.called(tensors)
            given = [each for each in leaves if each.requires_grad]
            gradient = hostile(y.shape, y.dtype, self.case.gradient)
            gradients = torch.autograd.grad(y, given, gradient) if given else ()
        return tensors, gradient, y, gradients

    def called(self, tensors: tuple[Tensor, Tensor, Tensor | None]) -> Tensor:
        x, weight, bias = tensors
        if not self.layer:
            return self.case.function(tritonconv)(*tensors)
        kind = tritonconv.ConvTranspose2d if self.case.transposed else tritonconv.Conv2d
        into, out = self.case.channels
        how = dict(self.case.arguments, bias=bias is not None, device="meta")
        layer = kind(into, out, self.case.kernel, **how)
        for name, value in (("weight", weight), ("bias", bias)):
            if value is not None:
                delattr(layer, name)
                setattr(layer, name, value)
        y: Tensor = layer(x)
        return y


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


LAST = dict(x="channels_last", weight="channels_last")
SMALL = dict(channels=(16, 16), size=(6, 5), **LAST)


def case(name: str = "", **more: Any) -> Case:
    """Return a case with 16 channels that are last in memory, apart from what is given."""
    return Case(name, **SMALL | more)


POOL = [
    Problem(case()),
    Problem(case(), "float16"),
    Problem(case(), "float32"),
    Problem(case(), "tf32"),
    Problem(case(), needs=""),
    Problem(case(), needs="x"),
    Problem(case(), needs="w"),
    Problem(case(), needs="b"),
    Problem(case(), needs="wb"),
    Problem(case(), needs="xb"),
    Problem(case(), layer=True),
    Problem(case(), "float32", autocast=True),
    Problem(case(bias=False)),
    Problem(case(bias=False), needs=""),
    Problem(case(padding=1)),
    Problem(case(padding="same"), needs="xw"),
    Problem(case(stride=2, padding=1)),
    Problem(case(stride=(2, 1))),
    Problem(case(dilation=2)),
    Problem(case(groups=2, channels=(32, 32))),
    Problem(case(gradient="contiguous")),
    Problem(case(gradient="all_zero_strides")),
    Problem(case(x="contiguous")),
    Problem(case(x="offset")),
    Problem(case(), shifted="x"),
    Problem(case(), shifted="w"),
    Problem(case(), shifted="xwb"),
    Problem(case(weight="contiguous")),
    Problem(case(weight="offset")),
    Problem(case(x="sliced")),
    Problem(case(x="sliced", bias_layout="sliced")),
    Problem(case(x="contiguous", weight="contiguous")),
    Problem(case(batch=1)),
    Problem(case(transposed=True)),
    Problem(case(transposed=True), layer=True, needs="x"),
    Problem(case(transposed=True, stride=2, output_padding=1)),
    Problem(case(transposed=True, bias=False), needs="w"),
    Problem(case(varies="p q", bias_varies="p q", size=(4, 4))),
    Problem(case(varies="p q", size=(4, 4), transposed=True)),
    Problem(case(varies="b", bias_varies="b")),
    Problem(case(varies="b p q", size=(4, 4))),
]


def installed() -> RecordingGpu:
    """Make tritonconv use a recording GPU, and return it.

    New results and workspaces are filled with NaN, so that none looks like a copy of an operand that was there before.
    """
    gpu = RecordingGpu()
    install(gpu)
    allocate, allocate_again = layout.allocate, kept_plan.allocators["cpu"]
    layout.allocate = lambda *of: allocate(*of).fill_(float("nan"))
    kept_plan.allocators["cpu"] = lambda *of: allocate_again(*of).fill_(-1 if of[-1] == torch.int8 else float("nan"))
    return gpu


# How often the caches are empty. If the key lacked a field, only some orders of calls would show it.
ROUNDS = 4


def compare(draws: int, seed: int) -> dict[str, Any]:
    """Repeat random problems of POOL in ROUNDS, and return how often they agreed with plans made anew.

    Each round begins with empty caches. "differing" has the numbers of the problems that did not agree, "long" how many
    forward and backward passes took the long way, "launches" counts all launches, and "drawn" the problems.
    """
    gpu = installed()
    expected = []
    for problem in POOL:
        bounded_cache.clear()
        expected.append(problem.run(gpu, 0))
    rng, drawn, launches, differing = random.Random(seed), set(), 0, set()
    with noted_long_ways() as noted:
        for draw in range(draws):
            if draw % (draws // ROUNDS) == 0:
                bounded_cache.clear()
            number = rng.randrange(len(POOL))
            drawn.add(number)
            if POOL[number].run(gpu, draw) != expected[number]:
                differing.add(number)
            launches += len(gpu.launches)
    return dict(
        differing=sorted(differing),
        long=[noted.count("forward"), noted.count("backward")],
        launches=launches,
        drawn=len(drawn),
    )


def main(draws: int, seed: int) -> None:
    torch.set_num_threads(1)
    print(json.dumps(compare(draws, seed)))
