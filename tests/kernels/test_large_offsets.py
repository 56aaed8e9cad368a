"""Offsets beyond 2^31, on tensors that are too large to fill: tests touch only a few pages of their memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from tests.support import guards
from tests.support.oracle import convolution_precision
from tests.support.plans import planned
from tritonconv.call import Call
from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.launch import layout, start
from tritonconv.launch.plan import Plan
from tritonconv.tiling.tile import Tile

pytestmark = [pytest.mark.first, pytest.mark.gpu]

needs_interpreter = pytest.mark.skipif(
    torch.cuda.is_available(), reason="starts the last of millions of programs alone, which a GPU can not"
)
TILE = Tile(16, 16, 16, 4, 1)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sparse(shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype = torch.float16) -> Tensor:
    """Return an uninitialised tensor with these strides."""
    span = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + 1
    return torch.empty(span, dtype=dtype, device=DEVICE).as_strided(shape, strides)


def integers(shape: Sequence[int], seed: int = 0) -> Tensor:
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, torch.float16)


def exact_plan(operator: Operator, first: Tensor, second: Tensor, geometry: ConvGeometry, tile: Tile = TILE) -> Plan:
    """Return the plan of a call with this tile and without TF32."""
    with convolution_precision("ieee"):
        return planned(Call.of_geometry(operator, geometry, (first, second)), tile)


def computed(operator: Operator, first: Tensor, second: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return what the kernels compute with `TILE`. In the interpreter every address is checked."""
    with guards.checked_addresses():
        return start.run(exact_plan(operator, first, second, geometry))[0]


def last_computed(plan: Plan) -> Tensor:
    """Run only the last program of each kernel, and return the result. Only that program's part is computed."""
    for kernel, programs, arguments in plan.launches:
        with guards.checked_addresses(), alone(programs - 1, programs):
            kernel[(1,)](**arguments)
    return plan.results[0]


@contextmanager
def alone(program: int, programs: int) -> Iterator[None]:
    """Within this block, have the interpreter take a launch of one program for number `program` of `programs`."""
    from triton.runtime.interpreter import InterpreterBuilder

    dim, idx = InterpreterBuilder.set_grid_dim, InterpreterBuilder.set_grid_idx
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpreterBuilder, "set_grid_dim", lambda self, *_: dim(self, programs, 1, 1))
        patch.setattr(InterpreterBuilder, "set_grid_idx", lambda self, *_: idx(self, program, 0, 0))
        yield


@pytest.mark.parametrize("operator", ["fprop", "dgrad"])
def test_images_2_to_the_31_apart_with_channels_in_vectors(operator: Operator) -> None:
    """The stride exceeds 32 bits only when it is multiplied again by the 8 channels that it was divided by."""
    near, weight = integers((2, 8, 2, 1)), integers((8, 8, 1, 1), seed=1)
    far = sparse(near.shape, (2**31, 1, 8, 8)).copy_(near)
    geometry = ConvGeometry(2, 8, 2, 1, 8, 2, 1, 1, 1)
    subscripts = "bchw,fcrs->bfhw" if operator == "fprop" else "bfhw,fcrs->bchw"
    expected = torch.einsum(subscripts, near.double(), weight.double())
    assert torch.equal(computed(operator, far, weight, geometry).double(), expected)


@pytest.mark.parametrize("far", [0, 1])
def test_wgrad_steps_over_images_far_apart(far: int) -> None:
    """A step of 16 positions moves by 4 images of 2^29 elements each."""
    sides = [integers((5, 3, 2, 2), seed) for seed in (0, 1)]
    expected = torch.einsum("bchw,bfhw->fc", *(side.double() for side in sides))
    sides[far] = sparse((5, 3, 2, 2), (2**29, 4, 2, 1)).copy_(sides[far])
    weight = computed("wgrad", *sides, ConvGeometry(5, 3, 2, 2, 3, 2, 2, 1, 1))
    assert torch.equal(weight[:, :, 0, 0].double(), expected)


@pytest.mark.parametrize("axis", [2, 3])
def test_wgrad_taps_far_apart(axis: int) -> None:
    """The taps of an image's last position may lie beyond 32 bits, even if all its positions lie within 32 bits."""
    near, y = integers((2, 3, 4, 4)), integers((2, 5, 1, 1), seed=1)
    strides = list(near.stride())
    strides[axis] = 2**30
    x = sparse(near.shape, strides).copy_(near)
    geometry = ConvGeometry(2, 3, 4, 4, 5, 1, 1, 4, 4)
    weight = computed("wgrad", x, y, geometry)
    assert torch.equal(weight.double(), torch.einsum("bchw,bf->fchw", near.double(), y[:, :, 0, 0].double()))


LONG = Tile(16, 16, 2048, 4, 1)


@needs_interpreter
def test_fprop_with_a_weight_beyond_32_bits() -> None:
    C, F = 2**15, 2**15 + 16
    x, last = integers((1, 2 * C, 1, 1)), integers((16, C, 1, 1), seed=1)
    weight = sparse((2 * F, C, 1, 1), (C, 1, 1, 1))
    weight[-16:] = last
    y = last_computed(exact_plan("fprop", x, weight, ConvGeometry(1, 2 * C, 1, 1, 2 * F, 1, 1, 1, 1, G=2), LONG))
    expected = torch.einsum("bchw,fchw->f", x[:, C:].double(), last.double())
    assert torch.equal(y[0, -16:, 0, 0].double(), expected)


