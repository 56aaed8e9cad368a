"""The table of named problems that all tests of kernels share.

The defaults of `Case` describe a plain convolution, so an entry states only what is special about it.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tritonconv.call import geometry_of
from tritonconv.geometry import ConvGeometry, Operator
from tritonconv.reference.torch_rules import arguments
from tritonconv.reference.torch_rules.arguments import FUNCTIONS
from tritonconv.settings import Settings

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "tf32": torch.float32,
    "float32": torch.float32,
    "float64": torch.float64,
}
LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed", "expanded", "offset", "some_channels")


@dataclass(frozen=True)
class Case:
    """One problem: a call of conv2d or conv_transpose2d, or of a function whose weight varies.

    - With `batch` None, the input is a single image without a batch axis.
    - `channels` are the channels of input and result, `size` is height and width of the input.
    - `x`, `weight` and `bias_layout` name the memory layouts of input, weight and bias, see `laid_out`.
    - `varies` and `bias_varies` say over what weight and bias vary: samples "b", locations "p q", both "b p q", or
      nothing "".
    - With a `padding_mode` other than "zeros" the case is a call of the module Conv2d.
    - `dtype` and `gradient` (the layout of the incoming gradient) are used by tests that do not loop over them.
    """

    name: str
    batch: int | None = 2
    channels: tuple[int, int] = (4, 6)
    size: tuple[int, int] = (6, 5)
    kernel: tuple[int, int] = (3, 3)
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1
    output_padding: Any = 0
    bias: bool = True
    transposed: bool = False
    x: str = "contiguous"
    weight: str = "contiguous"
    bias_layout: str = "contiguous"
    padding_mode: str = "zeros"
    varies: str = ""
    bias_varies: str = ""
    dtype: str = "float32"
    gradient: str = "channels_last"

    def __str__(self) -> str:
        return self.name

    @property
    def title(self) -> str:
        """The name for test ids. It is unique, unlike `name`, which a transposed case may share."""
        return f"{'transposed_' * self.transposed}{self.name}"

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments that the function takes beside input, weight and bias."""
        names = ["stride", "padding", "dilation", "groups"] + ["output_padding"] * self.transposed
        return {name: getattr(self, name) for name in names}

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (*([] if self.batch is None else [self.batch]), self.channels[0], *self.size)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        into, out = self.channels
        shared = (into, out // self.groups) if self.transposed else (out, into // self.groups)
        geometry = replace(self, varies="", bias_varies="").geometry if self.varies else None
        lead = extents(self.varies, geometry.B, geometry.P, geometry.Q) if geometry else ()
        return (*lead, *shared, *self.kernel)

    @property
    def bias_shape(self) -> tuple[int, ...]:
        if not self.bias_varies:
            return self.channels[1:]
        geometry = replace(self, varies="", bias_varies="").geometry
        pixels = (geometry.H, geometry.W) if self.transposed else (geometry.P, geometry.Q)
        samples = extents(self.bias_varies.replace("p q", ""), geometry.B, *pixels)
        return (*samples, self.channels[1], *extents(self.bias_varies.replace("b", ""), 0, *pixels))

    @property
    def line(self) -> str:
        """The case as a line for the table below: its name, and each field that differs from its default."""
        special = [f for f in fields(self) if f.name == "name" or getattr(self, f.name) != f.default]
        return f"Case({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in special)})".replace("name=", "", 1)

    @property
    def geometry(self) -> ConvGeometry:
        """The geometry of the operator that computes the result. An input without a batch counts as a batch of one.

        Raise torch's error if torch refuses these arguments.
        """
        input, weight = (torch.empty(shape, device="meta") for shape in (self.input_shape, self.weight_shape))
        check = arguments.conv_transpose2d if self.transposed else arguments.conv2d
        given, weight, _, *settings = check(input, weight, None, **self.arguments, varies=self.varies)
        operator: Operator = "dgrad" if self.transposed else "fprop"
        return geometry_of(operator, given.shape, weight.shape, Settings(*settings, implementation="auto"))

    @property
    def name_of_function(self) -> str:
        return FUNCTIONS[self.varies][self.transposed]

    def function(self, package: Any) -> Callable[..., Tensor]:
        """Return the function of (input, weight, bias) that computes this case with `package`.

        `package` has torch.nn's names: torch.nn itself, tritonconv or its reference. Raise ValueError if a transposed
        case has a padding mode other than zeros.
        """
        if self.varies:
            return partial(getattr(package, self.name_of_function), **self.arguments)
        if self.padding_mode == "zeros":
            return partial(getattr(package.functional, self.name_of_function), **self.arguments)
        if self.transposed:
            raise ValueError("Only zeros padding mode is supported for ConvTranspose2d")
        layer: nn.Conv2d = package.Conv2d(
            *self.channels, self.kernel, **self.arguments, padding_mode=self.padding_mode, device="meta"
        )
        return layer._conv_forward

    def operands(
        self, dtype: torch.dtype = torch.float32, device: str = "cpu", integer: bool = False, seed: int = 0
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return input, weight and bias in the case's layouts. The bias is None in a case without one.

        They hold normal random numbers or, if `integer`, random integers from -2 to 2. Sums of products of these
        integers are exact in float32. The same `seed` gives the same numbers.
        """
        generator = torch.Generator().manual_seed(seed)

        def draw(shape: tuple[int, ...]) -> Tensor:
            if integer:
                return torch.randint(-2, 3, shape, generator=generator).to(device, dtype)
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)

        input, weight = laid_out(draw(self.input_shape), self.x), laid_out(draw(self.weight_shape), self.weight)
        bias = laid_out(draw((1, 1, *self.bias_shape)), self.bias_layout)[0, 0] if self.bias else None
        return input, weight, bias


def extents(letters: str, B: int, P: int, Q: int) -> tuple[int, ...]:
    """Return the sizes of the axes that `letters` names ("b p q", say), in the order of the letters."""
    return tuple({"b": B, "p": P, "q": Q}[letter] for letter in letters.split())


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """Return a tensor of the same shape and dtype whose memory has this layout.

    The values stay the same, except in "expanded" and "repeated", which repeat the first channel or column. Gaps in
    the memory hold NaN. "contiguous" returns `tensor` itself. Other layouts return a copy or a view. Raise ValueError
    if the layout is unknown.
    """
    match layout:
        case "contiguous":
            return tensor
        case "channels_last":
            return tensor.movedim(-3, -1).contiguous().movedim(-1, -3)
        case "sliced":
            wide = tensor.new_full((*tensor.shape[:-1], 2 * tensor.shape[-1] + 1), float("nan"))
            wide[..., 1::2] = tensor
            return wide[..., 1::2]
        case "transposed":
            return tensor.mT.contiguous().mT
        case "expanded":
            return tensor[..., :1, :, :].expand(tensor.shape)
        case "some_channels":  # the first channels of a wider channels_last tensor, as split and chunk return
            C, H, W = tensor.shape[-3:]
            wide = tensor.new_full((*tensor.shape[:-3], H, W, C + 4), float("nan")).movedim(-1, -3)
            return wide[..., :C, :, :].copy_(tensor)
        case "padded_rows":  # channels_last, with a gap of one element after each row
            C, H, W = tensor.shape[-3:]
            rows = tensor.new_full((*tensor.shape[:-3], H, W * C + 1), float("nan"))
            inside = rows[..., :-1].unflatten(-1, (W, C)).movedim(-1, -3)
            return inside.copy_(tensor)
        case "repeated":
            return tensor[..., :1].expand(tensor.shape)
        case "offset":
            line = tensor.new_full((tensor.numel() + 1,), float("nan"))
            line[1:] = tensor.flatten()
            return line[1:].view(tensor.shape)
    raise ValueError(layout)


CONV = [
    Case("plain"),
    Case("no_bias", bias=False),
    Case("unbatched", batch=None),
    Case("batch_of_one", batch=1),
    Case("pointwise", kernel=(1, 1), channels=(17, 19)),
    Case("pointwise_strided", kernel=(1, 1), stride=2),
    Case("uneven_kernel", kernel=(2, 4), padding=(0, 1)),
    Case("tall_kernel", kernel=(4, 2), padding=(1, 0)),
    Case("strided", stride=(2, 3), padding=1),
    Case("many_tiles_in_a_phase", 1, (2, 3), (43, 8), stride=(2, 3), padding=(0, 6)),
    Case("stride_beyond_kernel", kernel=(2, 2), stride=4, size=(9, 11)),
    Case("dilated", dilation=(2, 1), padding=2),
    Case("dilation_shares_factor_with_stride", dilation=2, stride=2, size=(9, 8), padding=1),
    Case("dilation_and_stride_share_factors", 1, (2, 3), (9, 8), stride=(4, 6), dilation=(6, 4), padding=4),
    Case("padding_beyond_kernel", padding=5),
    Case("cut_off_image", kernel=(1, 1), size=(1, 2), padding=3, stride=8),
    Case("same", padding="same"),
    Case("same_even_kernel", kernel=(2, 4), padding="same", dilation=(1, 2)),
    Case("valid", padding="valid", stride=2),
    Case("grouped", channels=(6, 9), groups=3),
    Case("depthwise", channels=(5, 5), groups=5, padding=1),
    Case("depthwise_multiplier", channels=(4, 8), groups=4),
    Case("one_channel", channels=(1, 3)),
    Case("one_filter", channels=(5, 1)),
    Case("many_channels", channels=(70, 36), size=(4, 4)),
    Case("kernel_as_wide_as_the_bits", kernel=(1, 32), size=(2, 20), channels=(2, 3), padding=(0, 13)),
    Case("kernel_wider_than_the_bits", 2, (2, 3), (2, 20), (1, 34), padding=(0, 9), dilation=(2, 1)),
    Case("kernel_taller_than_the_bits", 2, (2, 3), (20, 2), (35, 1), padding=(10, 0), dilation=(1, 2)),
    Case("strided_bias", bias_layout="sliced"),
    Case("expanded_bias", bias_layout="repeated"),
    Case("offset_bias", bias_layout="offset", channels=(8, 8), x="channels_last"),
    Case("pixel", size=(1, 1), kernel=(1, 1)),
    Case("aligned", channels=(16, 24), x="channels_last", weight="channels_last"),
    Case("aligned_grouped", channels=(32, 16), groups=2, x="channels_last", padding=1),
    Case("aligned_by_two", channels=(6, 10), x="channels_last"),
    Case("padded_rows", channels=(16, 8), size=(8, 3), x="padded_rows"),
    Case("some_channels", channels=(8, 16), size=(5, 7), x="some_channels", gradient="some_channels"),
    Case("many_images_in_a_step", 12, (2, 5), (1, 3), (1, 1)),
    Case("channels_last_weight", weight="channels_last"),
    Case("sliced", x="sliced", weight="sliced"),
    Case("transposed_memory", x="transposed", weight="transposed"),
    Case("expanded", x="expanded", weight="expanded"),
    Case("offset", x="offset", weight="offset", channels=(8, 8)),
]

# Not in TRANSPOSED, because the transposed image would be large.
CONV_ONLY = ("many_tiles_in_a_phase",)


def transposable(case: Case) -> bool:
    """Whether `TRANSPOSED` has the case, too: it is legal as a transposed convolution, and not in `CONV_ONLY`."""
    if isinstance(case.padding, str) or case.padding_mode != "zeros" or case.name in CONV_ONLY:
        return False
    try:
        replace(case, transposed=True).geometry  # noqa: B018
    except RuntimeError:
        return False
    return True


TRANSPOSED = [
    replace(case, transposed=True)
    for case in (
        *filter(transposable, CONV),
        Case("output_padding", stride=2, output_padding=1),
        Case("long_kernel_in_phases", 1, (2, 3), (1, 3), (1, 40), stride=(1, 2), dilation=(1, 2)),
        Case("output_padding_below_dilation", dilation=2, output_padding=1),
        Case("output_padding_beyond_stamps", kernel=(1, 1), stride=3, output_padding=2),
        Case("cropped", padding=2, kernel=(3, 4), stride=(1, 2)),
    )
]


def pair(value: Any) -> tuple[int, int]:
    """Return an int as a pair of itself, or a tuple as it is."""
    return value if isinstance(value, tuple) else (value, value)
