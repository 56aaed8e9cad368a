"""A plan before a kernel is started: its copies, arguments, workspaces and tile."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.support import guards
from tests.support.cases import laid_out
from tests.support.oracle import convolution_precision
from tests.support.plans import call_of, planned
from tritonconv.call import Call
from tritonconv.geometry import OPERATORS, ConvGeometry, Operator
from tritonconv.gpu import INTERPRETER, Gpu
from tritonconv.launch import failures, kernel_arguments, layout, start, tile_choice
from tritonconv.launch.failures import NoTma, TileTooLarge
from tritonconv.launch.plan import TileRequest
from tritonconv.tiling import catalogue, pick
from tritonconv.tiling.tile import Operands, Tile

pytestmark = [pytest.mark.first, pytest.mark.gpu, pytest.mark.oldest]


@pytest.mark.parametrize(("setting", "expected"), [("ieee", "ieee"), ("tf32", "tf32"), ("none", "ieee")])
def test_precision_follows_the_switch(setting: str, expected: str) -> None:
    x, weight = torch.empty(1, 16, 4, 4), torch.empty(16, 16, 1, 1)
    geometry = ConvGeometry(B=1, C=16, H=4, W=4, F=16, P=4, Q=4, R=1, S=1)
    with convolution_precision(setting):
        for operator in OPERATORS:
            plan = planned(call_of(operator, geometry, dict(x=x, weight=weight, y=x)), gpu=INTERPRETER)
            assert plan.launches[0].arguments["PRECISION"] == expected
        assert kernel_arguments.described_operands(geometry, 4, True, x).exact == (expected == "ieee")
        assert not kernel_arguments.described_operands(geometry, 8, True, x.half()).exact


def test_what_is_copied() -> None:
    """Sides are copied if whole vectors of channels are not adjacent, and weights if they lie in another order."""
    image = torch.randn(1, 16, 4, 4)
    copied = layout.adjacent_channels(image, 16)
    assert torch.equal(copied, image)
    assert layout.alignment(copied, 16) == 4
    assert layout.adjacent_channels(copied, 16) is copied
    assert layout.adjacent_channels(image[:, :3], 3).data_ptr() == image.data_ptr()
    weight = torch.randn(16, 16, 3, 3).to(memory_format=torch.channels_last)
    assert layout.weight_channels_last(weight).data_ptr() == weight.data_ptr()
    last = torch.randn(2, 8, 3, 3).to(memory_format=torch.channels_last)
    assert layout.alignment(last, 8) == 4
    assert (
        layout.alignment(
            guards.with_guard_bands(last)[1][1 : 1 + last.numel()].as_strided(last.shape, last.stride()), 8
        )
        == 1
    )
    for strides in ((65, 1, 16, 4), (68, 1, 17, 4), (80, 1, 20, 5)):
        assert layout.alignment(torch.empty_strided((2, 4, 4, 4), strides), 4) == 1
    assert layout.alignment(torch.empty_strided((2, 4, 4, 4), (80, 1, 20, 4)), 4) == 4
    for some in (weight[::2], weight[:, :, :2], weight[:1].expand(6, -1, -1, -1), weight[:, :5]):
        for copied, order in (
            (layout.weight_channels_last(some), (0, 2, 3, 1)),
            (layout.weight_filters_last(some, 1), (1, 2, 3, 0)),
        ):
            assert torch.equal(copied.view(-1), some.permute(order).flatten())
    shifted = laid_out(torch.randn(8, 8, 1, 1), "offset")
    assert shifted.data_ptr() % 16
    assert (
        layout.weight_channels_last(shifted).data_ptr() % 16
        == layout.weight_filters_last(shifted, 2).data_ptr() % 16
        == 0
    )


def test_when_offsets_are_wide() -> None:
    """Offsets are wide from the first that does not fit in 32 bits.

    wgrad counts from the first window to one beyond the last.
    """
    assert layout.is_wide(torch.empty_strided((2, 1, 1, 1), (2**31, 1, 1, 1), device="meta"))
    assert not layout.is_wide(torch.empty_strided((2, 1, 1, 1), (2**31 - 1, 1, 1, 1), device="meta"))
    x = torch.empty_strided((1, 1, 5, 1), (1, 1, 3 * 2**28, 1), device="meta")
    y = torch.empty_strided((1, 1, 2, 1), (1, 1, 1, 1), device="meta")
    for stride, wide in ((3, True), (2, True), (1, False)):
        geometry = ConvGeometry(1, 1, 5, 1, 1, 2, 1, 1, 1, stride_h=stride)
        assert wide_in_wgrad(geometry, x, y) is wide
    x = torch.empty_strided((1, 1, 1, 5), (1, 1, 1, 3 * 2**28), device="meta")
    y = torch.empty_strided((1, 1, 1, 2), (1, 1, 1, 1), device="meta")
    for stride, wide in ((3, True), (2, True), (1, False)):
        for stride_h, dilation_w in ((1, 1), (1, 4), (4, 1)):
            geometry = ConvGeometry(
                1, 1, 1, 5, 1, 1, 2, 1, 1, stride_h=stride_h, stride_w=stride, dilation_w=dilation_w, dilation_h=5
            )
            assert wide_in_wgrad(geometry, x, y) is wide


def wide_in_wgrad(geometry: ConvGeometry, x: Tensor, y: Tensor) -> bool:
    call = Call.of_geometry("wgrad", geometry, (x, y), channels_last=False)
    return planned(call, gpu=INTERPRETER).launches[0].arguments["WIDE"]


def test_only_a_tile_that_was_too_large_is_replaced() -> None:
    """A tile that was too large is replaced for its operator on its device, for wgrad with any SPLIT_K.

    The picked SPLIT_K is kept.
    """
    gpu, long = Gpu.of("sm_90", 132), ConvGeometry(128, 64, 58, 58, 64, 56, 56, 3, 3)
    aligned = Operands(2, 8)

    def chosen(operator: Operator, on: Gpu = gpu) -> Tile:
        return tile_choice.tile_for(TileRequest(long, operator, aligned, on))

    before = {operator: chosen(operator) for operator in OPERATORS}
    splits = before["wgrad"].SPLIT_K
    assert splits > 1
    failures.add(TileTooLarge("wgrad", gpu, replace(before["wgrad"], SPLIT_K=1)), "too large")
    assert chosen("wgrad") == replace(catalogue.smallest_tile("wgrad", 2, ""), SPLIT_K=splits)
    for operator in ("fprop", "dgrad"):
        assert chosen(operator) == before[operator]
    other = Gpu.of("sm_80", 108)
    assert chosen("wgrad", other) == pick.pick(long, "wgrad", aligned, other)


def test_pixels_are_gathered_where_blocks_turned_out_not_to_be_copied() -> None:
    """If TMA failed, that operator on that device gathers, with the tile that is picked without blocks."""
    gpu, operands = Gpu.of("sm_90", 132), Operands(2, 8, tma_possible=True)
    geometry = ConvGeometry(128, 256, 28, 28, 256, 28, 28, 3, 3, pad_h=1, pad_w=1)
    request = TileRequest(geometry, "fprop", operands, gpu)
    assert tile_choice.tile_for(request).uses_tma
    failures.add(NoTma("fprop", gpu), "it does not compile")
    assert tile_choice.tile_for(request) == pick.pick(geometry, "fprop", Operands(2, 8), gpu)
    assert tile_choice.tile_for(request._replace(operator="dgrad")).uses_tma


def test_one_shared_workspace_is_all_the_memory(device: str) -> None:
    """wgrad allocates SPLIT_K weights, and for each tile of columns SPLIT_K biases, in float32."""
    x, y = torch.randn(2, 16, 6, 6, device=device), torch.randn(2, 32, 6, 6, device=device)
    geometry = ConvGeometry(B=2, C=16, H=6, W=6, F=32, P=6, Q=6, R=1, S=1)
    tile = Tile(16, 16, 16, 4, 1, SPLIT_K=3)
    call = Call.of_geometry("wgrad", geometry, (x, y), finds_bias=True)
    multiply, add = planned(call, tile, INTERPRETER).launches
    assert multiply.arguments["partials_ptr"].shape == (3, 32, 16, 1, 1)
    assert multiply.arguments["bias_partials_ptr"].shape == (3, 32)
    assert multiply.programs == 3 * 2
    assert add.programs == 1


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_weight_that_is_not_split_is_written_as_it_lies(channels_last: bool, with_bias: bool, device: str) -> None:
    """A TMA kernel writes it itself if its channels are last. Then only a bias takes a second kernel."""
    x, y = (torch.randint(-2, 3, (2, 16, n, n), device=device).half() for n in (6, 4))
    geometry = ConvGeometry(2, 16, 6, 6, 16, 4, 4, 3, 3)
    plan = planned(Call.of_geometry("wgrad", geometry, (x, y), finds_bias=with_bias, channels_last=channels_last))
    if plan.tile.uses_tma and plan.tile.SPLIT_K == 1:
        assert (plan.launches[0].arguments["partials_ptr"] is plan.results[0]) == channels_last
        assert len(plan.launches) == (1 if channels_last and not with_bias else 2)
    weight, *bias = start.run(plan)
    assert torch.equal(weight.double(), torch.nn.grad.conv2d_weight(x.double(), weight.shape, y.double()))
    assert all(torch.equal(each.double(), y.double().sum((0, 2, 3))) for each in bias)


def test_a_weight_that_varies_is_written_without_a_workspace() -> None:
    """A weight that varies takes a workspace only if its sum is split.

    A bias that does not vary is loaded as for any weight.
    """
    x, y = torch.empty(2, 16, 4, 4), torch.empty(2, 16, 4, 4)
    geometry = ConvGeometry(2, 16, 4, 4, 16, 4, 4, 1, 1, varies="b")
    for splits, starts in ((1, 1), (2, 2)):
        tile = Tile(16, 16, 16, 4, 1, SPLIT_K=splits)
        plan = planned(Call.of_geometry("wgrad", geometry, (x, y)), tile, INTERPRETER)
        assert len(plan.launches) == starts
        assert (plan.launches[0].arguments["partials_ptr"] is plan.results[0]) == (splits == 1)
    weight = torch.empty(2, 16, 16, 1, 1)
    for bias in (torch.empty(16), torch.empty(2, 16)):
        plan = planned(Call.of_geometry("fprop", geometry, (x, weight), bias), gpu=INTERPRETER)
        assert plan.launches[0].arguments["BIAS_VARIES"] == (bias.ndim > 1)
