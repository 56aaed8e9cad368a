"""What planners decide: which kernel is started, and what is flattened, folded, copied or wide."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.cases import laid_out
from tests.support.gpus import H100
from tests.support.oracle import convolution_precision
from tests.support.plans import call_of, planned
from tritonconv.call import Call
from tritonconv.geometry import OPERATORS, ConvGeometry, Operator
from tritonconv.launch import planners, start
from tritonconv.launch.plan import Copies, Launch, Plan
from tritonconv.tiling.block_shapes import with_shape
from tritonconv.tiling.tile import Operands, Tile

pytestmark = [pytest.mark.first, pytest.mark.gpu]

GATHER = Tile(16, 16, 16, 4, 1)
TMA = with_shape(GATHER, (1, 4, 4))
PLAIN = ConvGeometry(B=3, C=16, H=4, W=5, F=16, P=4, Q=5, R=1, S=1)
STRIDED = ConvGeometry(B=2, C=16, H=8, W=6, F=16, P=4, Q=3, R=3, S=3, stride_h=2, stride_w=2, pad_h=1, pad_w=1)


def without_data(shape: tuple[int, ...], lying: str = "channels_last", dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return laid_out(torch.empty(shape, dtype=dtype, device="meta"), lying)


def call(operator: Operator, geometry: ConvGeometry, lying: str = "channels_last", **how: Any) -> Call:
    """Return a call on operands without data, whose sides lie in this way."""
    dtype = how.pop("dtype", torch.bfloat16)
    x, y = (without_data(shape, lying, dtype) for shape in (geometry.image_shape, geometry.feature_shape))
    return call_of(operator, geometry, dict(x=x, y=y, weight=without_data(geometry.weight_shape, dtype=dtype)), **how)


def arguments(*given: Any, tile: Tile = TMA, **how: Any) -> dict[str, Any]:
    """Return the arguments of the first launch of a call, as planned for an H100."""
    return planned(call(*given, **how), tile, H100).launches[0].arguments


@pytest.mark.parametrize(
    ("geometry", "lying", "one", "other"),
    [
        (PLAIN, "channels_last", 1, 1),
        (PLAIN, "padded_rows", 3, 3),
        (replace(PLAIN, B=0), "channels_last", 0, 0),
        (replace(PLAIN, W=6, pad_w=1), "channels_last", 3, 3),
    ],
)
def test_what_is_flattened(geometry: ConvGeometry, lying: str, one: int, other: int) -> None:
    """A pointwise convolution becomes one row of one image if both sides allow that, and there are images."""
    x, y = without_data(geometry.image_shape, lying), without_data(geometry.feature_shape)
    for first, second, images in ((x, y, one), (y, x, other)):
        flat, *sides = planners.flatten_product(geometry, first, second)
        assert [flat.B, *(len(side) for side in sides)] == [images] * 3


@pytest.mark.parametrize(
    ("operator", "geometry", "folded"),
    [
        ("fprop", STRIDED, True),
        ("dgrad", STRIDED, True),
        ("fprop", replace(STRIDED, H=9), False),
        ("dgrad", replace(STRIDED, H=9), False),
        ("fprop", replace(STRIDED, stride_h=1, stride_w=1), False),
        ("dgrad", replace(STRIDED, stride_h=1, stride_w=1), False),
        ("fprop", replace(STRIDED, R=1, S=1), False),  # one sub-image
        ("dgrad", replace(STRIDED, R=1, S=1), True),
        ("fprop", replace(STRIDED, C=24), False),
        ("dgrad", replace(STRIDED, C=24), False),
    ],
)
def test_what_is_folded(operator: Operator, geometry: ConvGeometry, folded: bool) -> None:
    """fprop folds if taps see several sub-images, dgrad if there are several phases and results leave by 16 bytes.

    A step counts whole blocks of channels.
    """
    given = arguments(operator, geometry)
    if operator == "fprop":
        assert given["LOADS_FOLDED"] is folded
        assert given["ONE_SUBIMAGE"] == (geometry.subimages_seen == 1)
    else:
        assert given["STORES_FOLDED"] is folded
        assert given["STRIDED"] == (geometry.phases > 1)
        assert not arguments(operator, geometry, channels_last=False)["STORES_FOLDED"]


def test_a_gathered_image_is_not_made_dense() -> None:
    """Only a TMA kernel that folds needs rows without gaps."""
    x, weight = without_data((2, 32, 8, 6))[:, :16], without_data(STRIDED.weight_shape)
    given = [
        planned(Call.of_geometry("fprop", STRIDED, (x, weight)), tile, H100).launches[0].arguments
        for tile in (GATHER, TMA)
    ]
    assert [each["x_ptr"].stride(3) for each in given] == [32, 16]
    assert ["LOADS_FOLDED" in each for each in given] == [False, True]


@pytest.mark.parametrize(
    ("dtype", "tile", "varies", "lying"),
    [
        (torch.bfloat16, TMA, "", (16, 3, 3, 16)),  # (F, R, S, C)
        (torch.float32, TMA, "", (1, 16, 3, 3, 16)),  # (G, C, R, S, F)
        (torch.bfloat16, GATHER, "", (1, 16, 3, 3, 16)),
        (torch.bfloat16, GATHER, "b", (2, 16, 3, 3, 16)),
    ],
)
def test_how_the_weight_of_dgrad_lies(dtype: torch.dtype, tile: Tile, varies: str, lying: tuple[int, ...]) -> None:
    """A weight that varies, and one that tensor cores read MN-major, keeps its filters in front."""
    given = arguments("dgrad", replace(STRIDED, varies=varies), dtype=dtype, tile=tile)
    assert given["weight_ptr"].shape == lying
    if tile is TMA:
        assert given["TRANSPOSED"] == (dtype == torch.bfloat16)
    else:
        assert given["VECTOR_WEIGHT"] == (8 if varies else 1)


@pytest.mark.parametrize("operator", ["fprop", "dgrad"])
def test_a_weight_whose_taps_lie_outside(operator: Operator, device: str) -> None:
    """It lies as (R, S, F, C), as other libraries store it. For dgrad in TF32 its filters are padded to whole steps."""
    geometry = ConvGeometry(B=1, C=16, H=3, W=4, F=24, P=3, Q=4, R=1, S=1)
    x, y = (
        torch.randint(-2, 3, shape, device=device).float() for shape in (geometry.image_shape, geometry.feature_shape)
    )
    weight = torch.randint(-2, 3, (1, 1, 24, 16), device=device).float().permute(2, 3, 0, 1)
    with convolution_precision("tf32"):
        plan = planned(call_of(operator, geometry, dict(x=x, weight=weight, y=y)))
        (result,) = start.run(plan)
    subscripts, side = ("fc,bchw->bfhw", x) if operator == "fprop" else ("fc,bfhw->bchw", y)
    assert torch.equal(result, torch.einsum(subscripts, weight[..., 0, 0], side))
    if not torch.cuda.is_available():
        assert plan.tile.uses_tma


def test_what_a_tile_is_asked_for() -> None:
    """Stores of one element, positions with gaps and very many positions each change the tile that is asked for."""
    for operator in ("fprop", "dgrad"):
        for whole in (True, False):
            request = planned(call(operator, PLAIN, channels_last=whole), TMA, H100).request
            assert request.operands.whole_stores is whole
            assert request.operands.tma_possible
            assert request.geometry == (PLAIN.flattened() if whole else PLAIN)
    shape = ConvGeometry(B=2, C=16, H=4, W=8, F=16, P=4, Q=8, R=3, S=3, pad_h=1, pad_w=1)
    many = replace(shape, B=2**26)
    x, y = without_data(shape.image_shape), without_data((2, 16, 4, 9))[..., :8]
    assert planned(call("wgrad", shape), GATHER, H100).request.operands.tma_possible
    assert planned(call("wgrad", replace(many, B=2**26 - 1)), GATHER, H100).request.operands.tma_possible
    assert not planned(call("wgrad", many), GATHER, H100).request.operands.tma_possible
    assert not planned(call_of("wgrad", shape, dict(x=x, y=y)), GATHER, H100).request.operands.tma_possible


@pytest.mark.parametrize(
    ("C", "F", "G", "pair"),
    [
        (16, 16, 1, (8, 8)),
        (16, 2, 1, (2, 2)),
        (2, 16, 1, (2, 2)),
        (16, 3, 1, (8, 1)),
        (3, 16, 1, (1, 8)),
        (2, 3, 1, (1, 1)),
        (24, 32, 2, (2, 2)),  # 12 channels in a group
        (32, 24, 2, (2, 2)),
    ],
)
def test_what_is_loaded_and_stored_at_once(C: int, F: int, G: int, pair: tuple[int, int]) -> None:
    """wgrad pairs the loads of both sides, and its tile is chosen for the narrower. fprop and dgrad load only one."""
    geometry = replace(STRIDED, C=C, F=F, G=G)
    plan = planned(call("wgrad", geometry), GATHER, H100)
    given = plan.launches[0].arguments
    assert (given["VECTOR_X"], given["VECTOR_Y"]) == pair
    assert plan.request.operands == Operands(2, min(pair), tma_possible=pair == (8, 8))
    widths = {channels: next(v for v in (8, 2, 1) if channels // G % v == 0) for channels in (C, F)}
    sides: tuple[tuple[Operator, int, int], ...] = (("fprop", C, F), ("dgrad", F, C))
    for operator, loaded, stored in sides:
        operands = planned(call(operator, geometry), GATHER, H100).request.operands
        assert (operands.vector, operands.whole_stores) == (widths[loaded], widths[stored] == 8)


def test_a_given_tile_is_taken() -> None:
    chosen = {operator: planned(call(operator, STRIDED), None, H100).tile for operator in OPERATORS}
    for operator, tile in chosen.items():
        other = replace(GATHER, GROUP_M=3)
        assert tile != other
        assert planned(call(operator, STRIDED), other, H100).tile == other


@pytest.mark.parametrize(("varies", "wide"), [("", False), ("b", False), ("p q", True), ("b p q", True)])
def test_wide_offsets_of_weights_that_vary(varies: str, wide: bool) -> None:
    assert arguments("wgrad", replace(STRIDED, varies=varies), tile=GATHER)["WIDE"] is wide


@pytest.mark.parametrize(
    ("along_x", "along_y", "wide"), [(0, 2**31, True), (0, 2**31 - 1, False), (2**30, 0, True), (2**30 - 1, 0, False)]
)
def test_either_side_of_wgrad_may_be_wide(along_x: int, along_y: int, wide: bool) -> None:
    """The features count to the last image, and the image to one beyond the last."""
    pixel = ConvGeometry(2, 1, 1, 1, 1, 1, 1, 1, 1)
    x, y = (torch.empty_strided((2, 1, 1, 1), (stride, 1, 0, 0), device="meta") for stride in (along_x, along_y))
    assert planned(call_of("wgrad", pixel, dict(x=x, y=y)), GATHER, H100).launches[0].arguments["WIDE"] is wide


@pytest.mark.parametrize("operator", OPERATORS)
def test_which_kernel_is_started(operator: Operator) -> None:
    kernels = [planned(call(operator, STRIDED), tile, H100).launches[0].kernel.__name__ for tile in (TMA, GATHER)]
    assert kernels == [f"{operator}_tma_kernel", f"{operator}_kernel"]


def test_empty_results_start_nothing() -> None:
    launches = [Launch(None, programs, {}) for programs in (0, 1, 2)]
    assert planners.nonempty(*launches) == launches[1:]
    assert planned(call("fprop", replace(STRIDED, B=0)), GATHER, H100).launches == []


@pytest.mark.parametrize("tile", [GATHER, TMA], ids=["gathers", "tma"])
def test_only_tma_gets_memory_for_descriptors(tile: Tile, monkeypatch: pytest.MonkeyPatch) -> None:
    with_scratch: list[torch.device] = []
    monkeypatch.setattr(start, "with_scratch", lambda device, *_: with_scratch.append(device) or [])
    plan = Plan((torch.empty(1),), [], tile, planned(call("fprop", STRIDED), tile, H100).request, Copies())
    assert start.run(plan) == plan.results
    assert with_scratch == [torch.device("cpu")] * tile.uses_tma
