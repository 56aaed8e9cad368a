"""A layer of one's own as text, for `python -m bench lowering --layers`."""

import pytest

from bench.own_layer import EXAMPLE, own_layer
from tritonconv.geometry import ConvGeometry


def test_the_example() -> None:
    layer, dtype = own_layer(EXAMPLE)
    assert (layer.operator, layer.name, dtype) == ("conv2d", EXAMPLE, "bfloat16")
    assert layer.family == "strided"
    assert layer.geometry == ConvGeometry(
        8, 64, 56, 56, 128, 28, 28, 3, 3, stride_h=2, stride_w=2, pad_h=1, pad_w=1
    )  # (56 + 2 - 3) // 2 + 1 = 28


@pytest.mark.parametrize(
    "text",
    [
        "nn.Conv2d(64, 128, kernel_size=(3, 3), stride=[2, 2], padding=1, bias=False) at 8x64x56x56 bfloat16",
        "  Conv2d(in_channels=64, out_channels=128, kernel_size=3, stride=2, padding=1)  AT 8 x 64 x 56 X 56 BF16 ",
        "conv2d (64, 128, 3, 2, 1, 1, 1) at 8x64x56x56 bf16",
    ],
)
def test_names_pairs_and_positions_say_the_same(text: str) -> None:
    assert own_layer(text)[0].geometry == own_layer(EXAMPLE)[0].geometry
    assert own_layer(text)[1] == "bfloat16"


def test_transposed_layers_have_the_order_of_their_arguments() -> None:
    """The input of a transposed layer is the operator's features. The sixth argument is the output padding."""
    layer, dtype = own_layer("ConvTranspose2d(64, 32, 4, 3, 1, 2) at 2x64x8x9 tf32")
    rows, columns = (7 * 3 - 2 + 4 + 2, 8 * 3 - 2 + 4 + 2)
    sampling = dict(stride_h=3, stride_w=3, pad_h=1, pad_w=1)
    assert layer.geometry == ConvGeometry(2, 32, rows, columns, 64, 8, 9, 4, 4, **sampling)
    assert (layer.operator, dtype) == ("conv_transpose2d", "tf32")


@pytest.mark.parametrize(
    ("name", "varies"),
    [("LocallyConnected2d", "p q"), ("per_sample_conv2d", "b"), ("dynamic_conv2d", "b p q"), ("Conv2d", "")],
)
def test_weights_that_vary(name: str, varies: str) -> None:
    layer, _ = own_layer(f"{name}(16, 8, (3, 1), groups=2, dilation=(1, 2)) at 4x16x9x9 fp16")
    geometry = layer.geometry
    assert (geometry.varies, geometry.G, geometry.R, geometry.S, geometry.P, geometry.Q) == (varies, 2, 3, 1, 7, 9)
    assert (geometry.dilation_h, geometry.dilation_w) == (1, 2)


@pytest.mark.parametrize(
    ("short", "name"),
    [("bf16", "bfloat16"), ("fp16", "float16"), ("tf32", "tf32"), ("fp32", "float32"), ("float32", "float32")],
)
def test_dtypes(short: str, name: str) -> None:
    assert own_layer(f"conv2d(8, 8, 1) at 1x8x4x4 {short}")[1] == name


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("conv2d(64, 128, 3)", "it needs a call, the word at, the input's size and a dtype"),
        ("conv2d(64, 128, 3) at 8x64x56x56", "it needs a call"),
        ("conv2d(64, 128, 3) at 64x56x56 bf16", "batch x channels x height x width, not 64x56x56"),
        ("conv2d(64, 128, 3) at 8x32x56x56 bf16", "in_channels is 64, but the input has 32 channels"),
        ("conv2d(64, 128, 3) at 8x64x56x56 int8", "there is no dtype int8; there are bf16, bfloat16, fp16"),
        ("conv3d(64, 128, 3) at 8x64x56x56 bf16", "there is no operator conv3d; there are conv2d, conv_transpose2d"),
        ("conv2d(64, 128) at 8x64x56x56 bf16", "kernel_size is missing"),
        ("conv2d(64, 128, 3, strides=2) at 8x64x56x56 bf16", "no argument strides; there are in_channels"),
        ("conv2d(64, 128, 3, kernel_size=3) at 8x64x56x56 bf16", "kernel_size stands twice"),
        ("conv2d(64, 128, 3, stride=2.5) at 8x64x56x56 bf16", "stride must be an int or a pair of ints, not 2.5"),
        ("conv2d(64, 128, (3, 3, 3)) at 8x64x56x56 bf16", "kernel_size must be an int or a pair"),
        ("conv2d(64, (1, 2), 3) at 8x64x56x56 bf16", "out_channels must be an int, not"),
        ("conv2d(64, 128, 3, stride=0) at 8x64x56x56 bf16", "stride must be at least 1, not 0"),
        ("conv2d(64, n, 3) at 8x64x56x56 bf16", "no list of numbers and names"),
        ("conv2d(64, 128, 3, groups=3) at 8x64x56x56 bf16", "groups"),
        ("conv2d(64, 128, 9) at 8x64x5x5 bf16", "Kernel size can't be greater than actual input size"),
        ("dynamic_conv2d(64, 128, 9, **{}) at 8x64x5x5 bf16", "there is no argument"),
    ],
)
def test_errors_say_what_is_wrong_and_show_an_example(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match="is no layer: ") as caught:
        own_layer(text)
    assert reason in str(caught.value)
    assert EXAMPLE in str(caught.value)