@needs_interpreter
def test_dgrad_with_a_weight_beyond_32_bits() -> None:
    C, F = 2**16 + 16, 2**15
    y, last = integers((1, F, 1, 1)), integers((F, 16, 1, 1), seed=1)
    weight = sparse((F, C, 1, 1), (1, F, 1, 1))
    weight[:, -16:] = last
    x = last_computed(exact_plan("dgrad", y, weight, ConvGeometry(1, C, 1, 1, F, 1, 1, 1, 1), LONG))
    expected = torch.einsum("bfhw,fchw->c", y.double(), last.double())
    assert torch.equal(x[0, -16:, 0, 0].double(), expected)


@needs_interpreter
def test_wgrad_of_a_weight_beyond_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is allocated without guard bands, and not filled with NaN: that would take 20 GB."""
    monkeypatch.setattr(layout, "allocate", guards.unguarded)
    C, F = 2**15, 2**16 + 16
    x, y = integers((1, C, 1, 1)), integers((1, F, 1, 1), seed=1)
    weight = last_computed(exact_plan("wgrad", x, y, ConvGeometry(1, C, 1, 1, F, 1, 1, 1, 1)))
    assert torch.equal(weight[-1, -16:, 0, 0], y[0, -1, 0, 0] * x[0, -16:, 0, 0])


# The filters and channels of one location, and enough locations for their weights to exceed 2^31 elements.
FILTERS, CHANNELS, COLUMNS = 64, 2**11, 2**14 + 1
ONE_IMAGE = Tile(1, 16, 2048, 4, 1)


def weights_of_locations(rows: int, taps: int) -> Tensor:
    """Return uninitialised weights of the shape (rows, COLUMNS, FILTERS, CHANNELS, taps, 1).

    As in a layer, the channels are last in memory.
    """
    shape = (rows, COLUMNS, FILTERS, CHANNELS, taps, 1)
    filters = taps * CHANNELS
    row = COLUMNS * FILTERS * filters
    return sparse(shape, (row, FILTERS * filters, filters, 1, CHANNELS, CHANNELS))


@needs_interpreter
@pytest.mark.parametrize("tile", [LONG, ONE_IMAGE], ids=["dot", "products"])
def test_fprop_with_weights_of_locations_beyond_32_bits(tile: Tile) -> None:
    x, last = sparse((1, CHANNELS, 1, COLUMNS), (0, 1, 0, CHANNELS)), integers((FILTERS, CHANNELS), seed=1)
    weight = weights_of_locations(rows=1, taps=1)
    x[0, :, 0, -1], weight[0, -1, :, :, 0, 0] = integers((CHANNELS,)), last
    geometry = ConvGeometry(1, CHANNELS, 1, COLUMNS, FILTERS, 1, COLUMNS, 1, 1, varies="p q")
    y = last_computed(exact_plan("fprop", x, weight, geometry, tile))
    expected = last.double() @ x[0, :, 0, -1].double()
    assert torch.equal(y[0, -16:, 0, -1].double(), expected[-16:])


@needs_interpreter
@pytest.mark.parametrize("tile", [TILE, ONE_IMAGE], ids=["dot", "products"])
def test_dgrad_with_weights_of_locations_beyond_32_bits(tile: Tile) -> None:
    """The last pixel sees the last location with the first tap, and one 2^31 elements earlier with the second tap."""
    y, last = sparse((1, FILTERS, 2, COLUMNS), (0, 1, COLUMNS * FILTERS, FILTERS)), integers((2, FILTERS, CHANNELS))
    weight = weights_of_locations(rows=2, taps=2)
    for tap in (0, 1):
        y[0, :, 1 - tap, -1] = integers((FILTERS,), seed=tap + 1)
        weight[1 - tap, -1, :, :, tap, 0] = last[tap]
    geometry = ConvGeometry(1, CHANNELS, 2, COLUMNS, FILTERS, 2, COLUMNS, 2, 1, varies="p q")
    x = last_computed(exact_plan("dgrad", y, weight, geometry, tile))
    expected = sum(y[0, :, 1 - tap, -1].double() @ last[tap].double() for tap in (0, 1))
    assert torch.equal(x[0, -16:, 1, -1].double(), expected[-16:])


@needs_interpreter
@pytest.mark.parametrize("tile", [TILE, Tile(16, 16, 1, 4, 1)], ids=["dot", "products"])
def test_wgrad_of_weights_of_locations_beyond_32_bits(monkeypatch: pytest.MonkeyPatch, tile: Tile) -> None:
    monkeypatch.setattr(layout, "allocate", guards.unguarded)
    x = sparse((1, CHANNELS, 1, COLUMNS), (0, 1, 0, CHANNELS))
    y = sparse((1, FILTERS, 1, COLUMNS), (0, 1, 0, FILTERS))
    x[0, :, 0, -1], y[0, :, 0, -1] = integers((CHANNELS,)), integers((FILTERS,), seed=1)
    geometry = ConvGeometry(1, CHANNELS, 1, COLUMNS, FILTERS, 1, COLUMNS, 1, 1, varies="p q")
    weight = last_computed(exact_plan("wgrad", x, y, geometry, tile))
    assert torch.equal(weight[0, -1, -1, -16:, 0, 0], y[0, -1, 0, -1] * x[0, -16:, 0, -1])
