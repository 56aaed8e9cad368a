"""What `launch.layout` says of operands, against the addresses of their elements, for random views of memory."""

from itertools import product
from math import gcd

import torch
from torch import Tensor

from tests.support.properties import given, settings, st
from tritonconv.geometry import ConvGeometry
from tritonconv.launch import layout
from tritonconv.launch.kernel_arguments import integers

# Element number n of this memory holds n, so a view's values are its addresses.
MEMORY = torch.arange(2**14, dtype=torch.int32)
DTYPES = (torch.bfloat16, torch.float32)
few = st.integers(1, 3)


@st.composite
def orders(draw: st.DrawFn, shape: tuple[int, ...], step: int = 1) -> tuple[int, ...]:
    """Draw strides for this shape: those of a tensor in a random order of its axes, often with gaps.

    `step` is the least of them.
    """
    strides = [0] * len(shape)
    for axis in draw(st.permutations(range(len(shape)))):
        strides[axis] = step
        step = step * shape[axis] + draw(st.sampled_from([0, 0, 0, 0, 1, 2, 8]))
    return tuple(strides)


@st.composite
def sides(draw: st.DrawFn, least: int = 1) -> tuple[Tensor, int]:
    """Draw a side (B, C, H, W) of MEMORY, and how many channels a group has. B, H and W are at least `least`."""
    channels = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 8, 8, 16, 16]))
    sizes = st.integers(least, 3)
    shape = (draw(sizes), channels * draw(st.integers(1, 2)), draw(sizes), draw(sizes))
    match draw(st.sampled_from(["any order", "channels_last", "one stride off"])):
        case "any order":
            strides = list(draw(orders(shape)))
        case "channels_last":  # often with gaps
            pitch = shape[1] + draw(st.sampled_from([0, 0, 0, 1, 2, 8]))
            along_b, along_h, along_w = draw(orders((shape[0], shape[2], shape[3]), pitch))
            strides = [along_b, 1, along_h, along_w]
        case _:  # multiples of 8, but for one of them; elements may share their memory
            strides = [8 * draw(st.integers(1, 6)), 1, 8 * draw(st.integers(1, 6)), 8 * draw(st.integers(1, 6))]
            strides[draw(st.integers(0, 3))] += draw(st.sampled_from([1, 2, 4]))
    if draw(st.integers(0, 9)) == 0:
        strides[draw(st.integers(0, 3))] = 0
    offset = draw(st.sampled_from([0, 0, 0, 0, 0, 0, 1, 2, 4, 8]))
    return MEMORY.as_strided(shape, strides, offset), channels


