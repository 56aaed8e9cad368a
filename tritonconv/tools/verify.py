"""A live check: some of the calls that ran in Triton are computed again by the reference, in float64, and compared."""

import json
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from math import sqrt

import torch
from torch import Tensor

from tritonconv import reference, runtime
from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.launch.layout import summand
from tritonconv.operators.call import observers
from tritonconv.tools.tolerance import bound

logger = logging.getLogger("tritonconv")


class WrongResult(RuntimeError):
    """A kernel's result is further from float64 than rounding explains. The message names the problem."""


@dataclass(eq=False)
class Verification:
    """What `verify` has seen so far: how many calls it compared, left alone, and found wrong."""

    probability: float
    on_mismatch: str
    checked: int = 0
    skipped: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.checked} calls checked, {self.skipped} left alone, {len(self.wrong)} wrong"


_random = random.Random()


@contextmanager
def verify(probability: float = 0.01, *, on_mismatch: str = "raise") -> Iterator[Verification]:
    """Within this block, in all threads, check each call that runs in Triton with this probability, backward included.

    Such a call's operator is computed once more by the reference, in float64 and one image at a time, which takes a
    multiple of its time, waits for the GPU, and in memory takes one unfolded image and a few weights, all in float64. A
    result of which an element is further off than rounding explains raises `tritonconv.WrongResult`, or is logged as an
    error by the logger "tritonconv" if `on_mismatch` is "log". Left alone are calls with NaN or infinity among their
    operands, those that a CUDA graph captures, and those for whose check there is no memory. Raises ValueError for a
    probability outside 0 to 1.

    >>> import torch, tritonconv
    >>> with tritonconv.verify(probability=1) as seen:
    ...     y = tritonconv.conv2d(torch.zeros(1, 3, 8, 8), torch.zeros(4, 3, 3, 3), implementation="reference")
    >>> print(seen)
    0 calls checked, 0 left alone, 0 wrong
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be between 0 and 1, but got {probability}")
    if on_mismatch not in ("raise", "log"):
        raise ValueError(f"on_mismatch must be 'raise' or 'log', but got {on_mismatch!r}")
    seen = Verification(probability, on_mismatch)
    observer = partial(check, seen)
    observers.append(observer)
    try:
        yield seen
    finally:
        observers.remove(observer)


def check(
    seen: Verification,
    operator: Operator,
    first: Tensor,
    second: Tensor,
    bias: Tensor | bool | None,
    geometry: ConvGeometry,
    channels_last: bool,
    results: Sequence[Tensor],
) -> None:
    """Check this call, if the dice say so."""
    if _random.random() >= seen.probability:
        return
    capturing = first.is_cuda and torch.cuda.is_current_stream_capturing()
    given = [t for t in (first, second, bias) if isinstance(t, Tensor)]
    if capturing or not all(bool(t.isfinite().all()) for t in given):
        seen.skipped += 1
        return
    try:
        found = mismatch(operator, first, second, bias, geometry, results)
    except torch.OutOfMemoryError:
        seen.skipped += 1
        return
    seen.checked += 1
    if found is None:
        return
    replay = named(operator, first, second, bias, geometry, channels_last)
    message = f"tritonconv.verify: {found}; to replay it in a checkout: python -m tests.sweep --problem '{replay}'"
    seen.wrong.append(message)
    if seen.on_mismatch == "raise":
        raise WrongResult(message)
    logger.error(message)


def mismatch(
    operator: Operator,
    first: Tensor,
    second: Tensor,
    bias: Tensor | bool | None,
    geometry: ConvGeometry,
    results: Sequence[Tensor],
) -> str | None:
    """What is wrong with the results, if anything is."""
    name, products = precision(first), geometry.gemm(operator).K
    most = bound(name, products)
    for part in parts(operator, first, second, bias, geometry, results):
        found = deviation(*part, products)
        if not found <= most:  # nor if it is NaN
            return f"{operator} in {name} is off by {found:.1e}, {most:.1e} is allowed"
    return None


def precision(operand: Tensor) -> str:
    """The row of the table of tolerances that holds for results of such operands."""
    if operand.dtype == torch.float32 and runtime.tf32_allowed() and not runtime.interpreted():
        return "tf32"
    name = str(operand.dtype).removeprefix("torch.")
    return f"{name} cut" if operand.dtype == torch.bfloat16 and runtime.interpreted() else name


def parts(
    operator: Operator,
    first: Tensor,
    second: Tensor,
    bias: Tensor | bool | None,
    geometry: ConvGeometry,
    results: Sequence[Tensor],
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Results, or images of one, beside what they are in float64, and how large that would be for random signs.

    That is the root of the sum of squared products: sums may cancel to less than their rounding errors.
    """
    form = getattr(reference, operator)
    size = {"fprop": (geometry.P, geometry.Q), "dgrad": (geometry.H, geometry.W), "wgrad": (geometry.R, geometry.S)}
    strides, pads = (geometry.stride_h, geometry.stride_w), (geometry.pad_h, geometry.pad_w)
    sampling = (size[operator], strides, pads, (geometry.dilation_h, geometry.dilation_w), geometry.G, geometry.varies)
    images = (first[b : b + 1].double() for b in range(geometry.B))
    if operator == "wgrad" and geometry.per_sample:
        for b, image in enumerate(images):
            features = second[b : b + 1].double()
            squares = form(image.square(), features.square(), *sampling)
            yield results[0][b : b + 1], form(image, features, *sampling), squares.sqrt()
        return
    if operator == "wgrad":
        weight, weight_squares, total, total_squares = (
            torch.zeros(shape, dtype=torch.float64, device=first.device)
            for shape in (geometry.weight_shape, geometry.weight_shape, (geometry.F,), (geometry.F,))
        )
        for b, image in enumerate(images):
            features = second[b : b + 1].double()
            weight += form(image, features, *sampling)
            weight_squares += form(image.square(), features.square(), *sampling)
            total += features.sum((0, 2, 3))
            total_squares += features.square().sum((0, 2, 3))
        yield results[0], weight, weight_squares.sqrt()
        if bias is True:
            yield results[1], total, total_squares.sqrt()
        return
    extra = summand(bias).double().expand(results[0].shape) if isinstance(bias, Tensor) else None
    weight = second if geometry.per_sample else second.double()
    for b, image in enumerate(images):
        own = weight[b : b + 1].double() if geometry.per_sample else weight
        expected, squares = form(image, own, *sampling), form(image.square(), own.square(), *sampling)
        if extra is not None:
            expected, squares = expected + extra[b : b + 1], squares + extra[b : b + 1].square()
        yield results[0][b : b + 1], expected, squares.sqrt()


