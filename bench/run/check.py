"""Checks the results of contenders: samples of them are compared with sums of products in float64.

The expected values are computed from pixels that are gathered by their indices, independently of every contender.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bench.run.contenders import Pass, Problem, operators_of
from tests.support.oracle import precision_on
from tritonconv.bias import letters_of
from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.tools.tolerance import allowed, errors

# The largest size of a sample. POSITIONS: positions in fprop, pixels in dgrad, with all their channels. TAPS: taps in
# wgrad, with all their filters. FILTERS: locations in wgrad, with all their filters, if the weight varies by location.
# If it varies by sample only, FILTERS counts taps of samples.
POSITIONS = 512
TAPS = 9
FILTERS = 64


class WrongResult(AssertionError):
    """A result is further from float64 than its tolerance allows. Its row gets no times."""


@dataclass(frozen=True)
class Sample:
    """Expected values of a part of an operator's result: `result[at]` must be close to `expected`, which is in float64.

    `products` is the number of products in each sum, on which the tolerance depends.
    """

    operator: Operator
    at: tuple[Tensor | slice, ...]
    expected: Tensor
    products: int

    def errors(self, result: Tensor) -> tuple[float, float]:
        """Return the RMS and the maximum of the relative error, as `tritonconv.tools.tolerance` defines them."""
        return errors(result[self.at], self.expected)


def samples(of: Pass, problem: Problem, seed: int = 0) -> list[Sample]:
    """Return a sample of each result of a pass, in the order of `operators_of`. For `forward` it includes the bias."""
    found = [sample(operator, problem, seed) for operator in operators_of(of, problem.layer)]
    return [with_bias(each, problem.bias) for each in found] if of == "forward" else found


def with_bias(sample: Sample, bias: Tensor) -> Sample:
    """Return the sample of a result (B, N, h, w) after a bias is added to it, of a shape in `tritonconv.bias`."""
    b, _, *pixel = sample.at
    letters = letters_of(bias)
    added = bias.movedim(1 if "b" in letters else 0, -1)  # the channels last
    return replace(sample, expected=sample.expected + added[own(letters, b, *pixel)].double())


def sample(operator: Operator, problem: Problem, seed: int = 0) -> Sample:
    """Return a sample of what an operator computes from the operands of `problem`, without a bias.

    It has all positions, pixels or taps of the result if there are few, or else a selection that depends on `seed`
    (`some`).
    """
    geometry = problem.geometry
    generator = torch.Generator().manual_seed(seed)
    match operator:
        case "fprop":
            b, p, q = some((geometry.B, geometry.P, geometry.Q), POSITIONS, generator, problem.x.device)
            expected = features_at(problem.x, problem.weight, geometry, b, p, q)
            return Sample(operator, (b, slice(None), p, q), expected, geometry.gemm("fprop").K)
        case "dgrad":
            b, h, w = some((geometry.B, geometry.H, geometry.W), POSITIONS, generator, problem.x.device)
            expected = pixels_at(problem.y, problem.weight, geometry, b, h, w)
            return Sample(operator, (b, slice(None), h, w), expected, geometry.gemm("dgrad").K)
        case "wgrad" if geometry.per_location:
            samples = [geometry.B] * geometry.per_sample
            at = some((*samples, geometry.P, geometry.Q), FILTERS, generator, problem.x.device)
            expected = filters_at(problem.x, problem.y, geometry, *at)
            return Sample(operator, at, expected, geometry.gemm("wgrad").K)
        case "wgrad" if geometry.per_sample:
            b, r, s = some((geometry.B, geometry.R, geometry.S), FILTERS, generator, problem.x.device)
            parts = zip(b.tolist(), r.tolist(), s.tolist(), strict=True)
            one = [taps_at(problem.x[[i]], problem.y[[i]], geometry, *tap) for i, *tap in parts]
            return Sample(operator, (b, slice(None), slice(None), r, s), torch.stack(one), geometry.gemm("wgrad").K)
        case "wgrad":
            r, s = some((geometry.R, geometry.S), TAPS, generator, problem.x.device)
            expected = torch.stack(
                [taps_at(problem.x, problem.y, geometry, *tap) for tap in zip(r.tolist(), s.tolist(), strict=True)], -1
            )
            return Sample(operator, (slice(None), slice(None), r, s), expected, geometry.gemm("wgrad").K)


def assert_right(
    of: Pass, problem: Problem, results: Sequence[Tensor], expected: Sequence[Sample], looser: float = 1
) -> tuple[float, float]:
    """Return the largest RMS and the largest maximum of the relative errors of a pass's results.

    `expected` has the sample of each result. Raise WrongResult if an error is NaN or larger than its tolerance. The
    factor `looser` makes the tolerances larger (`tolerance.allowed`).
    """
    found = [0.0, 0.0]
    precision = precision_on(problem.x.device, problem.dtype)
    for result, each in zip(results, expected, strict=True):
        most = allowed(precision, each.products, looser)
        for i, (error, bound, what) in enumerate(zip(each.errors(result), most, ("RMS", "maximum"), strict=True)):
            if not error <= bound:  # so that NaN is wrong too
                raise WrongResult(
                    f"{problem.layer.name} {of}: {each.operator} in {problem.dtype} is off by {error:.2e} ({what}), "
                    f"{bound:.1e} is allowed"
                )
            found[i] = max(found[i], error)
    return found[0], found[1]


def some(extents: tuple[int, ...], most: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, ...]:
    """Return the indices of the points of a grid, as one tensor for each of its extents.

    These are all points if there are at most `most`. Otherwise they are at most `most` different points: the first, the
    last, and others at random.
    """
    total = torch.Size(extents).numel()
    if total <= most:
        flat = torch.arange(total)
    else:
        drawn = torch.randint(total, (most - 2,), generator=generator)
        flat = torch.cat([torch.tensor([0, total - 1]), drawn]).unique()
    return tuple(index.to(device) for index in torch.unravel_index(flat, extents))


def features_at(x: Tensor, weight: Tensor, geometry: ConvGeometry, b: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """Return what fprop computes at n positions (b, p, q), in float64 and of shape (n, F).

    It sums x[b, c, h, w] * weight[f, c, r, s] over c, r and s. The pixel (h, w) is the one under the tap (r, s). A
    weight that varies is weight[b], weight[p, q] or weight[b, p, q] there.
    """
    if geometry.varies == "b":
        shared = replace(geometry, varies="")
        return for_each_sample(b, lambda i, at: features_at(x, weight[i], shared, b[at], p[at], q[at]))
    n, there = ("n", weight[own(geometry.varies, b, p, q)]) if geometry.varies else ("", weight)
    filters = there.double().unflatten(-4, (geometry.G, -1))
    return torch.einsum(f"nrsgc,{n}gfcrs->ngf", patches_at(x, geometry, b, p, q), filters).flatten(1)


def own(letters: str, b: Any, p: Any, q: Any) -> tuple[Any, ...]:
    """Return those of the indices b, p and q that are in `letters`: the leading indices of what varies over these."""
    return (b,) * ("b" in letters) + (p, q) * ("p" in letters)


def for_each_sample(b: Tensor, compute: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Return the rows that `compute` returns for each sample, in the order of `b`, the samples of n rows.

    It gets the number of a sample and the rows that belong to it. So a sample's weight is needed once, not once a row.
    """
    rows = {i: (b == i).nonzero()[:, 0] for i in b.unique().tolist()}
    found = torch.cat([compute(i, at) for i, at in rows.items()])
    return found[torch.cat([*rows.values()]).argsort()]


