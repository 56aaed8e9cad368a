"""Convolution written out in plain PyTorch, to be read, understood and changed.

Start with `reference/functional.py`. Then read `reference/local.py`, about weights that vary over samples or positions.
`layers.py` and `local_layers/` wrap these functions as modules. `torch_rules/` checks arguments as torch does.
"""

from tritonconv.reference.functional import conv2d, conv_transpose2d, dgrad, fold, fprop, unfold, wgrad
from tritonconv.reference.layers import Conv2d, ConvTranspose2d, LazyConv2d, LazyConvTranspose2d
from tritonconv.reference.local import (
    dynamic_conv2d,
    locally_connected2d,
    locally_connected_transpose2d,
    per_sample_conv2d,
)
from tritonconv.reference.local_layers import (
    LazyLocallyConnected2d,
    LazyLocallyConnectedTranspose2d,
    LocallyConnected2d,
    LocallyConnectedTranspose2d,
)

__all__ = [
    "Conv2d",
    "ConvTranspose2d",
    "LazyConv2d",
    "LazyConvTranspose2d",
    "LazyLocallyConnected2d",
    "LazyLocallyConnectedTranspose2d",
    "LocallyConnected2d",
    "LocallyConnectedTranspose2d",
    "conv2d",
    "conv_transpose2d",
    "dgrad",
    "dynamic_conv2d",
    "fold",
    "fprop",
    "locally_connected2d",
    "locally_connected_transpose2d",
    "per_sample_conv2d",
    "unfold",
    "wgrad",
]
