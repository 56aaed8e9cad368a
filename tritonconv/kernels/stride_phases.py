"""The phases of a stride. A phase is a sub-image, every stride-th pixel, whose pixels all see the same taps.

The dgrad kernels run each phase as a convolution of stride one.
"""

import triton
import triton.language as tl


@triton.jit
def phase(i, stride, pad, dilation, period, taps, extent):
    """Return the i-th of `stride` phases of an axis: first tap, taps, first position, first pixel, pixels.

    Taps and pixels are counts, which may be 0. The first position is the one that the first pixel sees with the first
    tap; it may lie outside the features. If a phase has no taps, its first tap and first position mean nothing. Phases
    with more taps come first.

    Tap r reaches the pixels h with (h + pad - r*dilation) % stride == 0. As r grows, the taps come back to the same
    phase after `period` = stride / gcd(stride, dilation) taps. So phase i < period sees the taps i, i + period, ... No
    tap reaches the other phases: r*dilation % stride is always a multiple of the gcd.
    """
    gcd = stride // period
    beyond = i - period
    no_multiple = beyond + beyond // tl.maximum(gcd - 1, 1) + 1
    residue = tl.where(i < period, i * dilation % stride, no_multiple)
    count = tl.where(i < period, tl.maximum(tl.cdiv(taps - i, period), 0), 0)
    first_pixel = ((residue - pad) % stride + stride) % stride
    # If the phase has taps, the dividend is a multiple of the stride, so the division is exact, even below zero.
    first_position = (first_pixel + pad - i * dilation) // stride
    return i, count, first_position, first_pixel, tl.cdiv(extent - first_pixel, stride)


@triton.jit
def phase_of(index, stride, pad, dilation, period, taps, extent):
    """Return what `phase` returns for phase number `index` of an image: each value for rows, then for columns.

    The parameters from `stride` on are pairs, for rows and columns. There are stride_h * stride_w phases. Those of the
    columns count fastest.
    """
    stride_h, stride_w = stride
    pad_h, pad_w = pad
    dilation_h, dilation_w = dilation
    period_h, period_w = period
    R, S = taps
    H, W = extent
    r, taps_h, first_p, start_h, pixels_h = phase(
        i=index // stride_w, stride=stride_h, pad=pad_h, dilation=dilation_h, period=period_h, taps=R, extent=H
    )
    s, taps_w, first_q, start_w, pixels_w = phase(
        i=index % stride_w, stride=stride_w, pad=pad_w, dilation=dilation_w, period=period_w, taps=S, extent=W
    )
    return r, s, taps_h, taps_w, first_p, first_q, start_h, start_w, pixels_h, pixels_w
