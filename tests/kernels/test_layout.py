"""The answers of `launch.layout` about the memory of operands, on tensors that differ in one stride or size."""

import pytest
import torch
from torch import Tensor

from tritonconv.geometry import ConvGeometry
from tritonconv.launch import layout
from tritonconv.tiling.descriptors import can_fold

pytestmark = pytest.mark.first


def strided(shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    return torch.empty_strided(shape, strides, dtype=torch.bfloat16, device="meta")


@pytest.mark.parametrize(
    ("shape", "strides", "evenly"),
    [
        ((2, 4, 3, 5), (60, 1, 20, 4), True),
        ((2, 4, 3, 5), (60, 1, 24, 4), False),  # a gap after each row
        ((2, 4, 3, 5), (64, 1, 20, 4), False),  # a gap after each image
        ((2, 4, 3, 5), (60, 15, 5, 1), False),  # NCHW: the other channels lie between two images
        ((1, 4, 3, 5), (60, 15, 5, 1), True),
        ((1, 4, 3, 5), (999, 1, 20, 4), True),  # one image: the stride to the next does not matter
        ((2, 4, 1, 5), (20, 1, 999, 4), True),  # one row: nor does the stride to the next row
        ((2, 4, 3, 1), (12, 1, 4, 4), True),
    ],
)
def test_evenly_spaced(shape: tuple[int, ...], strides: tuple[int, ...], evenly: bool) -> None:
    assert layout.is_evenly_spaced(strided(shape, strides)) == evenly


@pytest.mark.parametrize(
    ("sizes", "channels", "block", "folds"),
    [
        (dict(H=6, W=8), 128, 64, True),
        (dict(H=5, W=8), 128, 64, False),
        (dict(H=6, W=9), 128, 64, False),
        (dict(H=6, W=8), 96, 64, False),
        (dict(H=6, W=8, G=2), 128, 64, False),
    ],
)
def test_folds(sizes: dict[str, int], channels: int, block: int, folds: bool) -> None:
    geometry = ConvGeometry(**dict(B=1, C=128, F=8, P=2, Q=2, R=3, S=3, stride_h=3, stride_w=4) | sizes)
    assert can_fold(geometry, channels, block) == folds


def test_dense_rows() -> None:
    """A dense side is returned itself. A part of wider pixels, and NCHW, are copied with their values."""
    dense = torch.arange(2.0 * 4 * 3 * 5).reshape(2, 4, 3, 5).contiguous(memory_format=torch.channels_last)
    assert layout.dense_rows(dense) is dense
    apart = torch.arange(100.0).as_strided((1, 4, 2, 3), (0, 20, 12, 4))  # pixels where they should be, channels not
    for side in (apart, dense[:, :2], dense[:, 1:2], dense.contiguous(), dense[..., ::2]):
        copied = layout.dense_rows(side)
        assert copied.data_ptr() != side.data_ptr()
        assert (copied.stride(1), copied.stride(3)) == (1, side.shape[1])
        assert torch.equal(copied, side)
    assert layout.dense_rows(dense[:, :, 1:]).data_ptr() == dense[:, :, 1:].data_ptr()


@pytest.mark.parametrize(
    ("given", "loaded"),
    [
        ((8, 8), (8, 8)),
        ((8, 2), (2, 2)),
        ((2, 8), (2, 2)),
        ((2, 2), (2, 2)),
        ((8, 1), (8, 1)),
        ((1, 8), (1, 8)),
        ((2, 1), (1, 1)),
        ((1, 2), (1, 1)),
        ((1, 1), (1, 1)),
    ],
)
def test_paired(given: tuple[int, int], loaded: tuple[int, int]) -> None:
    assert layout.paired_vectors(*given, 8) == loaded


@pytest.mark.parametrize(
    ("channels", "dtype", "vector"),
    [(12, torch.float16, 4), (64, torch.float16, 8), (12, torch.float32, 4), (3, torch.float32, 1)],
)
def test_weight_vector(channels: int, dtype: torch.dtype, vector: int) -> None:
    assert layout.weight_vector(torch.empty(6, channels, 3, 2, dtype=dtype, device="meta")) == vector


@pytest.mark.parametrize(
    ("strides", "stride_h", "copied"),
    [
        ((64, 1, 32, 8), 1, True),
        ((64, 1, 2**38, 8), 1, True),
        ((64, 1, 2**38, 8), 2, False),  # every second row is 2^40 bytes from the next
        ((2**39, 1, 32, 8), 1, False),
        ((64, 1, 32, 2**39), 1, False),
        ((0, 1, 32, 8), 1, False),  # expanded
        ((64, 1, 0, 8), 1, False),
        ((64, 1, 32, 0), 1, False),
    ],
)
def test_in_blocks(strides: tuple[int, ...], stride_h: int, copied: bool) -> None:
    geometry = ConvGeometry(B=2, C=8, H=2, W=4, F=8, P=2, Q=4, R=1, S=1, stride_h=stride_h)
    assert layout.can_copy_blocks(strided((2, 8, 2, 4), strides), geometry) == copied
    assert not layout.can_copy_blocks(strided((0, 8, 2, 4), strides), geometry)


def test_filters_last_are_contiguous_when_padded() -> None:
    """torch pads in the order of axes that it finds. That of a weight with outer taps is channels_last_3d to it."""
    weight = torch.arange(1.0, 1 + 6 * 4).view(1, 1, 6, 4).permute(2, 3, 0, 1)
    lying = layout.weight_filters_last(weight, groups=1, multiple=4)
    assert lying.shape == (1, 4, 1, 1, 8)
    assert lying.is_contiguous()
    assert torch.equal(lying.view(4, 8)[:, :6], weight[..., 0, 0].T)
    assert not lying[..., 6:].any()


def test_filters_that_are_last_already_are_not_copied() -> None:
    weight = torch.arange(4.0 * 3 * 2 * 8).view(4, 3, 2, 8).permute(3, 0, 1, 2)
    assert layout.weight_filters_last(weight, groups=1, multiple=8).data_ptr() == weight.data_ptr()


def test_the_order_of_what_is_allocated() -> None:
    like = torch.empty(0)
    assert layout.allocate((2, 4, 3, 5), like, False).stride() == (60, 15, 5, 1)
    assert layout.allocate((2, 4, 3, 5), like, True).stride() == (60, 1, 20, 4)
    assert layout.allocate((7, 2, 4, 3, 5), like, True).stride() == (120, 60, 1, 20, 4)
    assert layout.allocate((7, 2, 4, 3, 5), like, False).stride() == (120, 60, 15, 5, 1)
    assert layout.allocate((2,), like, False, torch.float64).dtype == torch.float64
