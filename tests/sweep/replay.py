"""Repeat a call that `tritonconv.verify` reported: the same operator, geometry and memory layouts, other numbers."""

import json
from typing import Any

import torch
from torch import Tensor

import tritonconv
from tests.support.guards import guarded_memory
from tests.support.oracle import convolution_precision
from tritonconv.bias import LETTERS, shape_beside
from tritonconv.call import Call
from tritonconv.geometry import LEAVES_OUT, TAKES, ConvGeometry
from tritonconv.operators.compute import compute


def wrong(text: str, device: str) -> str | None:
    """Return what is wrong with the call that `text` describes, on normal random numbers, or None if it is right.

    `text` is the JSON in the message of `tritonconv.verify`. Raise ValueError or KeyError if it is other text.
    """
    about: dict[str, Any] = json.loads(text)
    geometry, operator = ConvGeometry(**about["geometry"]), about["operator"]
    dtype = torch.float32 if about["dtype"] == "tf32" else getattr(torch, about["dtype"])
    generator = torch.Generator().manual_seed(0)
    first, second = (
        drawn(geometry.shape_of(factor), strides, offset, dtype, device, generator)
        for factor, (strides, offset) in zip(TAKES[operator], about["memory"], strict=True)
    )
    bias, finds_bias = None, operator == "wgrad" and about["bias"]
    if operator != "wgrad" and about["bias"]:
        shape = shape_beside(geometry.shape_of(LEAVES_OUT[operator]), LETTERS[about["bias"]])
        bias = torch.randn(shape, generator=generator).to(device, dtype)
    call = Call.of_geometry(
        operator,
        geometry,
        (first, second),
        bias,
        finds_bias=finds_bias,
        channels_last=about["channels_last"],
        implementation="triton",
    )
    try:
        with (
            convolution_precision("tf32" if about["dtype"] == "tf32" else "ieee"),
            tritonconv.verify(1),
            guarded_memory(),
        ):
            compute(call)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def drawn(
    shape: tuple[int, ...], strides: list[int], offset: int, dtype: torch.dtype, device: str, generator: torch.Generator
) -> Tensor:
    """Return normal random numbers with these strides, `offset` elements after an address aligned to 16 bytes."""
    span = sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1 if all(shape) else 0
    storage = torch.randn(offset + span, generator=generator, dtype=torch.float32).to(device, dtype)
    return storage.as_strided(shape, strides, offset)
