"""What `ConvGeometry` says of sizes, against a count of indices one by one, for random tiny convolutions."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import product

import torch

from tests.support.properties import given, st
from tritonconv.geometry import OPERATORS, VARIES, ConvGeometry, Factor, Gemm, Operator

few = st.integers(1, 3)
tiny = st.integers(1, 4)


@st.composite
def geometries(draw: st.DrawFn) -> ConvGeometry:
    """Draw a tiny convolution. Both sides are drawn, so most windows reach beyond the image or miss a part of it."""
    G = draw(st.integers(1, 2))
    return ConvGeometry(
        B=draw(few),
        C=G * draw(few),
        H=draw(st.integers(1, 6)),
        W=draw(st.integers(1, 6)),
        F=G * draw(few),
        P=draw(tiny),
        Q=draw(tiny),
        R=draw(tiny),
        S=draw(tiny),
        G=G,
        stride_h=draw(st.integers(1, 6)),
        stride_w=draw(st.integers(1, 6)),
        pad_h=draw(st.integers(0, 2)),
        pad_w=draw(st.integers(0, 2)),
        dilation_h=draw(st.integers(1, 6)),
        dilation_w=draw(st.integers(1, 6)),
        varies=draw(st.sampled_from(VARIES)),
    )


@st.composite
def nearly_pointwise(draw: st.DrawFn) -> ConvGeometry:
    """Draw a convolution that is pointwise, but for a number or a pair of them in most."""
    H, W, G = draw(few), draw(few), draw(st.integers(1, 2))
    dilation = dict(dilation_h=draw(few), dilation_w=draw(few))
    pointwise = ConvGeometry(draw(few), 2 * G, H, W, G, H, W, 1, 1, G, **dilation)
    numbers = ("H", "W", "P", "Q", "R", "S", "stride_h", "stride_w", "pad_h", "pad_w")
    larger = draw(
        st.sampled_from([(), (), (), *((name,) for name in numbers), *zip(numbers[::2], numbers[1::2], strict=True)])
    )
    changed = {name: getattr(pointwise, name) + 1 for name in larger}
    return replace(pointwise, **changed, varies=draw(st.sampled_from(["", "", "", "b", "p q"])))


def grid(*sizes: int) -> Iterable[tuple[int, ...]]:
    return product(*map(range, sizes))


def counted(geometry: ConvGeometry, operator: Operator, height: int, width: int) -> Gemm:
    """Return the matrix products, from the distinct indices of all products in the sum.

    A location is one of `height` x `width`. Indices that the weight varies over tell products apart. The others are
    rows of a product, or in wgrad what it sums over.
    """
    products, rows = set(), set()
    for g, b, *place in grid(geometry.G, geometry.B, height, width):
        own = (b,) * geometry.per_sample, (*place,) * geometry.per_location
        products.add((g, *own))
        rows.add(((b,) * (not geometry.per_sample), (*place,) * (not geometry.per_location)))
    taps = list(grid(geometry.R, geometry.S))
    channels = [c for c in range(geometry.C) if c * geometry.G // geometry.C == 0]
    filters = [f for f in range(geometry.F) if f * geometry.G // geometry.F == 0]
    match operator:
        case "fprop":
            return Gemm(len(rows), len(filters), len(set(product(channels, taps))), len(products))
        case "dgrad":
            return Gemm(len(rows), len(channels), len(set(product(filters, taps))), len(products))
        case "wgrad":
            return Gemm(len(filters), len(set(product(channels, taps))), len(rows), len(products))


@given(geometries(), st.sampled_from(OPERATORS))
def test_matrix_products(geometry: ConvGeometry, operator: Operator) -> None:
    size = (geometry.H, geometry.W) if operator == "dgrad" else (geometry.P, geometry.Q)
    assert geometry.gemm(operator) == counted(geometry, operator, *size)


@given(geometries(), st.sampled_from(OPERATORS))
def test_what_programs_are_started_for(geometry: ConvGeometry, operator: Operator) -> None:
    """dgrad starts programs for each phase, as if each were as large as the largest."""
    if operator != "dgrad":
        assert geometry.launched(operator) == geometry.gemm(operator)
        assert geometry.pixels(operator) == (geometry.B, geometry.P, geometry.Q)
        return
    phases: dict[tuple[int, int], set[tuple[int, int]]] = {
        (a, b): set() for a, b in grid(geometry.stride_h, geometry.stride_w)
    }
    for h, w in grid(geometry.H, geometry.W):
        phases[h % geometry.stride_h, w % geometry.stride_w].add((h, w))
    largest = max(phases.values(), key=len)
    height, width = len({h for h, _ in largest}), len({w for _, w in largest})
    one = counted(geometry, operator, height, width)
    assert geometry.phases == len(phases)
    assert geometry.pixels(operator) == (geometry.B, height, width)
    assert geometry.launched(operator) == one._replace(G=one.G * len(phases))


@given(geometries())
def test_periods_and_sub_images(geometry: ConvGeometry) -> None:
    """A tap sees the pixels whose index leaves the same remainder as its own distance from the first tap."""
    for period, stride, dilation in zip(
        geometry.periods,
        (geometry.stride_h, geometry.stride_w),
        (geometry.dilation_h, geometry.dilation_w),
        strict=True,
    ):
        assert period == next(n for n in range(1, stride + 1) if n * dilation % stride == 0)
    seen = {
        (r * geometry.dilation_h % geometry.stride_h, s * geometry.dilation_w % geometry.stride_w)
        for r, s in grid(geometry.R, geometry.S)
    }
    assert geometry.subimages_seen == len(seen)


@given(nearly_pointwise())
def test_pointwise(geometry: ConvGeometry) -> None:
    """In a pointwise convolution with strides of 1, every position sees its own pixel and no other place.

    It shares its weight with all others. Flattened, the convolution has the same products, in one row of pixels.
    """
    seen = {
        (p, q): [
            (
                p * geometry.stride_h + r * geometry.dilation_h - geometry.pad_h,
                q * geometry.stride_w + s * geometry.dilation_w - geometry.pad_w,
            )
            for r, s in grid(geometry.R, geometry.S)
        ]
        for p, q in grid(geometry.P, geometry.Q)
    }
    own = seen == {place: [place] for place in grid(geometry.H, geometry.W)}
    assert geometry.pointwise == (own and geometry.phases == 1 and geometry.varies == "")
    if geometry.pointwise:
        flat, pixels = geometry.flattened(), geometry.B * geometry.H * geometry.W
        assert flat.pointwise
        assert flat.image_shape == (1, geometry.C, 1, pixels)
        assert flat.feature_shape == (1, geometry.F, 1, pixels)
        assert (flat.dilation_h, flat.dilation_w) == (1, 1)
        for operator in OPERATORS:
            assert flat.gemm(operator) == flat.launched(operator) == geometry.gemm(operator)


@given(geometries(), st.sampled_from([2, 4]))
def test_shapes_work_and_bytes(geometry: ConvGeometry, itemsize: int) -> None:
    letters = dict(b=geometry.B, p=geometry.P, q=geometry.Q)
    front = [letters[letter] for letter in geometry.varies.split()]
    weight = (*front, geometry.F, geometry.C // geometry.G, geometry.R, geometry.S)
    shapes: dict[Factor, tuple[int, ...]] = {"x": geometry.image_shape, "weight": weight, "y": geometry.feature_shape}
    assert {factor: geometry.shape_of(factor) for factor in shapes} == shapes
    assert {factor: geometry.size_of(factor) for factor in shapes} == {name: size[-2:] for name, size in shapes.items()}
    assert geometry.images_per_weight == (1 if "b" in geometry.varies else geometry.B)
    assert geometry.minimal_bytes(itemsize) == sum(
        itemsize * torch.empty(shape, device="meta").numel() for shape in shapes.values()
    )
    each = geometry.C // geometry.G * geometry.R * geometry.S
    assert geometry.flops == 2 * each * torch.empty(geometry.feature_shape, device="meta").numel()
