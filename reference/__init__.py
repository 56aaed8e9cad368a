"""Convolution written out in plain PyTorch, to be read, understood and changed.

Start with `reference/functional.py`.
"""

from reference.functional import conv2d, conv_transpose2d, dgrad, fold, fprop, unfold, wgrad
from reference.layers import Conv2d, ConvTranspose2d, LazyConv2d, LazyConvTranspose2d

__all__ = [
    "Conv2d",
    "ConvTranspose2d",
    "LazyConv2d",
    "LazyConvTranspose2d",
    "conv2d",
    "conv_transpose2d",
    "dgrad",
    "fold",
    "fprop",
    "unfold",
    "wgrad",
]
