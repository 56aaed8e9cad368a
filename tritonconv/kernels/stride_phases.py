"""The phases of a stride, of which dgrad runs each as a convolution of stride one."""

import triton
import triton.language as tl


@triton.jit
def phase(i, stride, pad, dilation, period, taps, extent):
    """The i-th of `stride` phases along one axis, those with most taps first: first tap, taps, first position, first
    pixel, pixels.

    Tap r reaches the pixels h with (h + pad - r*dilation) % stride == 0. As r grows this comes back to the same phase
    after `period` = stride / gcd(stride, dilation) taps. So phase i < period sees the taps i, i + period, ..., and the
    phases that remain, those of no multiple of the gcd, see none.
    """
    gcd = stride // period
    beyond = i - period
    no_multiple = beyond + beyond // tl.maximum(gcd - 1, 1) + 1
    residue = tl.where(i < period, i * dilation % stride, no_multiple)
    count = tl.where(i < period, tl.maximum(tl.cdiv(taps - i, period), 0), 0)
    first_pixel = ((residue - pad) % stride + stride) % stride
    # What is divided here is a multiple of the stride wherever there are taps, and may be negative.
    first_position = (first_pixel + pad - i * dilation) // stride
    return i, count, first_position, first_pixel, tl.cdiv(extent - first_pixel, stride)


@triton.jit
def phase_of(index, stride, pad, dilation, period, taps, extent):
    """The index-th of all phases, those of the rows slowest: what `phase` says, each of rows and of columns."""
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
