"""A live check: some of the calls that ran in Triton are computed again by the reference, in float64, and compared."""

import json
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

import reference
from tritonconv import processor
from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.tolerance import allowed, errors

logger = logging.getLogger("tritonconv")


class WrongResult(RuntimeError):
    """A kernel's result is further from float64 than rounding explains. The message names the problem."""


@dataclass
class Verification:
    """What `verify` has seen so far: how many calls it compared, left alone, and found wrong."""

    probability: float
    on_mismatch: str
    checked: int = 0
    skipped: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.checked} calls checked, {self.skipped} left alone, {len(self.wrong)} wrong"


# One for all threads, because on CUDA another than the user's runs backward.
_active: Verification | None = None
_random = random.Random()


@contextmanager
def verify(probability: float = 0.01, *, on_mismatch: str = "raise") -> Iterator[Verification]:
    """Within this block, in all threads, check each call that runs in Triton with this probability, backward included.

    Such a call's operator is computed once more by the reference, in float64 and one image at a time, which takes a
    multiple of its time and the memory of one unfolded image, and waits for the GPU. A result that is further off than
    rounding explains raises `tritonconv.WrongResult`, or is logged as an error by the logger "tritonconv" if
    `on_mismatch` is "log". Calls with NaN or infinity among their operands, and those that a CUDA graph captures, are
    left alone. Raises ValueError for a probability outside 0 to 1.

    >>> import torch, tritonconv
    >>> with tritonconv.verify(probability=1) as seen:
    ...     y = tritonconv.conv2d(torch.zeros(1, 3, 8, 8), torch.zeros(4, 3, 3, 3), implementation="reference")
    >>> print(seen)
    0 calls checked, 0 left alone, 0 wrong
    """
    global _active
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be between 0 and 1, but got {probability}")
    if on_mismatch not in ("raise", "log"):
        raise ValueError(f"on_mismatch must be 'raise' or 'log', but got {on_mismatch!r}")
    before, _active = _active, Verification(probability, on_mismatch)
    try:
        yield _active
    finally:
        _active = before


def check(
    operator: Operator,
    first: Tensor,
    second: Tensor,
    bias: Tensor | bool | None,
    geometry: ConvGeometry,
    channels_last: bool,
    results: Sequence[Tensor],
) -> None:
    """Check this call, if `verify` is active and the dice say so."""
    seen = _active
    if seen is None or _random.random() >= seen.probability:
        return
    capturing = first.is_cuda and torch.cuda.is_current_stream_capturing()
    given = [t for t in (first, second, bias) if isinstance(t, Tensor)]
    if capturing or not all(bool(t.isfinite().all()) for t in given):
        seen.skipped += 1
        return
    seen.checked += 1
    found = mismatch(operator, first, second, bias, geometry, results)
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
    most = allowed(name, products)
    for result, expected, scale in parts(operator, first, second, bias, geometry, results):
        found = errors(*within_range(result, expected), max(scale, torch.finfo(result.dtype).tiny))
        if not all(error <= bound for error, bound in zip(found, most, strict=True)):  # nor if it is NaN
            return (
                f"{operator} in {name} is off by {found[0]:.1e} (RMS), {found[1]:.1e} (maximum); {most[0]:.1e} "
                f"and {most[1]:.1e} are allowed"
            )
    return None


def precision(operand: Tensor) -> str:
    """The row of the table of tolerances that holds for results of such operands."""
    if operand.dtype == torch.float32 and processor.tf32_allowed() and not processor.interpreted():
        return "tf32"
    name = str(operand.dtype).removeprefix("torch.")
    return f"{name} cut" if operand.dtype == torch.bfloat16 and processor.interpreted() else name


def parts(
    operator: Operator,
    first: Tensor,
    second: Tensor,
    bias: Tensor | bool | None,
    geometry: ConvGeometry,
    results: Sequence[Tensor],
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Results, or images of one, beside what they are in float64, and how large that would be for random signs.

    Sums may cancel to less than their rounding errors, which are measured by that size.
    """
    form = getattr(reference, operator)
    size = {"fprop": (geometry.P, geometry.Q), "dgrad": (geometry.H, geometry.W), "wgrad": (geometry.R, geometry.S)}
    strides, pads = (geometry.stride_h, geometry.stride_w), (geometry.pad_h, geometry.pad_w)
    sampling = (size[operator], strides, pads, (geometry.dilation_h, geometry.dilation_w), geometry.G)
    images = [first[b : b + 1].double() for b in range(geometry.B)]
    if operator == "wgrad":
        total = torch.zeros(geometry.weight_shape, dtype=torch.float64, device=first.device)
        squares = total.clone()
        for b, image in enumerate(images):
            features = second[b : b + 1].double()
            total += form(image, features, *sampling)
            squares += form(image.square(), features.square(), *sampling)
        yield results[0], total, root_mean(squares)
        if bias is True:
            yield results[1], second.double().sum((0, 2, 3)), root_mean(second.double().square().sum((0, 2, 3)))
        return
    weight, summand = second.double(), bias.double()[:, None, None] if isinstance(bias, Tensor) else torch.zeros(())
    for b, image in enumerate(images):
        expected = form(image, weight, *sampling) + summand.to(image.device)
        squares = form(image.square(), weight.square(), *sampling) + summand.to(image.device).square()
        yield results[0][b : b + 1], expected, root_mean(squares)


def root_mean(squares: Tensor) -> float:
    return squares.mean().sqrt().item() if squares.numel() else 0.0


def within_range(result: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
    """Both, with zeros where the result is as large as its dtype allows, and should be."""
    limit = torch.finfo(result.dtype).max * 0.99
    saturated = (expected.abs() > limit) & (result.abs() > limit) & (expected.sign() == result.sign())
    return result.double().where(~saturated, 0), expected.where(~saturated, 0)


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
        bias=bias is not None and bias is not False,
        channels_last=channels_last,
        geometry=asdict(geometry),
        memory=memory,
    )
    return json.dumps(call, separators=(",", ":"))