def deviation(result: Tensor, expected: Tensor, scale: Tensor, products: int) -> float:
    """The largest |result - expected| / max(|expected|, scale); NaN if something is NaN.

    Not where the result is as large as its dtype allows, and should be, nor where it is not finite because a sum of so
    many products in float32 may have passed its range. What is so small that products vanish counts as if it were not.
    """
    if result.numel() == 0:
        return 0.0
    limit = torch.finfo(result.dtype).max * 0.99
    least = max(torch.finfo(result.dtype).tiny, products * 2.0**-107)
    result = result.double()
    # As large as the sum of the products' magnitudes can be.
    passes = scale * sqrt(products + 1) > torch.finfo(torch.float32).max / 2
    saturated = (expected.abs() > limit) & (result.abs() > limit) & (expected.sign() == result.sign())
    found = (result - expected).abs() / torch.maximum(expected.abs(), scale).clamp(min=least)
    return found.where(~(saturated | passes & ~result.isfinite()), 0.0).max().item()


def named(
    operator: Operator,
    first: Tensor,
    second: Tensor,
    bias: Tensor | bool | None,
    geometry: ConvGeometry,
    channels_last: bool,
) -> str:
    """The call as JSON: all that decides what is launched, and nothing of the operands' values."""
    memory = [[list(t.stride()), t.data_ptr() % 16 // t.element_size()] for t in (first, second)]
    call = dict(
        operator=operator,
        dtype=precision(first).removesuffix(" cut"),
        bias=bias.ndim if isinstance(bias, Tensor) else bool(bias),
        channels_last=channels_last,
        geometry=asdict(geometry),
        memory=memory,
    )
    return json.dumps(call, separators=(",", ":"))
