"""The contenders: how each of them computes each pass of a layer.

The passes `fprop`, `dgrad` and `wgrad` are the three operators. `step` is forward and backward through autograd. All
four run without a bias. `forward` is the forward pass as users call it, with a bias.

In a Conv2d, fprop is the forward pass and dgrad the input's gradient. In a ConvTranspose2d it is the other way round.

The contenders:

    torch        torch.nn.functional: cuDNN on NVIDIA, in channels_last.
    triton       tritonconv's Triton kernels, in channels_last.
    torch-nchw   torch, with contiguous (NCHW) operands.
    triton-nchw  triton, with contiguous (NCHW) operands.
    reference    tritonconv.reference: unfold + einsum in plain PyTorch.
    compile      torch's layer under torch.compile.
    flag_gems    FlagGems' Triton kernels, if the package is installed.

Torch has no layer whose weight varies. For these layers there are also:

    unfold-compile  einsum over an unfold view under torch.compile (`unfolded`).
    grouped         one grouped convolution of torch (`grouped`): for weights per sample, and for locally connected
                    layers.
    loop            a loop over positions in plain PyTorch (`loop`), for locally connected layers only.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d

import tritonconv
from bench.layers import Layer
from bench.run import grouped, loop, unfolded
from bench.run.memory import Computation
from tritonconv import dispatch
from tritonconv.bias import broadcastable, shape_beside
from tritonconv.call import Call
from tritonconv.geometry import ConvGeometry, Factor, Operator, taken
from tritonconv.launch.layout import allocate
from tritonconv.operators.library import torch_operators

Pass = Literal["fprop", "dgrad", "wgrad", "forward", "step"]
PASSES: tuple[Pass, ...] = ("fprop", "dgrad", "wgrad", "forward", "step")
CONTENDERS = (
    "torch",
    "triton",
    "torch-nchw",
    "triton-nchw",
    "reference",
    "unfold-compile",
    "grouped",
    "loop",
    "compile",
    "flag_gems",
)
OURS = ("triton", "triton-nchw", "reference")
# torch has no layer whose weight varies. Users write one of these instead, as far as the layer's family allows.
INSTEAD = ("reference", "unfold-compile", "grouped", "loop")
# What torch does not have, by the family of the layer.
MISSING = {
    "local": "locally connected layer",
    "per sample": "layer with a weight for each sample",
    "dynamic": "layer with a weight for each sample and location",
}
# Both "tf32" and "float32" have float32 operands. tf32 rounds them for the tensor cores; float32 does not use these.
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "tf32": torch.float32, "float32": torch.float32}


@dataclass(frozen=True)
class Problem:
    """A layer in one dtype, with random operands in channels_last: image x, weight, features y and bias.

    For a Conv2d, x is the input and y the incoming gradient. For a ConvTranspose2d, y is the input and x the incoming
    gradient. The bias has one number for each channel of the layer's result. If the weight varies, it has one for each
    channel and location.
    """

    layer: Layer
    dtype: str
    geometry: ConvGeometry
    x: Tensor
    weight: Tensor
    y: Tensor
    bias: Tensor

    @classmethod
    def draw(cls, layer: Layer, dtype: str, device: torch.device, seed: int = 0) -> "Problem":
        """Return the problem of a layer, with normal random numbers from `seed` as operands, on `device`."""
        generator = torch.Generator(device).manual_seed(seed)
        geometry = layer.geometry

        def normal(shape: tuple[int, ...]) -> Tensor:
            drawn = torch.randn(shape, generator=generator, dtype=DTYPES[dtype], device=device)
            if drawn.ndim > 4:
                return allocate(shape, drawn, channels_last=True).copy_(drawn)
            return drawn.contiguous(memory_format=torch.channels_last)

        shapes = (geometry.image_shape, geometry.weight_shape, geometry.feature_shape)
        x, weight, y = map(normal, shapes)
        added = shape_beside(shapes[0 if layer.case.transposed else 2], geometry.varies)
        bias = torch.randn(added, generator=generator, dtype=DTYPES[dtype], device=device)
        return cls(layer, dtype, geometry, x, weight, y, bias)

    def contiguous(self) -> "Problem":
        """Return the same problem with contiguous operands, as NCHW users have them.

        A weight that varies stays as it is, because its layer keeps channels last in both formats.
        """
        weight = self.weight if self.geometry.varies else self.weight.contiguous()
        return replace(self, x=self.x.contiguous(), weight=weight, y=self.y.contiguous())

    def all_contiguous(self) -> "Problem":
        """Return the same problem with contiguous operands, also if the weight varies.

        Then the samples of images and weights can be folded into groups without a copy.
        """
        return replace(self.contiguous(), weight=self.weight.contiguous())

    def call(self, operator: Operator, *, channels_last: bool = True, implementation: str = "auto") -> Call:
        """Return the call of an operator on these operands, without a bias. `channels_last` is its result's format."""
        factors: dict[Factor, Tensor] = dict(x=self.x, weight=self.weight, y=self.y)
        return Call.of_geometry(
            operator,
            self.geometry,
            taken(operator, factors),
            channels_last=channels_last,
            implementation=implementation,
        )

    @property
    def forward(self) -> Operator:
        """The operator that is the layer's forward pass."""
        return "dgrad" if self.layer.case.transposed else "fprop"

    @property
    def input(self) -> Tensor:
        """The layer's input."""
        return self.y if self.layer.case.transposed else self.x

    @property
    def gradient(self) -> Tensor:
        """The incoming gradient: that of the layer's result."""
        return self.x if self.layer.case.transposed else self.y