def in_dtype(side: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a view of other memory that lies as `side` does, in a dtype of as many bytes or fewer."""
    return MEMORY.to(dtype).as_strided(side.shape, side.stride(), side.storage_offset())


def loads_whole(side: Tensor, channels: int, vector: int, itemsize: int) -> bool:
    """Whether the channels of each group can be loaded `vector` at once: adjacent ones, from a multiple of their bytes.

    The memory of `side` begins at a multiple of 16 bytes.
    """
    if channels % vector:
        return False
    groups = side.movedim(1, -1).unflatten(-1, (-1, vector)).long()
    first = groups[..., :1]
    return bool((groups == first + torch.arange(vector)).all() and (first * itemsize % (vector * itemsize) == 0).all())


@settings(max_examples=300)
@given(sides(), st.sampled_from(DTYPES))
def test_what_one_load_takes(drawn: tuple[Tensor, int], dtype: torch.dtype) -> None:
    """A load takes what is adjacent and aligned, in every pixel and group."""
    side, channels = drawn
    vector = layout.alignment(in_dtype(side, dtype), channels)
    assert vector in (1, 4 // dtype.itemsize, 16 // dtype.itemsize)
    assert loads_whole(side, channels, vector, dtype.itemsize)


@settings(max_examples=300)
@given(sides(least=2), st.sampled_from(DTYPES))
def test_one_load_takes_as_much_as_it_can(drawn: tuple[Tensor, int], dtype: torch.dtype) -> None:
    """If no axis has one entry, whose stride would not matter, then no wider load is possible."""
    side, channels = drawn
    widths = (16 // dtype.itemsize, 4 // dtype.itemsize)
    starts_aligned = side.storage_offset() * dtype.itemsize % 16 == 0
    possible = [width for width in widths if starts_aligned and loads_whole(side, channels, width, dtype.itemsize)]
    widest = max(possible, default=1)
    assert layout.alignment(in_dtype(side, dtype), channels) == widest
    assert layout.width_of_stores(in_dtype(side, dtype), channels) == (widest if widest == widths[0] else 1)


@given(sides(), st.sampled_from(DTYPES))
def test_channels_that_are_made_adjacent(drawn: tuple[Tensor, int], dtype: torch.dtype) -> None:
    """A side is copied only if whole vectors can not be loaded from it, and can be loaded from the copy."""
    side, channels = in_dtype(drawn[0], dtype), drawn[1]
    whole = 16 // dtype.itemsize
    laid = layout.adjacent_channels(side, channels)
    assert torch.equal(laid, side)
    assert (laid is side) == (channels % whole != 0 or layout.alignment(side, channels) == whole)
    assert channels % whole or layout.alignment(laid, channels) == whole


@given(sides(), few, few)
def test_integers_lose_nothing(drawn: tuple[Tensor, int], stride_h: int, stride_w: int) -> None:
    """What is divided by the elements of a load is a multiple of them."""
    side, channels = drawn
    B, C, H, W = side.shape
    vector = layout.alignment(side, channels)
    geometry = ConvGeometry(B, C, H, W, C, H, W, 1, 1, C // channels, stride_h, stride_w)
    given_ = integers(geometry, side, side, vector, vector)
    assert given_["C"] * given_["VECTOR_X"] == given_["F"] * given_["VECTOR_Y"] == channels
    for names in (("stride_xb", "stride_xh", "stride_xw"), ("stride_yb", "stride_yp", "stride_yq")):
        multiplied = [given_[name] * vector for name in names]
        assert multiplied == [side.stride(0), side.stride(2), side.stride(3)]
    assert given_["stride_xc"] == given_["stride_yf"] == side.stride(1)
    assert (given_["stride_h"], given_["stride_w"]) == (stride_h, stride_w)


@given(sides())
def test_one_row_of_pixels(drawn: tuple[Tensor, int]) -> None:
    """Pixels are evenly spaced if each lies one stride over w behind the one before it. Then they are one row."""
    side, _ = drawn
    pixels = side[:, 0].flatten()
    evenly = torch.equal(pixels, pixels[0] + side.stride(3) * torch.arange(len(pixels), dtype=torch.int32))
    assert layout.is_evenly_spaced(side) == evenly
    row = layout.one_row(side)
    assert (row is not None) == evenly
    if row is not None:
        assert row.data_ptr() == side.data_ptr()
        assert row.shape == (1, side.shape[1], 1, len(pixels))
        assert torch.equal(row[0, :, 0], side.transpose(0, 1).flatten(1))


@given(sides())
def test_dense_rows(drawn: tuple[Tensor, int]) -> None:
    """All elements of a row lie one behind the other in memory, its pixels' channels together."""
    side, _ = drawn
    dense = layout.dense_rows(side)
    assert torch.equal(dense, side)
    addresses = MEMORY.as_strided(dense.shape, dense.stride())
    rows = addresses.permute(0, 2, 3, 1).flatten(2)
    assert torch.equal(rows, rows[..., :1] + torch.arange(rows.shape[-1], dtype=torch.int32))
    if side.stride(1) == 1 and side.stride(3) == side.shape[1]:
        assert dense is side


@st.composite
def weights(draw: st.DrawFn, *front: int) -> Tensor:
    """Draw a weight (..., F, C/G, R, S) of MEMORY, with these axes in front. F is even."""
    shape = (*front, 2 * draw(few), draw(st.sampled_from([1, 2, 3, 4, 8])), draw(few), draw(few))
    last = (*range(len(front)), -4, -2, -1, -3)
    if draw(st.booleans()):
        return MEMORY[draw(st.sampled_from([0, 1, 4])) :].as_strided(shape, draw(orders(shape)))
    dense = [shape[axis] for axis in last]
    lying = MEMORY[draw(st.sampled_from([0, 1, 4])) :][: torch.Size(dense).numel()].view(dense)
    return lying.movedim(-1, -3)


@given(weights() | weights(2) | weights(2, 1, 3))
def test_weights_with_channels_last(weight: Tensor) -> None:
    """The copy, or the weight itself if that lies so already, lies in the order of axes (..., F, R, S, C/G)."""
    lying = layout.weight_channels_last(weight)
    assert torch.equal(lying, weight.movedim(-3, -1))
    assert lying.is_contiguous()
    assert lying.data_ptr() % 16 == 0
    line = weight.movedim(-3, -1).flatten()
    in_order = torch.equal(line, line[0] + torch.arange(len(line), dtype=torch.int32))
    assert layout.is_weight_channels_last(weight) == in_order
    assert (lying.data_ptr() == weight.data_ptr()) == (in_order and weight.data_ptr() % 16 == 0)


@given(weights(), st.integers(1, 2), st.sampled_from([1, 2, 4, 16]))
def test_weights_with_filters_last(weight: Tensor, groups: int, multiple: int) -> None:
    lying = layout.weight_filters_last(weight, groups, multiple)
    F, C, R, S = weight.shape
    assert lying.shape[:-1] == (groups, C, R, S)
    assert lying.shape[-1] % multiple == 0
    assert 0 <= lying.shape[-1] - F // groups < multiple
    assert lying.is_contiguous()
    assert lying.data_ptr() % 16 == 0
    for g in range(groups):
        filters = weight[g * (F // groups) : (g + 1) * (F // groups)]
        assert torch.equal(lying[g, ..., : F // groups], filters.permute(1, 2, 3, 0))
    assert not lying[..., F // groups :].any()


@given(st.integers(1, 40), st.sampled_from(DTYPES))
def test_what_one_load_takes_of_a_weight(channels: int, dtype: torch.dtype) -> None:
    """A load takes the most channels that are a power of two, divide C/G and take at most 16 bytes."""
    vector = layout.weight_vector(torch.empty(1, channels, 1, 1, dtype=dtype, device="meta"))
    assert vector == max(n for n in (1, 2, 4, 8) if n * dtype.itemsize <= 16 and gcd(n, channels) == n)


# Strides around the limits of 2^31 elements and of 2^40 bytes.
far = st.sampled_from([0, 1, 8, 2**30 - 1, 2**30, 2**31 - 1, 2**31])
farther = st.sampled_from([0, 8, 2**37, 2**38 - 1, 2**38, 2**39 - 1, 2**39, 2**40])


@given(st.tuples(few, few, few, few), st.tuples(*[far] * 4))
def test_wide(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    side = torch.empty_strided(shape, strides, device="meta")
    farthest = max(
        sum(i * stride for i, stride in zip(place, strides, strict=True)) for place in product(*map(range, shape))
    )
    assert layout.is_wide(side) == (farthest >= 2**31)


@given(st.tuples(st.integers(0, 2), few, few, few), st.integers(0, 3), farther, few, few, st.sampled_from(DTYPES))
def test_blocks_that_can_be_copied(
    shape: tuple[int, int, int, int], axis: int, stride: int, stride_h: int, stride_w: int, dtype: torch.dtype
) -> None:
    """A descriptor's strides, in bytes, are those over b, and over each stride-th row and column."""
    strides = [stride if axis == each else 8 for each in range(4)]
    side = torch.empty_strided(shape, strides, device="meta", dtype=dtype)
    B, C, H, W = shape
    geometry = ConvGeometry(B, C, H, W, 1, 1, 1, 1, 1, stride_h=stride_h, stride_w=stride_w)
    described = [dtype.itemsize * elements for elements in (strides[0], strides[2] * stride_h, strides[3] * stride_w)]
    assert layout.can_copy_blocks(side, geometry) == (B > 0 and all(0 < each < 2**40 for each in described))


@given(st.data(), st.sampled_from(["", "b", "p q", "b p q"]))
def test_strides_of_a_bias(data: st.DataObject, letters: str) -> None:
    """The strides lead from the address of the bias to what is added to each element of the result."""
    result = (2, 3, 2, 4)
    sizes = dict(b=2, n=3, p=2, q=4)
    axes = [letter for letter in "bnpq" if letter == "n" or letter in letters]
    shape = tuple(sizes[letter] for letter in axes)
    bias = MEMORY.as_strided(shape, data.draw(orders(shape)), data.draw(st.integers(0, 3)))
    strides = layout.bias_strides(bias, result)
    for place in product(*map(range, result)):
        index = tuple(place["bnpq".index(letter)] for letter in axes)
        address = bias.storage_offset() + sum(i * stride for i, stride in zip(place, strides, strict=True))
        assert int(MEMORY[address]) == int(bias[index])
    assert layout.bias_strides(None, result) == (0, 0, 0, 0)


@given(st.tuples(few, few, few, few, few, few), st.integers(4, 6), st.booleans())
def test_what_is_allocated(sizes: tuple[int, ...], dims: int, channels_last: bool) -> None:
    """A tensor without gaps, whose third axis from the end lies last if that is asked for."""
    shape = sizes[:dims]
    made = layout.allocate(shape, torch.empty(0, dtype=torch.bfloat16), channels_last)
    assert made.shape == shape
    assert made.dtype == torch.bfloat16
    assert (made.movedim(-3, -1) if channels_last else made).is_contiguous()
    assert layout.allocate(shape, made, channels_last, torch.float32).dtype == torch.float32
