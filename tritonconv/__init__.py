"""torch.nn's Conv2d and ConvTranspose2d, on Triton kernels where there are any.

One trilinear form, three operators (fprop, dgrad, wgrad), two layers.
"""

from tritonconv import reference
from tritonconv.dispatch import using
from tritonconv.fallback_warning import FallbackWarning
from tritonconv.functional import (
    conv2d,
    conv_transpose2d,
    dynamic_conv2d,
    locally_connected2d,
    locally_connected_transpose2d,
    per_sample_conv2d,
)
from tritonconv.layers import (
    Conv2d,
    ConvTranspose2d,
    LazyConv2d,
    LazyConvTranspose2d,
    LazyLocallyConnected2d,
    LazyLocallyConnectedTranspose2d,
    LocallyConnected2d,
    LocallyConnectedTranspose2d,
)
from tritonconv.tools.explain import explain
from tritonconv.tools.verify import WrongResult, verify
from tritonconv.tools.warmup import warmup

__all__ = [
    "Conv2d",
    "ConvTranspose2d",
    "FallbackWarning",
    "LazyConv2d",
    "LazyConvTranspose2d",
    "LazyLocallyConnected2d",
    "LazyLocallyConnectedTranspose2d",
    "LocallyConnected2d",
    "LocallyConnectedTranspose2d",
    "WrongResult",
    "conv2d",
    "conv_transpose2d",
    "dynamic_conv2d",
    "explain",
    "locally_connected2d",
    "locally_connected_transpose2d",
    "per_sample_conv2d",
    "reference",
    "using",
    "verify",
    "warmup",
]