def operators_of(of: Pass, layer: Layer) -> tuple[Operator, ...]:
    """Return the operator that computes each result of a pass.

    The results of a step are the layer's result, the input's gradient and the weight's gradient, in this order. The
    pass `forward` has only the first.
    """
    if of not in ("forward", "step"):
        return (of,)  # type: ignore[return-value]
    operators: tuple[Operator, ...] = (
        ("dgrad", "fprop", "wgrad") if layer.case.transposed else ("fprop", "dgrad", "wgrad")
    )
    return operators if of == "step" else operators[:1]


def competing(asked: Sequence[str], layer: Layer, small: bool = False) -> list[str]:
    """Return the contenders in `asked`, each once, and those that are added for a layer whose weight varies.

    If torch is asked, those of `INSTEAD` are added for such a layer, because users write these instead. The contender
    torch stays, and `refusal` says why it is not timed. In a `small` run `unfold-compile` is not added, because
    compilation would take most of the run.
    """
    added = INSTEAD if layer.family in MISSING and "torch" in asked else ()
    left_out = "unfold-compile" if small else None
    return list(
        dict.fromkeys([*asked, *(name for name in added if name != left_out and not unsuited(name, layer.family))])
    )


def unsuited(contender: str, family: str) -> str | None:
    """Return why `contender` has no layer of this family; None if it has one."""
    match contender:
        case "torch" | "torch-nchw" | "compile" if family in MISSING:
            return f"torch has no {MISSING[family]}"
        case "unfold-compile" | "grouped" if family not in MISSING:
            return "torch has this layer, and users write their own only if the weight varies"
        case "grouped" if family == "dynamic":
            return "with a group for each sample and location, each group would compute one position"
        case "loop" if family != "local":
            return "a loop over positions is for locally connected layers"
        case "flag_gems" if family in MISSING:
            return "flag_gems has no weight that varies"
    return None


def refusal(contender: str, of: Pass, problem: Problem) -> str | None:
    """Return why `contender` cannot compute this pass; None if it can."""
    if reason := unsuited(contender, problem.layer.family):
        return reason
    match contender:
        case "unfold-compile" if problem.x.device.type == "cpu" and "dgrad" in operators_of(of, problem.layer):
            return "torch 2.13 compiles the sum of overlapping patches to code that writes outside of it, on a CPU"
        case "triton" | "triton-nchw":
            return dispatch.why_not("triton", problem.call(problem.forward))
        case "flag_gems":
            if find_spec("flag_gems") is None:
                return "flag_gems is not installed"
            if problem.layer.case.transposed or of in ("dgrad", "wgrad"):
                return "flag_gems has no transposed layer, and no dgrad or wgrad alone"
    return None


def computation(contender: str, of: Pass, problem: Problem) -> Computation:
    """Return a function without arguments that computes the pass as `contender` does, and returns a tuple of results.

    Raise ValueError if there is no contender of this name.
    """
    match contender:
        case "triton" | "reference":
            return _tritonconv(contender, of, problem, channels_last=True)
        case "triton-nchw":
            return _tritonconv("triton", of, problem.contiguous(), channels_last=False)
        case "loop":
            return _by_hand(of, problem, loop)
        case "unfold-compile":
            return _by_hand(of, problem, unfolded, compiled_by_torch)
        case "grouped":
            return _by_hand(of, problem if problem.geometry.per_location else problem.all_contiguous(), grouped)
        case "torch":
            return _torch(of, problem)
        case "torch-nchw":
            return _torch(of, problem.contiguous())
        case "compile":
            return _torch(of, problem, compiled_by_torch)
        case "flag_gems":
            return _flag_gems(of, problem)
    raise ValueError(f"contenders are {', '.join(CONTENDERS)}, not {contender}")


def _tritonconv(implementation: str, of: Pass, problem: Problem, channels_last: bool) -> Computation:
    match of:
        case "forward" | "step":
            function = problem.layer.case.function(tritonconv)
            return _layer(of, problem, partial(function, implementation=implementation))
        case operator:
            call = problem.call(operator, channels_last=channels_last, implementation=implementation)
            return lambda: (getattr(torch_operators, operator)(*call.arguments),)