def patches_at(x: Tensor, geometry: ConvGeometry, b: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """Return the pixels under each tap of n positions (b, p, q), in float64 and of shape (n, R, S, G, C/G)."""
    r, s = torch.arange(geometry.R, device=x.device), torch.arange(geometry.S, device=x.device)
    h = p[:, None] * geometry.stride_h + r * geometry.dilation_h - geometry.pad_h
    w = q[:, None] * geometry.stride_w + s * geometry.dilation_w - geometry.pad_w
    patches = gathered(x, b, h, w, (h >= 0) & (h < geometry.H), (w >= 0) & (w < geometry.W))
    result: Tensor = patches.unflatten(-1, (geometry.G, -1))
    return result


def pixels_at(y: Tensor, weight: Tensor, geometry: ConvGeometry, b: Tensor, h: Tensor, w: Tensor) -> Tensor:
    """Return what dgrad computes at n pixels (b, h, w), in float64 and of shape (n, C).

    It sums y[b, f, p, q] * weight[f, c, r, s] over f, r and s. The position (p, q) is the one whose tap (r, s) lies on
    the pixel. Taps without such a position add nothing. A weight that varies is weight[b], weight[p, q] or
    weight[b, p, q] there.
    """
    if geometry.varies == "b":
        shared = replace(geometry, varies="")
        return for_each_sample(b, lambda i, at: pixels_at(y, weight[i], shared, b[at], h[at], w[at]))
    r, s = torch.arange(geometry.R, device=y.device), torch.arange(geometry.S, device=y.device)
    far_h = h[:, None] + geometry.pad_h - r * geometry.dilation_h
    far_w = w[:, None] + geometry.pad_w - s * geometry.dilation_w
    p, q = far_h // geometry.stride_h, far_w // geometry.stride_w
    inside_h = (far_h % geometry.stride_h == 0) & (p >= 0) & (p < geometry.P)
    inside_w = (far_w % geometry.stride_w == 0) & (q >= 0) & (q < geometry.Q)
    spread = gathered(y, b, p, q, inside_h, inside_w)
    if geometry.per_location:
        p, q = p.where(inside_h, 0)[:, :, None], q.where(inside_w, 0)[:, None, :]
        lead = own(geometry.varies, b[:, None, None], p, q)
        n, there = "n", weight[*lead, :, :, r[:, None], s]
    else:
        n, there = "", weight.permute(2, 3, 0, 1)
    filters = there.double().unflatten(-2, (geometry.G, -1))
    return torch.einsum(f"nrsgf,{n}rsgfc->ngc", spread.unflatten(-1, (geometry.G, -1)), filters).flatten(1)


def gathered(side: Tensor, b: Tensor, rows: Tensor, columns: Tensor, in_rows: Tensor, in_columns: Tensor) -> Tensor:
    """Return side[b, :, rows, columns] in float64, of shape (n, R, S, channels).

    `b` has shape (n,), `rows` and `in_rows` have (n, R), `columns` and `in_columns` have (n, S). An entry is zero
    unless `in_rows` and `in_columns` are true for it. A row or column for which they are false may lie outside `side`.
    """
    inside = in_rows[:, :, None] & in_columns[:, None, :]
    rows, columns = rows.where(in_rows, 0), columns.where(in_columns, 0)
    values = side.permute(0, 2, 3, 1)[b[:, None, None], rows[:, :, None], columns[:, None, :]]
    return values.double().where(inside[..., None], 0.0)


def filters_at(x: Tensor, y: Tensor, geometry: ConvGeometry, *at: Tensor) -> Tensor:
    """Return what wgrad computes for n locations that have their own filters, of shape (n, F, C/G, R, S).

    `at` are the indices (p, q), or (b, p, q) if each sample has its own, too. Without b, it sums
    x[b, c, h, w] * y[b, f, p, q] over b, in float64. The pixel (h, w) is the one under the tap (r, s).
    """
    *own_samples, p, q = at
    total = x.new_zeros((len(p), *geometry.weight_shape[-4:]), dtype=torch.float64)
    by_group = total.unflatten(1, (geometry.G, -1))
    # one sample at a time, for memory
    for b in own_samples or (torch.full_like(p, sample) for sample in range(geometry.B)):
        patches = patches_at(x, geometry, b, p, q)
        features = y[b, :, p, q].double().unflatten(-1, (geometry.G, -1))
        by_group += torch.einsum("ngf,nrsgc->ngfcrs", features, patches)
    return total


def taps_at(x: Tensor, y: Tensor, geometry: ConvGeometry, r: int, s: int) -> Tensor:
    """Return what wgrad computes for the tap (r, s) of a shared weight, of shape (F, C/G).

    It sums x[b, c, h, w] * y[b, f, p, q] over b, p and q, in float64. The pixel (h, w) is the one under the tap.
    """
    h = torch.arange(geometry.P, device=x.device) * geometry.stride_h + r * geometry.dilation_h - geometry.pad_h
    w = torch.arange(geometry.Q, device=x.device) * geometry.stride_w + s * geometry.dilation_w - geometry.pad_w
    p, q = (index.nonzero()[:, 0] for index in ((h >= 0) & (h < geometry.H), (w >= 0) & (w < geometry.W)))
    total = x.new_zeros((geometry.G, geometry.F // geometry.G, geometry.C // geometry.G), dtype=torch.float64)
    for image, features in zip(x, y, strict=True):  # one at a time, for memory
        seen = image[:, h[p]][:, :, w[q]].double().flatten(1).unflatten(0, (geometry.G, -1))
        there = features[:, p][:, :, q].double().flatten(1).unflatten(0, (geometry.G, -1))
        total += there @ seen.mT
    return total.flatten(0, 1)
