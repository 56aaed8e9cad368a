"""A layer of one's own is read from text, and errors say how to write one."""

from dataclasses import replace

import pytest

from bench.layers import select
from bench.own_layer import EXAMPLE, parse


def test_the_example_is_a_layer() -> None:
    layer, dtype = parse(EXAMPLE)
    case, geometry = layer.case, layer.geometry
    assert (dtype, layer.operator, layer.family) == ("bfloat16", "conv2d", "strided")
    assert (case.batch, case.channels, case.size, case.kernel) == (8, (64, 128), (56, 56), (3, 3))
    assert (geometry.P, geometry.Q, geometry.stride_h) == (28, 28, 2)
    assert layer.name == "conv2d(64, 128, 3, stride=2, padding=1) at 8x64x56x56"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("nn.Conv2d(256, 256, 3, padding=1) at 128x256x14x14, bfloat16", "rn50_c4_3x3"),
        ("conv2d(3, 64, (7, 7), 2, 3, bias=False) at 128 x 3 x 224 x 224 bf16", "rn50_conv1"),
        ("conv2d(96, 96, 7, padding=[3, 3], groups=96) at 128x96x56x56 bf16", "convnext_t_dw7_96_at_56"),
        (
            "conv_transpose2d(512, 256, kernel_size=4, stride=2, padding=1) at 128x512x8x8 bf16",
            "dcgan_up_512_to_256_4x4_s2",
        ),
        ("LocallyConnected2d(16, 16, 9) at 128x16x63x63 bf16", "deepface_l4_local_9x9"),
    ],
)
def test_a_layer_of_the_benchmark_can_be_written(text: str, name: str) -> None:
    (known,) = select(name)
    found = parse(text)
    assert found.dtype == "bfloat16"
    assert found.layer.geometry == known.geometry
    assert replace(found.layer.case, name=name) == known.case
    assert (found.layer.operator, found.layer.family) == (known.operator, known.family)


@pytest.mark.parametrize(
    ("word", "dtype"), [("fp16", "float16"), ("BF16", "bfloat16"), ("tf32", "tf32"), ("fp32", "float32")]
)
def test_dtypes_have_short_names(word: str, dtype: str) -> None:
    assert parse(f"conv2d(8, 8, 3) at 1x8x8x8 {word}").dtype == dtype


def test_transposed_layers_take_their_arguments_in_torchs_order() -> None:
    """The sixth argument is the output padding, and the ninth the dilation. The bias between them changes nothing."""
    geometry = parse("ConvTranspose2d(8, 16, (2, 3), 2, 0, 1, 4, True, 2) at 2x8x5x6 fp32").layer.geometry
    assert (geometry.G, geometry.dilation_h, geometry.stride_w) == (4, 2, 2)
    assert (geometry.H, geometry.W) == (4 * 2 + 2 * 1 + 1 + 1, 5 * 2 + 2 * 2 + 1 + 1)


def test_pairs_are_rows_and_columns() -> None:
    geometry = parse("conv2d(8, 8, (1, 3), stride=(2, 1), padding=(0, 1), dilation=1) at 2x8x9x7 fp32").layer.geometry
    assert (geometry.R, geometry.S, geometry.P, geometry.Q) == (1, 3, 5, 7)
    same = parse("conv2d(8, 8, (1, 3), padding='same') at 2x8x9x7 fp32").layer.geometry
    assert (same.P, same.Q) == (9, 7)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("conv2d(64, 128, 3) 8x64x56x56 bf16", 'there is no layer "at" a size and a dtype'),
        ("conv2d(64, 128, 3) at 8x64x56x56", 'there is no layer "at" a size and a dtype'),
        ("conv2d(64, 128, 3) at 8x64x56x56 int8", "no such dtype: int8; there are bf16,"),
        ("conv2d(64, 128, 3) at 64x56x56 bf16", "the size 64x56x56 is no batch x channels x height x width"),
        ("conv2d(64, 128, 3) at 0x64x56x56 bf16", "the size 0x64x56x56 is no batch"),
        ("conv2d(64, 128, 3) at 8x32x56x56 bf16", "its input has 32 channels, but in_channels is 64"),
        ("conv3d(64, 128, 3) at 8x64x56x56 bf16", "no such layer: conv3d; there are conv2d, conv_transpose2d,"),
        ("conv2d(64, 128) at 8x64x56x56 bf16", "conv2d lacks kernel_size"),
        ("conv2d(64, 128, 3, strides=2) at 8x64x56x56 bf16", "conv2d takes no strides; it takes in_channels,"),
        ("conv2d(64, 128, 3, in_channels=2) at 8x64x56x56 bf16", "in_channels is given twice"),
        ("conv2d(64, 128, 3, output_padding=1) at 8x64x56x56 bf16", "conv2d takes no output_padding"),
        ("conv2d(64, 128, k) at 8x64x56x56 bf16", "kernel_size=k is no number"),
        ("conv2d(64, 128, 1.5) at 8x64x56x56 bf16", "kernel_size=1.5 is no integer and no pair of integers"),
        ("conv2d(64, 128, (3, 3, 3)) at 8x64x56x56 bf16", "kernel_size=(3, 3, 3) is no integer and no pair"),
        ("conv2d((64, 3), 128, 3) at 8x64x56x56 bf16", "in_channels, out_channels and groups are one number each"),
        ("conv2d(64, 128, 3, groups=5) at 8x64x56x56 bf16", "64 and 128 channels can not be divided into 5 groups"),
        ("conv2d(64, 128, 3, stride=0) at 8x64x56x56 bf16", "stride"),
        ("conv2d(64, 128, 9) at 8x64x5x5 bf16", "Kernel size can't be greater than actual input size"),
        ("conv2d(64, at 8x64x5x5 bf16", "conv2d(64, is no call"),
        ("conv2d at 8x64x5x5 bf16", "conv2d is no call"),
    ],
)
def test_errors_say_what_is_wrong_and_show_an_example(text: str, words: str) -> None:
    with pytest.raises(ValueError, match="is no layer") as raised:
        parse(text)
    assert words in str(raised.value)
    assert str(raised.value).startswith(f'"{text}" is no layer: ')
    assert str(raised.value).endswith(f'Write for example "{EXAMPLE}"')
    assert "\n" not in str(raised.value)
