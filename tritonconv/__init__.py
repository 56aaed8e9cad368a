"""torch.nn's Conv2d and ConvTranspose2d, computed by fused Triton kernels where these can run.

The public interface is what `__all__` lists:

- the layers `Conv2d`, `ConvTranspose2d`, `LocallyConnected2d` and `LocallyConnectedTranspose2d`, and their lazy forms
- the functions `conv2d`, `conv_transpose2d`, `locally_connected2d`, `locally_connected_transpose2d`,
  `per_sample_conv2d` and `dynamic_conv2d`
- `using`, which chooses an implementation, and `explain`, which says which one runs each layer and why
- `warmup`, which compiles the kernels of a training step, and `verify`, which checks results while a model trains
- `FallbackWarning` and `WrongResult`, a warning and an error
- `reference`, the same layers and functions in plain PyTorch, with a public interface of its own

Everything else is private and may change without notice, modules and their contents included. The docstring of
`tritonconv.reference.functional` explains the mathematics: one trilinear form, three operators (fprop, dgrad, wgrad), two
layers.

>>> import torch, tritonconv
>>> model = torch.nn.Sequential(tritonconv.Conv2d(3, 8, 3), torch.nn.ReLU(), tritonconv.ConvTranspose2d(8, 3, 3))
>>> images = torch.randn(2, 3, 8, 8)
>>> model(images).shape
torch.Size([2, 3, 8, 8])
>>> model(images).square().mean().backward()
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
