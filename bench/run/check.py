"""Whether a result may be timed: positions of it against the sum of products in float64, formed by gathering."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.run.contenders import Pass, Problem, operators_of
from tests.support.oracle import precision_on
from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.tools.tolerance import allowed, errors

# So many positions of an image or of features are checked, all channels of each; or taps, all channels of each; or,
# of weights that vary, the filters of so many positions.
POSITIONS = 512
TAPS = 9
FILTERS = 64


class WrongResult(AssertionError):
    """A result that is further from float64 than rounding explains. It is not timed."""


@dataclass(frozen=True)
class Sample:
    """What some of the results of an operator have to be: `at` picks them from the result."""

    operator: Operator
    at: tuple[Tensor | slice, ...]
    expected: Tensor
    products: int

    def errors(self, result: Tensor) -> tuple[float, float]:
        """RMS and maximum of the relative error, as `tests.support.oracle` defines them."""
        return errors(result[self.at], self.expected)


def samples(of: Pass, problem: Problem, seed: int = 0) -> list[Sample]:
    """What to check each result of a pass by: the corners, and other positions at random."""
    found = [sample(operator, problem, seed) for operator in operators_of(of, problem.layer)]
    return [with_bias(each, problem.bias) for each in found] if of == "forward" else found


def with_bias(sample: Sample, bias: Tensor) -> Sample:
    """Of results (B, N, h, w), to which a bias (N,) or (N, h, w) is added."""
    _, _, *pixel = sample.at
    added = bias if bias.ndim == 1 else bias[:, *pixel].T
    return replace(sample, expected=sample.expected + added.double())


def sample(operator: Operator, problem: Problem, seed: int = 0) -> Sample:
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
            p, q = some((geometry.P, geometry.Q), FILTERS, generator, problem.x.device)
            expected = filters_at(problem.x, problem.y, geometry, p, q)
            return Sample(operator, (p, q), expected, geometry.gemm("wgrad").K)
        case "wgrad":
            r, s = some((geometry.R, geometry.S), TAPS, generator, problem.x.device)
            expected = torch.stack(
                [taps_at(problem.x, problem.y, geometry, *tap) for tap in zip(r.tolist(), s.tolist(), strict=True)], -1
            )
            return Sample(operator, (slice(None), slice(None), r, s), expected, geometry.gemm("wgrad").K)


def assert_right(
    of: Pass, problem: Problem, results: Sequence[Tensor], expected: Sequence[Sample], looser: float = 1
) -> tuple[float, float]:
    """The largest RMS and maximum error of the results of a pass.

    Raises WrongResult beyond the tolerances, made `looser` by a factor.
    """
    found = [0.0, 0.0]
    precision = precision_on(problem.x.device, problem.dtype)
    for result, each in zip(results, expected, strict=True):
        most = allowed(precision, each.products, looser)
        for i, (error, bound, what) in enumerate(zip(each.errors(result), most, ("RMS", "maximum"), strict=True)):
            if not error <= bound:  # nor if it is NaN
                raise WrongResult(
                    f"{problem.layer.name} {of}: {each.operator} in {problem.dtype} is off by {error:.2e} ({what}), "
                    f"{bound:.1e} is allowed"
                )
            found[i] = max(found[i], error)
    return found[0], found[1]


def some(extents: tuple[int, ...], most: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, ...]:
    """Index tensors of all positions, or of `most`: the first, the last, and others at random, each once."""
    total = torch.Size(extents).numel()
    if total <= most:
        flat = torch.arange(total)
    else:
        drawn = torch.randint(total, (most - 2,), generator=generator)
        flat = torch.cat([torch.tensor([0, total - 1]), drawn]).unique()
    return tuple(index.to(device) for index in torch.unravel_index(flat, extents))


def features_at(x: Tensor, weight: Tensor, geometry: ConvGeometry, b: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """y[b, :, p, q]: the pixels under each position, times the filters."""
    n, own = ("n", weight[p, q]) if geometry.per_location else ("", weight)
    filters = own.double().unflatten(-4, (geometry.G, -1))
    return torch.einsum(f"nrsgc,{n}gfcrs->ngf", patches_at(x, geometry, b, p, q), filters).flatten(1)


def patches_at(x: Tensor, geometry: ConvGeometry, b: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """The pixels under each position, of shape (n, R, S, G, C/G)."""
    r, s = torch.arange(geometry.R, device=x.device), torch.arange(geometry.S, device=x.device)
    h = p[:, None] * geometry.stride_h + r * geometry.dilation_h - geometry.pad_h
    w = q[:, None] * geometry.stride_w + s * geometry.dilation_w - geometry.pad_w
    patches = gathered(x, b, h, w, (h >= 0) & (h < geometry.H), (w >= 0) & (w < geometry.W))
    result: Tensor = patches.unflatten(-1, (geometry.G, -1))
    return result


def pixels_at(y: Tensor, weight: Tensor, geometry: ConvGeometry, b: Tensor, h: Tensor, w: Tensor) -> Tensor:
    """x[b, :, h, w]: the positions that have each pixel under one of their taps, times the filters."""
    r, s = torch.arange(geometry.R, device=y.device), torch.arange(geometry.S, device=y.device)
    far_h = h[:, None] + geometry.pad_h - r * geometry.dilation_h
    far_w = w[:, None] + geometry.pad_w - s * geometry.dilation_w
    p, q = far_h // geometry.stride_h, far_w // geometry.stride_w
    inside_h = (far_h % geometry.stride_h == 0) & (p >= 0) & (p < geometry.P)
    inside_w = (far_w % geometry.stride_w == 0) & (q >= 0) & (q < geometry.Q)
    spread = gathered(y, b, p, q, inside_h, inside_w)
    if geometry.per_location:
        p, q = p.where(inside_h, 0)[:, :, None], q.where(inside_w, 0)[:, None, :]
        n, own = "n", weight[p, q, :, :, r[:, None], s]
    else:
        n, own = "", weight.permute(2, 3, 0, 1)
    filters = own.double().unflatten(-2, (geometry.G, -1))
    return torch.einsum(f"nrsgf,{n}rsgfc->ngc", spread.unflatten(-1, (geometry.G, -1)), filters).flatten(1)


def gathered(side: Tensor, b: Tensor, rows: Tensor, columns: Tensor, in_rows: Tensor, in_columns: Tensor) -> Tensor:
    """side[b, :, rows, columns] in float64, of shape (n, R, S, channels); zero where it is not inside."""
    inside = in_rows[:, :, None] & in_columns[:, None, :]
    rows, columns = rows.where(in_rows, 0), columns.where(in_columns, 0)
    values = side.permute(0, 2, 3, 1)[b[:, None, None], rows[:, :, None], columns[:, None, :]]
    return values.double().where(inside[..., None], 0.0)


def filters_at(x: Tensor, y: Tensor, geometry: ConvGeometry, p: Tensor, q: Tensor) -> Tensor:
    """weight[p, q], of shape (n, F, C/G, R, S): the pixels under each position, times its features."""
    total = x.new_zeros((len(p), *geometry.weight_shape[-4:]), dtype=torch.float64)
    by_group = total.unflatten(1, (geometry.G, -1))
    for b in range(geometry.B):  # one at a time, for memory
        patches = patches_at(x, geometry, torch.full_like(p, b), p, q)
        features = y[b, :, p, q].double().unflatten(0, (geometry.G, -1))
        by_group += torch.einsum("gfn,nrsgc->ngfcrs", features, patches)
    return total


def taps_at(x: Tensor, y: Tensor, geometry: ConvGeometry, r: int, s: int) -> Tensor:
    """weight[:, :, r, s], of shape (F, C/G): the image as one tap sees it, times the features."""
    h = torch.arange(geometry.P, device=x.device) * geometry.stride_h + r * geometry.dilation_h - geometry.pad_h
    w = torch.arange(geometry.Q, device=x.device) * geometry.stride_w + s * geometry.dilation_w - geometry.pad_w
    p, q = (index.nonzero()[:, 0] for index in ((h >= 0) & (h < geometry.H), (w >= 0) & (w < geometry.W)))
    total = x.new_zeros((geometry.G, geometry.F // geometry.G, geometry.C // geometry.G), dtype=torch.float64)
    for image, features in zip(x, y, strict=True):  # one at a time, for memory
        seen = image[:, h[p]][:, :, w[q]].double().flatten(1).unflatten(0, (geometry.G, -1))
        there = features[:, p][:, :, q].double().flatten(1).unflatten(0, (geometry.G, -1))
        total += there @ seen.mT
    return total.flatten(0, 1)
