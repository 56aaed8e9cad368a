"""`ConvGeometry`, the sizes and the sampling of one convolution. Everything below `operators` takes it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import Literal, NamedTuple, TypeVar, get_args

Operator = Literal["fprop", "dgrad", "wgrad"]
OPERATORS: tuple[Operator, ...] = get_args(Operator)
Factor = Literal["x", "weight", "y"]
# The factors that each operator takes, in the order of its arguments. It leaves out the third one, which it computes.
TAKES: dict[Operator, tuple[Factor, Factor]] = {
    "fprop": ("x", "weight"),
    "dgrad": ("y", "weight"),
    "wgrad": ("x", "y"),
}
LEAVES_OUT: dict[Operator, Factor] = {"fprop": "y", "dgrad": "x", "wgrad": "weight"}
COMPUTED_BY: dict[Factor, Operator] = {factor: operator for operator, factor in LEAVES_OUT.items()}
T = TypeVar("T")


def taken(operator: Operator, factors: Mapping[Factor, T]) -> tuple[T, T]:
    """Return the two factors that the operator takes, in the order of its arguments."""
    first, second = TAKES[operator]
    return factors[first], factors[second]


# The letters that a weight may carry beside f, c, r and s.
VARIES = ("", "b", "p q", "b p q")


class Gemm(NamedTuple):
    """A matrix product (M, K) x (K, N), with extents in elements, and the number G of products of these extents.

    There is one product for each group, and for each sample or location that has a weight of its own. A location is a
    position, or in dgrad a pixel.
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

    The image is (B, C, H, W), the features are (B, F, P, Q), the weight is (F, C/G, R, S). Sizes are in elements,
    sampling is in pixels. A tap that falls outside the image contributes nothing. Both sides are stored, and neither is
    derived from the other. So output_padding and the uneven padding of "same" need no field: only the leading pad
    enters the equation.

    `varies` has the letters that the weight carries in front of its other axes: "", "b", "p q" or "b p q". Each value
    of these letters has a matrix product of its own. Those of b, p and q that are not in `varies` run within a product.

    Raise ValueError if G, a stride or a dilation is less than 1, or if G does not divide both C and F. Also raise it if
    `varies` is none of the above.
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
        """Return the shape of a factor of the form."""
        match factor:
            case "x":
                return self.image_shape
            case "weight":
                return self.weight_shape
            case "y":
                return self.feature_shape

    def size_of(self, factor: Factor) -> tuple[int, int]:
        """Return the extent of a factor in pixels, positions or taps: (H, W), (P, Q) or (R, S)."""
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
        """Return the matrix products of `operator`. Their results (M, N) are the factor that the operator leaves out.

        With a stride, dgrad's K includes taps that fall between two positions. They are not multiplied: a pixel sees
        one tap in stride_h * stride_w on average.
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
        """Return how many of the pixels of all images are in one product, and how many products there are.

        `pixels` counts the pixels or positions of each image.
        """
        samples, per_sample = (1, self.B) if self.per_sample else (self.B, 1)
        pixels, per_pixel = (1, pixels) if self.per_location else (pixels, 1)
        return samples * pixels, per_sample * per_pixel * self.G

    @property
    def phases(self) -> int:
        """How many phases the stride has. The pixels of a phase see the same taps, so dgrad computes phase by phase."""
        return self.stride_h * self.stride_w

    def pixels(self, operator: Operator) -> tuple[int, int, int]:
        """Return the images, rows and columns that `operator` runs over.

        These are the positions, or in dgrad the pixels of the largest phase of the stride.
        """
        if operator == "dgrad":
            return self.B, ceildiv(self.H, self.stride_h), ceildiv(self.W, self.stride_w)
        return self.B, self.P, self.Q

    @property
    def periods(self) -> tuple[int, int]:
        """The number of taps, in a column and in a row, after which the stride comes back to the same phase."""
        return self.stride_h // gcd(self.stride_h, self.dilation_h), self.stride_w // gcd(
            self.stride_w, self.dilation_w
        )

    @property
    def subimages_seen(self) -> int:
        """How many different sub-images of the stride the taps see. Each sub-image has every stride-th pixel."""
        period_h, period_w = self.periods
        return min(period_h, self.R) * min(period_w, self.S)

    @property
    def pointwise(self) -> bool:
        """Whether each position sees only the pixel at its own place, so that all operators are plain matrix products.

        There is one tap, both strides are 1, there is no padding, both sides are equally large, and the weight does not
        vary. There may be groups.
        """
        one = max(self.R, self.S, self.stride_h, self.stride_w) == 1
        unpadded = self.pad_h == self.pad_w == 0 and (self.H, self.W) == (self.P, self.Q)
        return one and unpadded and not self.varies

    def flattened(self) -> "ConvGeometry":
        """Return the same product over the pixels of all images as one row of one image, with a dilation of 1.

        This geometry must be `pointwise`, which is not checked.
        """
        pixels = self.B * self.P * self.Q
        return replace(self, B=1, H=1, W=pixels, P=1, Q=pixels, dilation_h=1, dilation_w=1)

    def launched(self, operator: Operator) -> Gemm:
        """Return the product that programs are started for.

        For dgrad that is the product of the largest phase, with all taps, once for each phase of the stride.
        """
        gemm = self.gemm(operator)
        if operator != "dgrad":
            return gemm
        _, height, width = self.pixels(operator)
        rows, products = self._shared_out(height * width)
        return gemm._replace(M=rows, G=products * self.phases)

    @property
    def flops(self) -> int:
        """The floating-point operations of each of the three operators: two for each product of the form.

        As in torch's count, products with the padding are included.
        """
        return 2 * self.B * self.F * self.P * self.Q * (self.C // self.G) * self.R * self.S

    def minimal_bytes(self, itemsize: int) -> int:
        """Return the bytes that each operator moves at least: each factor once, with `itemsize` bytes per element."""
        return itemsize * sum(prod(shape) for shape in (self.image_shape, self.weight_shape, self.feature_shape))


def ceildiv(a: int, b: int) -> int:
    """Return a / b, rounded up."""
    return -(-a // b)
