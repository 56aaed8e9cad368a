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
