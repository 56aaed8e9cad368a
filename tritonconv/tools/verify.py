"""`tritonconv.verify`: recompute some of the calls that run in Triton by the reference in float64, and compare."""

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
    """`verify` found that the result of a kernel is further from float64 than rounding explains.

    The message names the operator, the dtype and the relative error. It ends with a command that replays the call.

    >>> import tritonconv
    >>> def train() -> None: ...
    >>> try:
    ...     with tritonconv.verify(probability=0.01):
    ...         train()
    ... except tritonconv.WrongResult as error:
    ...     print(error)  # the kernel is wrong: report this message
    """


@dataclass(eq=False)
class Verification:
    """What `verify` has done so far: the object that its `with` block binds.

    `checked` counts the calls that were compared, and `skipped` counts the calls that could not be compared. `wrong`
    lists the messages of the wrong results.
    """

    probability: float
    on_mismatch: str
    checked: int = 0
    skipped: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.checked} calls checked, {self.skipped} skipped, {len(self.wrong)} wrong"


_random = random.Random()


@contextmanager
def verify(probability: float = 0.01, *, on_mismatch: str = "raise") -> Iterator[Verification]:
    """Check a share of the operator calls that run in Triton within this block, forward and backward, in all threads.

    To check a call, the reference computes it again in float64, one image at a time. A check takes several times as
    long as the call and waits for the GPU. It needs memory for one unfolded image and a few weights, all in float64.

    These calls are skipped: calls whose operands contain NaN or infinity, calls that a CUDA graph captures, and calls
    whose check runs out of memory. Calls that run as the reference are not counted. If blocks overlap, only the one
    that was entered last checks.

    Args:
        probability: how likely each call is to be checked, from 0 to 1. The default checks one call in a hundred.
        on_mismatch: "raise" raises `WrongResult` for a wrong result. "log" logs an error with the logger "tritonconv"
            and goes on.

    Yields:
        An object with the counts `checked` and `skipped`, and the list of messages `wrong`.

    Raises:
        WrongResult: if an element of a result is further from float64 than rounding explains, and `on_mismatch` is
            "raise".
        ValueError: if `probability` is not between 0 and 1, or `on_mismatch` is another string.

    >>> import torch, tritonconv
    >>> model = tritonconv.Conv2d(3, 4, 3, padding=1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with tritonconv.verify(probability=0.01) as seen:
    ...     for images in torch.randn(3, 2, 3, 6, 6):
    ...         optimizer.zero_grad()
    ...         model(images).square().mean().backward()
    ...         optimizer.step()
    >>> len(seen.wrong)
    0

    The reference is not checked against itself:

    >>> with tritonconv.using("reference"), tritonconv.verify(probability=1) as seen:
    ...     y = model(torch.randn(2, 3, 6, 6))
    >>> print(seen)
    0 calls checked, 0 skipped, 0 wrong
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"tritonconv.verify(): argument 'probability' must be between 0 and 1, not {probability}")
    if on_mismatch not in ("raise", "log"):
        raise ValueError(f"tritonconv.verify(): argument 'on_mismatch' must be 'raise' or 'log', not {on_mismatch!r}")
    seen = Verification(probability, on_mismatch)
    observer = partial(check, seen)
    observers.append(observer)
    try:
        yield seen
    finally:
        observers.remove(observer)


def check(seen: Verification, call: Call, results: Sequence[Tensor]) -> None:
    """Check this call with the probability of `seen`, and count it as checked or skipped.

    If its results are wrong, add a message to `seen.wrong`, and raise WrongResult or log the message.
    """
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
    message = (
        f"tritonconv.verify: {found}. This is probably an error of the kernel: please report it. Until it is fixed, "
        "tritonconv.using('reference') computes without kernels. To replay the call in a checkout of tritonconv, run: "
        f"python -m tests.sweep --problem '{named(call)}'"
    )
    seen.wrong.append(message)
    if seen.on_mismatch == "raise":
        raise WrongResult(message)
    logger.error(message)


def mismatch(call: Call, results: Sequence[Tensor]) -> str | None:
    """Return a clause that says what is wrong, or None if the results are as close to float64 as `bound` demands."""
    name, products = precision(call.dtype), call.geometry.gemm(call.operator).K
    most = bound(name, products)
    for part in parts(call, results):
        found = deviation(*part, products)
        if not found <= most:  # also if it is NaN
            return f"{call.operator} in {name} is wrong: its relative error is {found:.1e}, {most:.1e} is allowed"
    return None


def precision(dtype: torch.dtype) -> str:
    """Return the key of TOLERANCES that holds for operands of this dtype in this process.

    That is the name of the dtype, with two exceptions. For float32 it is "tf32" if torch allows TF32, but not in
    Triton's interpreter. For bfloat16 it is "bfloat16 cut" in the interpreter.
    """
    if dtype == torch.float32 and runtime.tf32_allowed() and not runtime.interpreted():
        return "tf32"
    name = str(dtype).removeprefix("torch.")
    return f"{name} cut" if dtype == torch.bfloat16 and runtime.interpreted() else name


def parts(call: Call, results: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield triples of a part of the results, the same part in float64, and the scale of its rounding errors.

    A part is one sample of a result. If wgrad sums over samples, each of its results is one part.

    The scale has an element for each sum: the root of the sum of its squared products. It is about as large as the sum
    for products of random signs. A sum itself is no scale, because it may cancel to less than its rounding errors.
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
    """Return the largest |result - expected| / max(|expected|, scale), or NaN if an element is NaN.

    Without elements, return 0. An infinite result counts as the number next to `expected` that the dtype rounds to this
    infinity. Elements are left out that are not finite because sums of some of the `products` products may have left
    the range of float32. The denominator has a lower limit, below which products underflow.
    """
    if result.numel() == 0:
        return 0.0
    dtype = torch.finfo(result.dtype)
    rounds_to_infinity = dtype.max * (2 - dtype.eps / 2) / (2 - dtype.eps)  # the least such number
    least = max(dtype.tiny, products * 2.0**-107)
    result = result.double()
    sign = result.sign()
    nearest = result.where(~result.isinf(), sign * (sign * expected).clamp(min=rounds_to_infinity))
    found = (nearest - expected).abs() / torch.maximum(expected.abs(), scale).clamp(min=least)
    return found.where(~may_pass(result, expected, scale, products), 0.0).max().item()


def may_pass(result: Tensor, expected: Tensor, scale: Tensor, products: int) -> Tensor:
    """Return where `result` is not finite, and partial sums may have left the range of float32 in its direction.

    A kernel adds up the products in any order. An infinite result needs products of its own sign whose sum leaves the
    range, and NaN needs such products of both signs. Half of the range counts, because partial sums are rounded.
    """
    # By the Cauchy-Schwarz inequality, this is at least the sum of the products' magnitudes.
    magnitudes = scale * sqrt(products + 1)
    # At least twice the sum of the products with the sign of the result. For NaN, the sign with the smaller sum counts.
    twice = magnitudes + torch.where(result.isnan(), -expected.abs(), result.sign() * expected)
    return ~result.isfinite() & (twice > torch.finfo(torch.float32).max)


def named(call: Call) -> str:
    """Return the call as JSON for `tests.sweep`: all that decides which kernels run, without the operands' values."""
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
