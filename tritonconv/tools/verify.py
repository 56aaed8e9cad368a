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
from tritonconv.bias import broadcastable
from tritonconv.call import Call
from tritonconv.operators.compute import observers
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


def check(seen: Verification, call: Call, results: Sequence[Tensor]) -> None:
    """Check this call, if the dice say so."""
    if _random.random() >= seen.probability:
        return
    capturing = call.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    given = [t for t in (*call.factors, call.bias) if t is not None]
    if capturing or not all(bool(t.isfinite().all()) for t in given):
        seen.skipped += 1
        return
    try:
        found = mismatch(call, results)
    except torch.OutOfMemoryError:
        seen.skipped += 1
        return
    seen.checked += 1
    if found is None:
        return
    message = f"tritonconv.verify: {found}; to replay it in a checkout: python -m tests.sweep --problem '{named(call)}'"
    seen.wrong.append(message)
    if seen.on_mismatch == "raise":
        raise WrongResult(message)
    logger.error(message)


def mismatch(call: Call, results: Sequence[Tensor]) -> str | None:
    """What is wrong with the results, if anything is."""
    name, products = precision(call.dtype), call.geometry.gemm(call.operator).K
    most = bound(name, products)
    for part in parts(call, results):
        found = deviation(*part, products)
        if not found <= most:  # nor if it is NaN
            return f"{call.operator} in {name} is off by {found:.1e}, {most:.1e} is allowed"
    return None


def precision(dtype: torch.dtype) -> str:
    """The row of the table of tolerances that holds for results of operands of this dtype."""
    if dtype == torch.float32 and runtime.tf32_allowed() and not runtime.interpreted():
        return "tf32"
    name = str(dtype).removeprefix("torch.")
    return f"{name} cut" if dtype == torch.bfloat16 and runtime.interpreted() else name


def parts(call: Call, results: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Results, or images of one, beside what they are in float64, and how large that would be for random signs.

    That is the root of the sum of squared products: sums may cancel to less than their rounding errors.
    """
    geometry, (first, second) = call.geometry, call.factors
    form = partial(getattr(reference, call.operator), **call.settings.reference_arguments)
    images = (first[b : b + 1].double() for b in range(geometry.B))
    if call.operator == "wgrad" and geometry.per_sample:
        for b, image in enumerate(images):
            features = second[b : b + 1].double()
            squares = form(image.square(), features.square())
            yield results[0][b : b + 1], form(image, features), squares.sqrt()
        return
    if call.operator == "wgrad":
        weight, weight_squares, total, total_squares = (
            torch.zeros(shape, dtype=torch.float64, device=first.device)
            for shape in (geometry.weight_shape, geometry.weight_shape, (geometry.F,), (geometry.F,))
        )
        for b, image in enumerate(images):
            features = second[b : b + 1].double()
            weight += form(image, features)
            weight_squares += form(image.square(), features.square())
            total += features.sum((0, 2, 3))
            total_squares += features.square().sum((0, 2, 3))
        yield results[0], weight, weight_squares.sqrt()
        if call.finds_bias:
            yield results[1], total, total_squares.sqrt()
        return
    added = None if call.bias is None else broadcastable(call.bias).double().expand(results[0].shape)
    weight = second if geometry.per_sample else second.double()
    for b, image in enumerate(images):
        own = weight[b : b + 1].double() if geometry.per_sample else weight
        expected, squares = form(image, own), form(image.square(), own.square())
        if added is not None:
            expected, squares = expected + added[b : b + 1], squares + added[b : b + 1].square()
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


def named(call: Call) -> str:
    """The call as JSON: all that decides what is launched, and nothing of the operands' values."""
    memory = [[list(t.stride()), t.data_ptr() % 16 // t.element_size()] for t in call.factors]
    about = dict(
        operator=call.operator,
        dtype=precision(call.dtype).removesuffix(" cut"),
        bias=call.finds_bias if call.bias is None else call.bias.ndim,
        channels_last=call.settings.channels_last,
        geometry=asdict(call.geometry),
        memory=memory,
    )
    return json.dumps(about, separators=(",", ":"))