def unchanged(function: Any) -> Any:
    return function


def _by_hand(of: Pass, problem: Problem, module: Any, transform: Callable[[Any], Any] = unchanged) -> Computation:
    """Return the pass by the functions fprop, dgrad and wgrad of a module, wrapped by `transform`.

    Autograd finds the gradients of a step. The gradients alone are the functions dgrad and wgrad.
    """
    operator = problem.forward if of in ("forward", "step") else of
    function, geometry = getattr(module, operator), problem.geometry

    def layer(first: Tensor, second: Tensor, bias: Tensor | None = None) -> Tensor:
        result: Tensor = function(first, second, geometry)
        return result if bias is None else result + broadcastable(bias)

    compute = transform(layer)
    match of:
        case "forward" | "step":
            return _layer(of, problem, compute)
        case "fprop" | "dgrad" | "wgrad":
            factors: dict[Factor, Tensor] = dict(x=problem.x, weight=problem.weight, y=problem.y)
            operands = taken(of, factors)
            return lambda: (compute(*operands),)


def _torch(of: Pass, problem: Problem, transform: Callable[[Any], Any] = unchanged) -> Computation:
    """Return the pass by torch's own convolution, wrapped by `transform`. On NVIDIA this is cuDNN.

    A gradient alone is computed by aten.convolution_backward, which torch's autograd calls too.
    """
    case = problem.layer.case
    function = conv_transpose2d if case.transposed else conv2d

    def forward(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        result: Tensor = function(input, weight, bias, **case.arguments)
        return result

    if of in ("forward", "step"):
        return _layer(of, problem, transform(forward))
    if of == problem.forward:
        transformed = transform(forward)
        return lambda: (transformed(problem.input, problem.weight),)
    wanted = [of != "wgrad", of == "wgrad", False]
    sampling = [[n, n] for n in (case.stride, case.padding, case.dilation)]

    def backward(gradient: Tensor, input: Tensor, weight: Tensor) -> Tensor:
        gradients = torch.ops.aten.convolution_backward(
            gradient, input, weight, None, *sampling, case.transposed, [0, 0], case.groups, wanted
        )
        result: Tensor = gradients[1 if of == "wgrad" else 0]
        return result

    backward = transform(backward)
    return lambda: (backward(problem.gradient, problem.input, problem.weight),)


def compiled_by_torch(function: Any) -> Any:
    """Return the function under torch.compile, with the options that make it fastest.

    Earlier compilations are dropped first, because torch keeps only a limited number of them and fails beyond it.
    """
    torch.compiler.reset()
    mode = "max-autotune-no-cudagraphs" if torch.cuda.is_available() else None
    return torch.compile(function, dynamic=False, fullgraph=True, mode=mode)


def _flag_gems(of: Pass, problem: Problem) -> Computation:
    import flag_gems

    case = problem.layer.case
    sampling = (case.stride, case.padding, case.dilation, case.groups)

    def forward(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        result: Tensor = flag_gems.conv2d(input, weight, bias, *sampling)
        return result

    return _layer(of, problem, forward) if of != "fprop" else lambda: (forward(problem.x, problem.weight),)


def _layer(of: Pass, problem: Problem, function: Callable[..., Tensor]) -> Computation:
    """Return the forward pass of a layer with its bias, or if `of` is not "forward", its step without a bias."""
    if of == "forward":
        return lambda: (function(problem.input, problem.weight, problem.bias),)
    input, weight = problem.input.detach().requires_grad_(), problem.weight.detach().requires_grad_()

    def step() -> tuple[Tensor, ...]:
        result = function(input, weight)
        return result.detach(), *torch.autograd.grad(result, (input, weight), problem.gradient)

    return step


@contextmanager
def at_its_best(dtype: str) -> Iterator[None]:
    """Set torch's switches for speed within the block: cuDNN tries all its algorithms.

    TF32 is allowed if the dtype is "tf32", and only then. The older switches `allow_tf32` say the same as the newer
    ones, because torch.compile reads both, and torch raises an exception where they differ.
    """
    precision = "tf32" if dtype == "tf32" else "ieee"
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    convolution = cudnn.conv.fp32_precision
    product, product_tf32 = matmul.fp32_precision, matmul.allow_tf32
    switched = dict(_benchmark=True, _benchmark_limit=0, _allow_tf32=dtype == "tf32", _fp32_precision=precision)
    before = cudnn.set_flags(**switched)
    try:
        matmul.allow_tf32 = dtype == "tf32"
        cudnn.conv.fp32_precision = precision
        yield
    finally:
        matmul.allow_tf32 = product_tf32
        matmul.fp32_precision = product
        cudnn.set_flags(*before)
        cudnn.conv.fp32_precision = convolution
