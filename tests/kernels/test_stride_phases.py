"""The phases of dgrad along one axis equal a list of all taps and pixels."""

from itertools import product
from math import gcd

import pytest
import torch
import triton
import triton.language as tl

from tritonconv.kernels.stride_phases import phase

pytestmark = [pytest.mark.first, pytest.mark.gpu, pytest.mark.oldest]

EXTENT = 11


@triton.jit(do_not_specialize=["stride", "pad", "dilation", "period", "taps", "extent"])
def phases_kernel(out_ptr, stride, pad, dilation, period, taps, extent):
    """Store the five numbers that describe phase i, for i = the program's index."""
    i = tl.program_id(0)
    first_tap, count, first_position, first_pixel, pixels = phase(i, stride, pad, dilation, period, taps, extent)
    tl.store(out_ptr + 5 * i, first_tap)
    tl.store(out_ptr + 5 * i + 1, count)
    tl.store(out_ptr + 5 * i + 2, first_position)
    tl.store(out_ptr + 5 * i + 3, first_pixel)
    tl.store(out_ptr + 5 * i + 4, pixels)


@pytest.mark.parametrize("stride", range(1, 7))
def test_phases_cover_every_tap_of_every_pixel_once(stride: int, device: str) -> None:
    for dilation, pad, taps in product(range(1, 7), (0, 4), (1, 3, 5)):
        period = stride // gcd(stride, dilation)
        out = torch.full((stride, 5), -99, dtype=torch.int32, device=device)
        phases_kernel[(stride,)](out, stride, pad, dilation, period, taps, EXTENT)
        found: dict[int, set[tuple[int, int]]] = {}
        counts = []
        for first_tap, count, first_position, first_pixel, pixels in out.tolist():
            counts.append(count)
            for v in range(pixels):
                # Each tap of a phase is `period` taps further on and looks dilation * period / stride positions back.
                found[first_pixel + v * stride] = {
                    (first_tap + t * period, first_position + v - t * dilation * period // stride) for t in range(count)
                }
        wanted = {
            h: {(r, (h + pad - r * dilation) // stride) for r in range(taps) if (h + pad - r * dilation) % stride == 0}
            for h in range(EXTENT)
        }
        assert found == wanted, (dilation, pad, taps)
        assert counts == sorted(counts, reverse=True), "phases with most taps first"
