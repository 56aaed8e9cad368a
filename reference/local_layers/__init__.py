"""Locally connected layers, whose weights vary over locations, with their lazy forms and conversions."""

from tritonconv.reference.local_layers.layers import LocallyConnected2d, LocallyConnectedTranspose2d
from tritonconv.reference.local_layers.lazy import LazyLocallyConnected2d, LazyLocallyConnectedTranspose2d

__all__ = [
    "LazyLocallyConnected2d",
    "LazyLocallyConnectedTranspose2d",
    "LocallyConnected2d",
    "LocallyConnectedTranspose2d",
]
