"""The frozen description of one convolution that every layer below the surface speaks."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import Literal, NamedTuple, TypeVar, get_args

Operator = Literal["fprop", "dgrad", "wgrad"]
OPERATORS: tuple[Operator, ...] = get_args(Operator)
Factor = Literal["x", "weight", "y"]
# The factors that each operator takes, in the order of its arguments, and the one that it leaves out and so computes.
TAKES: dict[Operator, tuple[Factor, Factor]] = {
    "fprop": ("x", "weight"),
    "dgrad": ("y", "weight"),
    "wgrad": ("x", "y"),
}
LEAVES_OUT: dict[Operator, Factor] = {"fprop": "y", "dgrad": "x", "wgrad": "weight"}
COMPUTED_BY: dict[Factor, Operator] = {factor: operator for operator, factor in LEAVES_OUT.items()}
T = TypeVar("T")


def taken(operator: Operator, factors: Mapping[Factor, T]) -> tuple[T, T]:
    """Those of the factors that the operator takes, in the order of its arguments."""
    first, second = TAKES[operator]
    return factors[first], factors[second]


# The letters that a weight may carry beside f, c, r and s.
VARIES = ("", "b", "p q", "b p q")


class Gemm(NamedTuple):
    """A matrix product (M, K) x (K, N), and how many of them there are, G: one for each group, and for each sample,
    position or, in dgrad, pixel that has a weight of its own. The extents in elements.
    """

    M: int
    N: int
    K: int
    G: int


@dataclass(frozen=True, slots=True)
class ConvGeometry:
    """Sizes and sampling of the trilinear form

        sum over b,f,c,p,q,r,s of  x[b,c,h,w] * weight[f,c,r,s] * y[b,f,p,q]
            with  h = p*stride_h + r*dilation_h - pad_h     w = q*stride_w + s*dilation_w - pad_w

    Image (B, C, H, W), features (B, F, P, Q), weight (F, C/G, R, S); sizes in elements, sampling in pixels. Both sides
    are stored and neither is derived from the other, so output_padding and the uneven padding of "same" need no field:
    only the leading pad enters the equation. A tap that falls outside the image contributes nothing.

    `varies` has the letters that the weight carries beside those, in front: "b", "p q" or "b p q". What it carries
    tells matrix products apart, and what it does not runs over their rows.
    """

    B: int
    C: int
    H: int
    W: int
    F: int
    P: int
    Q: int
    R: int
    S: int
    G: int = 1
    stride_h: int = 1
    stride_w: int = 1
    pad_h: int = 0
    pad_w: int = 0
    dilation_h: int = 1
    dilation_w: int = 1
    varies: str = ""

    def __post_init__(self) -> None:
        for name in ("G", "stride_h", "stride_w", "dilation_h", "dilation_w"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but got {getattr(self, name)} in {self}")
        if self.C % self.G or self.F % self.G:
            raise ValueError(f"C={self.C} and F={self.F} must be divisible by G={self.G}")
        if self.varies not in VARIES:
            raise ValueError(f"varies must be one of {', '.join(map(repr, VARIES))}, not {self.varies!r}")

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        return self.B, self.C, self.H, self.W

    @property
    def feature_shape(self) -> tuple[int, int, int, int]:
        return self.B, self.F, self.P, self.Q

    @property
    def weight_shape(self) -> tuple[int, ...]:
        samples, positions = [self.B] * self.per_sample, [self.P, self.Q] * self.per_location
        return *samples, *positions, self.F, self.C // self.G, self.R, self.S

    def shape_of(self, factor: Factor) -> tuple[int, ...]:
        """The shape of a factor of the form."""
        match factor:
            case "x":
                return self.image_shape
            case "weight":
                return self.weight_shape
            case "y":
                return self.feature_shape

    def size_of(self, factor: Factor) -> tuple[int, int]:
        """The extent of a factor in pixels or taps: (H, W), (R, S) or (P, Q)."""
        match factor:
            case "x":
                return self.H, self.W
            case "weight":
                return self.R, self.S
            case "y":
                return self.P, self.Q

    @property
    def per_sample(self) -> bool:
        return "b" in self.varies

    @property
    def per_location(self) -> bool:
        return "p" in self.varies

    @property
    def images_per_weight(self) -> int:
        """How many images share one weight."""
        return 1 if self.per_sample else self.B

    def gemm(self, operator: Operator) -> Gemm:
        """The matrix product that `operator` amounts to: its (M, N) result is the factor left out.

        With stride, dgrad's K counts taps that fall between two positions. They are not multiplied: a pixel sees one
        tap in stride_h * stride_w on average.
        """
        C, F = self.C // self.G, self.F // self.G
        rows, weights = self._shared_out(self.H * self.W if operator == "dgrad" else self.P * self.Q)
        match operator:
            case "fprop":
                return Gemm(M=rows, N=F, K=C * self.R * self.S, G=weights)
            case "dgrad":
                return Gemm(M=rows, N=C, K=F * self.R * self.S, G=weights)
            case "wgrad":
                return Gemm(M=F, N=C * self.R * self.S, K=rows, G=weights)

    def _shared_out(self, pixels: int) -> tuple[int, int]:
        """Of `pixels` in each image: how many make the rows of a product, and how many products there are."""
        samples, per_sample = (1, self.B) if self.per_sample else (self.B, 1)
        pixels, per_pixel = (1, pixels) if self.per_location else (pixels, 1)
        return samples * pixels, per_sample * per_pixel * self.G

    @property
    def phases(self) -> int:
        """Those of the stride, which dgrad computes one by one: the pixels of a phase see the same taps."""
        return self.stride_h * self.stride_w

    def pixels(self, operator: Operator) -> tuple[int, int, int]:
        """The images, rows and columns that `operator` runs over: of positions, or in dgrad of the largest phase."""
        if operator == "dgrad":
            return self.B, ceildiv(self.H, self.stride_h), ceildiv(self.W, self.stride_w)
        return self.B, self.P, self.Q

    @property
    def periods(self) -> tuple[int, int]:
        """After how many taps of an axis the stride comes back to the same phase."""
        return self.stride_h // gcd(self.stride_h, self.dilation_h), self.stride_w // gcd(
            self.stride_w, self.dilation_w
        )

    @property
    def subimages_seen(self) -> int:
        """How many different images, of every stride-th pixel, the taps see."""
        period_h, period_w = self.periods
        return min(period_h, self.R) * min(period_w, self.S)

    @property
    def pointwise(self) -> bool:
        """Whether each position sees the one pixel at its own place: then all three are plain matrix products."""
        one = max(self.R, self.S, self.stride_h, self.stride_w) == 1
        unpadded = self.pad_h == self.pad_w == 0 and (self.H, self.W) == (self.P, self.Q)
        return one and unpadded and not self.varies

    def flattened(self) -> "ConvGeometry":
        """The same product, if this is `pointwise`, over the pixels of all images as one row of one image."""
        pixels = self.B * self.P * self.Q
        return replace(self, B=1, H=1, W=pixels, P=1, Q=pixels, dilation_h=1, dilation_w=1)

    def launched(self, operator: Operator) -> Gemm:
        """The product as programs are started for it: of dgrad that of the largest phase, with all taps, once for each
        phase.
        """
        gemm = self.gemm(operator)
        if operator != "dgrad":
            return gemm
        _, height, width = self.pixels(operator)
        rows, products = self._shared_out(height * width)
        return gemm._replace(M=rows, G=products * self.phases)

    @property
    def flops(self) -> int:
        """Two per product of the form, the same for all three operators; those in the padding too, as torch counts."""
        return 2 * self.B * self.F * self.P * self.Q * (self.C // self.G) * self.R * self.S

    def minimal_bytes(self, itemsize: int) -> int:
        """Bytes any of the operators moves at least: each of the three factors once, `itemsize` bytes per element."""
        return itemsize * sum(prod(shape) for shape in (self.image_shape, self.weight_shape, self.feature_shape))


def ceildiv(a: int, b: int) -> int:
    return -(-a // b)
