"""The one table of named problems. Defaults are dull, so that a case says only what is special about it."""

import random
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed", "expanded", "offset")


@dataclass(frozen=True)
class Case:
    """One call of conv2d or conv_transpose2d. `channels` are those of input and result."""

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

    def __str__(self) -> str:
        return self.name

    @property
    def arguments(self) -> dict[str, Any]:
        """What the functions take after input, weight and bias."""
        names = ["stride", "padding", "dilation", "groups"] + ["output_padding"] * self.transposed
        return {name: getattr(self, name) for name in names}

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (*([] if self.batch is None else [self.batch]), self.channels[0], *self.size)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        into, out = self.channels
        return (into, out // self.groups, *self.kernel) if self.transposed else (out, into // self.groups, *self.kernel)

    def operands(
        self, dtype: torch.dtype = torch.float32, device: str = "cpu", integer: bool = False, seed: int = 0
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Input, weight and bias in the case's layouts: normal, or small integers whose sums are exact in any dtype."""
        generator = torch.Generator().manual_seed(seed)

        def draw(shape: tuple[int, ...]) -> Tensor:
            if integer:
                return torch.randint(-2, 3, shape, generator=generator).to(device, dtype)
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)

        input, weight = laid_out(draw(self.input_shape), self.x), laid_out(draw(self.weight_shape), self.weight)
        bias = laid_out(draw((1, 1, self.channels[1])), self.bias_layout)[0, 0] if self.bias else None
        return input, weight, bias


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """A tensor of the same shape in `layout`, with the same values but where one channel or column is repeated."""
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
    Case("strided", stride=(2, 3), padding=1),
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
    Case("kernel_wider_than_the_bits", kernel=(1, 34), size=(2, 20), channels=(2, 3), padding=(0, 9)),
    Case("kernel_taller_than_the_bits", kernel=(35, 1), size=(20, 2), channels=(2, 3), padding=(10, 0)),
    Case("strided_bias", bias_layout="sliced"),
    Case("expanded_bias", bias_layout="repeated"),
    Case("offset_bias", bias_layout="offset", channels=(8, 8), x="channels_last"),
    Case("pixel", size=(1, 1), kernel=(1, 1)),
    Case("aligned", channels=(16, 24), x="channels_last", weight="channels_last"),
    Case("aligned_grouped", channels=(32, 16), groups=2, x="channels_last", padding=1),
    Case("aligned_by_two", channels=(6, 10), x="channels_last"),
    Case("channels_last_weight", weight="channels_last"),
    Case("sliced", x="sliced", weight="sliced"),
    Case("transposed_memory", x="transposed", weight="transposed"),
    Case("expanded", x="expanded", weight="expanded"),
    Case("offset", x="offset", weight="offset", channels=(8, 8)),
]

TRANSPOSED = [
    replace(case, transposed=True)
    for case in (
        *(
            case
            for case in CONV
            if not isinstance(case.padding, str) and case.name not in ("padding_beyond_kernel", "cut_off_image")
        ),
        Case("output_padding", stride=2, output_padding=1),
        Case("output_padding_below_dilation", dilation=2, output_padding=1),
        Case("output_padding_beyond_stamps", kernel=(1, 1), stride=3, output_padding=2),
        Case("cropped", padding=2, kernel=(3, 4), stride=(1, 2)),
    )
]


def random_case(seed: int, transposed: bool = False) -> Case:
    """A legal problem over every parameter together, the same for the same seed."""
    rng = random.Random(f"{seed} {transposed}")

    def two(*choices: int) -> tuple[int, int]:
        return rng.choice(choices), rng.choice(choices)

    groups = rng.choice([1, 1, 1, 2, 3])
    channels = (groups * rng.choice([1, 2, 3, 4, 8, 13]), groups * rng.choice([1, 2, 3, 5, 8, 16]))
    case = Case(
        f"random_{'transposed_' * transposed}{seed}",
        batch=rng.choice([None, 0, 1, 1, 1, 2, 2, 2, 3, 3]),
        channels=channels,
        size=two(1, 2, 3, 5, 6, 7),
        kernel=two(1, 1, 2, 3, 3, 4),
        stride=two(1, 1, 2, 3, 4),
        padding=two(0, 0, 1, 2, 3),
        dilation=two(1, 1, 2, 3, 6),
        groups=groups,
        bias=rng.random() < 0.7,
        transposed=transposed,
        x=rng.choice(LAYOUTS),
        weight=rng.choice(LAYOUTS),
    )
    if transposed:
        most = [max(s, d) for s, d in zip(case.stride, case.dilation, strict=True)]
        case = replace(case, output_padding=(rng.randrange(most[0]), rng.randrange(most[1])))
    elif rng.random() < 0.2:
        case = replace(case, stride=1, padding="same")
    return case if legal(case) else random_case(seed + 1_000_003, transposed)


def legal(case: Case) -> bool:
    """Whether the other side has at least one pixel."""
    if case.padding == "same":
        return True
    for n, k, s, p, d, extra in zip(
        case.size, case.kernel, case.stride, case.padding, case.dilation, pair(case.output_padding), strict=True
    ):
        reach = d * (k - 1) + 1
        if ((n - 1) * s - 2 * p + reach + extra if case.transposed else n + 2 * p - reach + 1) < 1:
            return False
    return True


def pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)
