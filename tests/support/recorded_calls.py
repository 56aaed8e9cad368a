"""Random calls on a GPU that records launches: what the fast path starts, compared with what plans made anew start.

Use it in a process of its own (`processes.python`), because Triton really compiles kernels for the fake GPU.
"""

import json
import random
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import tritonconv
from tests.support.cases import DTYPES, Case
from tests.support.neighbours import shifted
from tests.support.oracle import convolution_precision, hostile
from tests.support.recording import RecordingGpu, described, installed, recorded
from tests.support.ways import noted_long_ways
from tritonconv.launch import bounded_cache


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


# How often the caches are empty. If the key lacked a field, only some orders of calls would show it.
ROUNDS = 4


def compare(draws: int, seed: int) -> dict[str, Any]:
    """Repeat random problems of POOL in ROUNDS, and return how often they agreed with plans made anew.

    Each round begins with empty caches. "differing" has the numbers of the problems that did not agree. "long" says how
    many forward and backward passes took the long way. "launches" counts all launches, and "drawn" the problems.
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
