"""The units that `bench.device.exactness` computes both ways: operators and layers on small problems.

The problems are those of `tests.support.blocks`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from zlib import crc32

import torch
from torch import Tensor

import tritonconv
from bench.run.contenders import DTYPES
from tests.support.blocks import expected, problems, problems_of_descriptors
from tests.support.cases import Case
from tritonconv.call import Call
from tritonconv.geometry import OPERATORS, ConvGeometry, Operator, taken
from tritonconv.gpu import Gpu
from tritonconv.launch.plan import Plan
from tritonconv.operators.compute import compute
from tritonconv.tiling.block_shapes import BlockShape, candidate_shapes, whole_rows, with_shape
from tritonconv.tiling.tile import Tile

# In these problems the programs build their descriptors, whatever the switch says: the stride leaves pixels over, or a
# block overhangs an edge of the positions. float32 needs no descriptors, because without TF32 pixels are gathered. In
# TF32 wgrad gathers them, too.
BY_PROGRAMS = ("fprop stride_2", "wgrad stride_2", "wgrad overhanging")


def every_problem(least: int) -> dict[str, ConvGeometry]:
    """Return all problems of `tests.support.blocks`, by name, for tiles of this size on each axis."""
    return problems(least) | problems_of_descriptors(least)


# The problems of fprop and dgrad, each in one shape of block. `plain` has every shape.
SIDES: dict[Operator, tuple[str, ...]] = {
    "fprop": (
        *("groups", "dilated", "far_padding", "pointwise", "folded", "folded_and_dilated", "folded_far"),
        *("pointwise_groups", "stride_of_one_tap", "padded_by_strides", "several_tiles", "stride_2"),
    ),
    "dgrad": (
        *("groups", "dilated", "far_padding", "pointwise", "folded", "folded_and_dilated", "folded_far"),
        *("pointwise_groups", "stride_2", "strided_groups", "pixels_without_taps", "stride_beyond_the_image"),
        "several_tiles",
    ),
}
# The problems of wgrad in each shape of block: a line of a row, a line of images, whole rows.
WEIGHTS = {
    "line": ("wide", "pointwise", "pointwise_groups", "strided_line", "overhanging"),
    "images": (
        *("plain", "groups", "dilated", "far_padding", "folded", "folded_and_dilated", "folded_far"),
        *("padded_by_strides", "strided_groups", "stride_2"),
    ),
    "rows": ("rows", "strided_rows"),
}
# These problems of wgrad are computed with the bias's gradient and without it, the others one way.
BOTH = ("wide", "plain", "rows", "strided_line", "folded", "strided_rows")
# What float16 and TF32 have beside bfloat16. TF32 has no wgrad there.
IN_OTHER_DTYPES = {
    "fprop": ("plain", "groups", "folded", "pointwise"),
    "dgrad": ("plain", "groups", "folded", "stride_2"),
    "wgrad": ("wide", "plain", "rows", "folded"),
}


@dataclass(frozen=True)
class Unit:
    """One problem that is computed both ways.

    `operators` are those that it runs, `biased` those of them with a bias or the gradient of one. `tiles` has the tiles
    of those operators that do not choose their own. With a `layer`, the forward pass and all gradients of this layer
    are computed through the public function. `by_programs` says that the host makes no descriptors in either way.
    """

    name: str
    dtype: str
    geometry: ConvGeometry
    operators: tuple[Operator, ...]
    biased: tuple[Operator, ...] = ()
    tiles: dict[Operator, Tile] = field(default_factory=dict)
    layer: Case | None = None
    by_programs: bool = False

    def plans(self, gpu: Gpu) -> dict[Operator, Plan]:
        """Return the plan of each operator on `gpu`, for tensors without data."""
        from bench.lowering.offline import plan_for

        return {
            operator: plan_for(
                operator, self.dtype, self.geometry, gpu, self.tiles.get(operator), bias=operator in self.biased
            )
            for operator in self.operators
        }

    def draw(self, kind: str, number: int, device: torch.device) -> dict[str, Tensor]:
        """Return x, weight, y and a bias: always the same for this kind and number, and in new memory.

        The kinds are "integers", from -1 to 1; "random"; and "not finite", which are random with NaN and infinity at
        edges.
        """
        generator = torch.Generator(device).manual_seed(crc32(f"{self.name} {kind} {number}".encode()))
        geometry, dtype = self.geometry, DTYPES[self.dtype]

        def drawn(*shape: int) -> Tensor:
            if kind == "integers":
                return torch.randint(-1, 2, shape, generator=generator, device=device).to(dtype)
            return torch.randn(shape, generator=generator, device=device).to(dtype)

        found = {name: drawn(*(n[i] for i in (0, 2, 3, 1))).permute(0, 3, 1, 2) for name, n in self.shapes.items()}
        found["bias"] = drawn(geometry.C if self.adds_to_image else geometry.F)
        if kind == "not finite":
            x, weight, y = found["x"], found["weight"], found["y"]
            x[-1, 3, -1, -1] = y[-1, 5, -1, -1] = weight[-1, -1, -1, -1] = float("nan")
            x[0, 1, 0, 0] = y[0, 2, 0, -1] = float("inf")
        return found

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(x=self.geometry.image_shape, weight=self.geometry.weight_shape, y=self.geometry.feature_shape)

    @property
    def adds_to_image(self) -> bool:
        """Whether the bias is added to the image: in dgrad, and in a transposed convolution."""
        return "dgrad" in self.biased

    def compute(self, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Return the results of a call: of the operator, or of the layer and its gradients."""
        if self.layer is not None:
            return self.step(given)
        (operator,) = self.operators
        x, weight, y = given["x"], given["weight"], given["y"]
        biased = operator in self.biased
        call = Call.of_geometry(
            operator,
            self.geometry,
            taken(operator, dict(x=x, weight=weight, y=y)),
            given["bias"] if biased and operator != "wgrad" else None,
            finds_bias=biased and operator == "wgrad",
            implementation="triton",
        )
        return compute(call)

    def step(self, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Return the layer's result, and the gradients of input, weight and bias."""
        assert self.layer is not None
        input, gradient = (given["y"], given["x"]) if self.layer.transposed else (given["x"], given["y"])
        leaves = [each.detach().requires_grad_() for each in (input, given["weight"], given["bias"])]
        result = self.layer.function(tritonconv)(*leaves, implementation="triton")
        return result.detach(), *torch.autograd.grad(result, leaves, gradient)

    def in_float64(self, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Return what `compute` should return, by torch in float64."""
        x, weight, y, bias = (given[name] for name in ("x", "weight", "y", "bias"))
        found = expected(self.geometry, x, weight, y)
        added = bias.double()[:, None, None]
        sides = {"fprop": y, "dgrad": x}
        results = []
        for operator in self.operators:
            biased = operator in self.biased
            results.append(found[operator] + added if biased and operator in sides else found[operator])
        if "wgrad" in self.biased:
            results.append(sides["dgrad" if self.layer and self.layer.transposed else "fprop"].double().sum((0, 2, 3)))
        return tuple(results)


def units(least: int) -> list[Unit]:
    """Return all units, the most telling first. The tiles have `least` pixels, channels and products."""
    found = []
    for dtype in ("bfloat16", "float16", "tf32"):
        for operator in ("fprop", "dgrad"):
            found += units_of_side(operator, dtype, least)
        found += units_of_weight(dtype, least) if dtype != "tf32" else []
        found += units_of_layers(dtype, least)
    everything = every_problem(least)
    pickers = [("wgrad", "tf32"), *((operator, "float32") for operator in OPERATORS)]
    found += [
        Unit(f"{operator} plain, picked, {dtype}", dtype, everything["plain"], (operator,), by_programs=True)
        for operator, dtype in pickers
    ]
    return found


def units_of_side(operator: Operator, dtype: str, least: int) -> list[Unit]:
    """Return the units of fprop or dgrad. Every second one has a bias. Two store their results in halves."""
    everything = every_problem(least)
    few, many = candidate_shapes(least, operator), candidate_shapes(2 * least, operator)
    rectangle = many[0]  # of twice as many pixels, because `least` pixels make a square
    if dtype == "bfloat16":
        cases = [("plain", shape) for shape in (rectangle, *few)]
        cases += [(name, few[i % len(few)]) for i, name in enumerate(SIDES[operator])]
    else:
        cases = [(name, (rectangle, *few)[i]) for i, name in enumerate(IN_OTHER_DTYPES[operator])]
    found = []
    for index, (name, shape) in enumerate(cases):
        pixels = least * (2 if shape == rectangle else 1)
        tile = with_shape(Tile(pixels, least, steps(least, dtype), num_warps=4, num_stages=2, GROUP_M=2), shape)
        found.append(of_operator(operator, name, kind(shape), dtype, everything[name], tile, bias=index % 2 == 1))
    if dtype == "bfloat16":
        for name in ("plain", "folded"):
            tile = with_shape(Tile(least, 2 * least, least, least // 16, num_stages=2), few[0])
            found.append(of_operator(operator, name, "halves", dtype, everything[name], tile, bias=True))
    return found


def units_of_weight(dtype: str, least: int) -> list[Unit]:
    """Return the units of wgrad, some of them with the gradient of the bias."""
    everything, found = every_problem(least), []
    for label, names in WEIGHTS.items():
        for index, name in enumerate(names):
            if dtype != "bfloat16" and name not in IN_OTHER_DTYPES["wgrad"]:
                continue
            shape: BlockShape = {
                "line": (1, 1, least),
                "images": (least, 1, 1),
                "rows": (*whole_rows(least, everything[name]), (0, 0, 0))[0],
            }[label]
            tile = with_shape(Tile(least, least, least, 4, 2, GROUP_M=2, SPLIT_K=2), shape)
            for bias in (False, True) if name in BOTH else (index % 2 == 0,):
                found.append(of_operator("wgrad", name, label, dtype, everything[name], tile, bias=bias))
    return found


def units_of_layers(dtype: str, least: int) -> list[Unit]:
    """Return the units of whole layers with all gradients: a convolution, a strided and a transposed one."""
    channels = (least, least)
    cases = [
        Case("conv2d", 2, channels, (8, 8), padding=1),
        Case("conv2d strided", 2, channels, (8, 8), stride=2, padding=1),
        Case("conv_transpose2d", 2, channels, (4, 4), (4, 4), stride=2, padding=1, transposed=True),
    ]
    found = []
    for case in cases if dtype == "bfloat16" else cases[:1]:
        forward, backward = ("dgrad", "fprop") if case.transposed else ("fprop", "dgrad")
        side = Tile(least, least, steps(least, dtype), num_warps=4, num_stages=2, GROUP_M=2)
        tiles: dict[Operator, Tile] = {
            operator: with_shape(side, candidate_shapes(least, operator)[1]) for operator in ("fprop", "dgrad")
        }
        split = Tile(least, least, least, num_warps=4, num_stages=2, GROUP_M=2, SPLIT_K=2)
        rows, gathering = with_shape(split, whole_rows(least, case.geometry)[0]), Tile(64, 32, 16, 8, 4, SPLIT_K=2)
        tiles["wgrad"] = gathering if dtype == "tf32" else rows
        found.append(
            Unit(
                f"layer {case.name}, {dtype}",
                dtype,
                case.geometry,
                (forward, backward, "wgrad"),  # type: ignore[arg-type]
                biased=(forward, "wgrad"),  # type: ignore[arg-type]
                tiles=tiles,
                layer=case,
            )
        )
    return found


def of_operator(
    operator: Operator, name: str, label: str, dtype: str, geometry: ConvGeometry, tile: Tile, *, bias: bool
) -> Unit:
    """Return a unit of one operator with this tile. `label` is the shape of its blocks in words."""
    return Unit(
        f"{operator} {name}, {label}{', bias' * bias}, {dtype}",
        dtype,
        geometry,
        (operator,),
        biased=(operator,) * bias,
        tiles={operator: tile},
        by_programs=f"{operator} {name}" in BY_PROGRAMS,
    )


def steps(least: int, dtype: str) -> int:
    """Return BLOCK_K: `least` products of 16 bits, or half as many of 32."""
    return least // (DTYPES[dtype].itemsize // 2)


def kind(shape: BlockShape) -> str:
    """Return the shape of a block of pixels in words."""
    images, rows, columns = shape
    if images == rows == 1:
        return "line"
    return f"squares of {rows}" if rows == columns else "rectangle"


def rehearsed(every: Sequence[Unit]) -> list[Unit]:
    """Return a few of the units, of each operator, dtype and shape of block, for Triton's interpreter."""
    wanted = (
        *(("fprop plain", "bfloat16"), ("fprop pointwise", "float16"), ("dgrad pixels_without_taps", "bfloat16")),
        *(("dgrad plain", "tf32"), ("wgrad pointwise_groups", "bfloat16"), ("wgrad padded_by_strides", "bfloat16")),
        *(("wgrad rows", "float16"), ("wgrad overhanging", "bfloat16"), ("layer conv_transpose2d", "bfloat16")),
        ("fprop plain, picked", "float32"),
    )
    named = {what: [each for each in every if each.name.startswith(f"{what[0]},")] for what in wanted}
    return [next(each for each in named[what] if each.dtype == what[1]) for what in wanted]
