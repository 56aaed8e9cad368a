"""Real images of more than 2^31 elements: one case for each operator, on a GPU with enough memory."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d
from torch.nn.grad import conv2d_weight

import tritonconv

GIGABYTES = 24
SHAPE = (2, 64, 4100, 4100)  # 2.15e9 elements
FILTERS, EDGE = 8, 24


def room() -> bool:
    return torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > GIGABYTES * 1e9


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not room(), reason=f"needs a GPU with {GIGABYTES} GB of free memory"),
    pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=["nhwc", "nchw"]),
]


def integers(shape: tuple[int, ...], memory_format: torch.memory_format) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(0)
    drawn = torch.empty(shape, dtype=torch.float16, device="cuda", memory_format=memory_format)
    return drawn.random_(-2, 3, generator=generator)


def corners() -> list[tuple[slice, ...]]:
    """Return the indices of EDGE x EDGE pixels in two corners: the first of the first image, the last of the last one.

    The offsets of the last pixels are the largest.
    """
    return [
        (slice(0, 1), slice(None), slice(0, EDGE), slice(0, EDGE)),
        (slice(-1, None), slice(None), slice(-EDGE, None), slice(-EDGE, None)),
    ]


def inner(corner: tuple[slice, ...]) -> tuple[slice, ...]:
    """Return the index of the pixels within a corner whose 3 x 3 windows do not cross the edge where it was cut out."""
    kept = slice(0, EDGE - 1) if corner[2].start == 0 else slice(1, None)
    return slice(None), slice(None), kept, kept


def test_fprop_reads_it(memory_format: torch.memory_format) -> None:
    x, weight = integers(SHAPE, memory_format), integers((FILTERS, 64, 3, 3), memory_format)
    y = tritonconv.conv2d(x, weight, padding=1, implementation="triton")
    assert x.numel() > 2**31
    for corner in corners():
        expected = conv2d(x[corner].double(), weight.double(), padding=1)
        assert torch.equal(y[corner].double()[inner(corner)], expected[inner(corner)])


def test_dgrad_writes_it(memory_format: torch.memory_format) -> None:
    y, weight = integers((2, FILTERS, *SHAPE[2:]), memory_format), integers((FILTERS, 64, 3, 3), memory_format)
    x = tritonconv.conv_transpose2d(y, weight, padding=1, implementation="triton")
    assert x.shape == SHAPE
    for corner in corners():
        expected = conv_transpose2d(y[corner].double(), weight.double(), padding=1)
        assert torch.equal(x[corner].double()[inner(corner)], expected[inner(corner)])


def test_wgrad_reads_it(memory_format: torch.memory_format) -> None:
    """Features are zero except near two corners, so that sums are small enough to be exact."""
    x = integers(SHAPE, memory_format)
    weight = integers((FILTERS, 64, 3, 3), memory_format).requires_grad_()
    gradient = torch.zeros((2, FILTERS, *SHAPE[2:]), dtype=x.dtype, device="cuda").to(memory_format=memory_format)
    expected = torch.zeros(weight.shape, dtype=torch.float64, device="cuda")
    for corner in corners():
        seen = torch.zeros((1, FILTERS, EDGE, EDGE), dtype=torch.float64, device="cuda")
        seen[inner(corner)] = integers((1, FILTERS, EDGE - 1, EDGE - 1), memory_format).double()
        gradient[corner] = seen.to(x.dtype)
        expected += conv2d_weight(x[corner].double(), weight.shape, seen, padding=1)
    y = tritonconv.conv2d(x, weight, padding=1, implementation="triton")
    (found,) = torch.autograd.grad(y, weight, gradient)
    assert torch.equal(found.double(), expected)
