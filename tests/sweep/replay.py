"""Compute again what `tritonconv.verify` complained about: the same launch, on other numbers."""

import json
from typing import Any

import torch
from torch import Tensor

import tritonconv
from tests.support.guards import guarded_memory
from tests.support.oracle import convolution_precision
from tritonconv.geometry import ConvGeometry
from tritonconv.operators import library
from tritonconv.operators.call import run


def wrong(text: str, device: str) -> str | None:
    """What is wrong with one call of an operator, named in JSON as by `tritonconv.verify`; on random normal numbers."""
    call: dict[str, Any] = json.loads(text)
    geometry = ConvGeometry(**call["geometry"])
    shapes = dict(x=geometry.image_shape, y=geometry.feature_shape, weight=geometry.weight_shape)
    sizes = dict(x=(geometry.H, geometry.W), y=(geometry.P, geometry.Q), weight=(geometry.R, geometry.S))
    names, left_out = {
        "fprop": (["x", "weight"], "y"),
        "dgrad": (["y", "weight"], "x"),
        "wgrad": (["x", "y"], "weight"),
    }[call["operator"]]
    dtype = torch.float32 if call["dtype"] == "tf32" else getattr(torch, call["dtype"])
    generator = torch.Generator().manual_seed(0)
    factors = [
        drawn(shapes[name], strides, offset, dtype, device, generator)
        for name, (strides, offset) in zip(names, call["memory"], strict=True)
    ]
    bias: Any = call["bias"]
    if call["operator"] != "wgrad":
        B, N, h, w = shapes[left_out]
        shape = {0: (), 1: (N,), 2: (B, N), 3: (N, h, w), 4: (B, N, h, w)}[int(bias)]
        bias = torch.randn(shape, generator=generator).to(device, dtype) if bias else None
    sampling = library.Sampling(
        sizes[left_out],
        (geometry.stride_h, geometry.stride_w),
        (geometry.pad_h, geometry.pad_w),
        (geometry.dilation_h, geometry.dilation_w),
        geometry.G,
        geometry.varies,
        call["channels_last"],
        "triton",
    )
    try:
        with (
            convolution_precision("tf32" if call["dtype"] == "tf32" else "ieee"),
            tritonconv.verify(1),
            guarded_memory(),
        ):
            run(call["operator"], *factors, bias, sampling)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def drawn(
    shape: tuple[int, ...], strides: list[int], offset: int, dtype: torch.dtype, device: str, generator: torch.Generator
) -> Tensor:
    """Normal numbers in memory with these strides, that begins `offset` elements after a multiple of 16 bytes."""
    span = sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1 if all(shape) else 0
    storage = torch.randn(offset + span, generator=generator, dtype=torch.float32).to(device, dtype)
    return storage.as_strided(shape, strides, offset)
