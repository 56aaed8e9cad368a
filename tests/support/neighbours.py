"""Pairs of calls that differ in one field of the plan cache's key and in nothing else, for each field."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from tritonconv.call import Call, join_arguments, without_data
from tritonconv.settings import Settings

Calls = Iterable[Call]

TENSORS = ("first", "second", "bias")
DESCRIBED = ("shape", "strides", "dtype", "device", "address")
# The fields of the key. The last one is whether there is a bias.
FIELDS = [
    "name",
    *(f"settings.{field}" for field in Settings._fields),
    "tf32",
    *(f"{tensor}.{field}" for tensor in TENSORS for field in DESCRIBED),
    "bias",
]
# No plan depends on it, and Triton ignores it. It is in the key because all tensors are described alike.
NOT_NEEDED = "bias.address"


def call(name: str, first: Tensor, second: Tensor, bias: Tensor | None = None, **settings: Any) -> Call:
    """Return a call of the operator `name`, which runs on torch's default device. Settings that are not given are dull.

    By default the result has 3x3 positions, pixels or taps.
    """
    dull = dict(size=(3, 3), stride=(1, 1), pad=(0, 0), dilation=(1, 1), groups=1, varies="", channels_last=False)
    of_call = Settings(**dull | dict(implementation="triton") | settings)
    return Call(name, join_arguments(name, (first, second), bias, of_call), torch.get_default_device())


def ints(*shape: int) -> Tensor:
    """Return random integers from 1 to 3."""
    return torch.randint(1, 4, shape).float()


def last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def shifted(tensor: Tensor) -> Tensor:
    """Return a copy in the same layout that starts 8 bytes behind a multiple of 16. The tensor has no gaps."""
    apart = 8 // tensor.element_size()
    memory = torch.empty_strided((apart + tensor.numel(),), (1,), dtype=tensor.dtype, device=tensor.device)
    return memory.as_strided(tensor.shape, tensor.stride(), apart).copy_(tensor)


def names() -> Calls:
    x, other = ints(1, 4, 5, 5), ints(4, 4, 3, 3)
    yield from (call(name, x[..., :3, :3], other, pad=(1, 1)) for name in ("fprop", "dgrad"))
    yield from (call(name, x, other[:1]) for name in ("wgrad", "wgrad_with_bias"))


def sizes() -> Calls:
    """A transposed convolution without output_padding, and with an output_padding of 2."""
    y, weight = ints(1, 4, 3, 3), ints(4, 4, 3, 3)
    yield from (call("dgrad", y, weight, size=size, stride=(3, 3)) for size in ((9, 9), (11, 11)))


def strides() -> Calls:
    x, weight = ints(1, 4, 6, 6), ints(4, 4, 3, 3)
    yield from (call("fprop", x, weight, size=(2, 2), stride=stride) for stride in ((2, 2), (3, 3)))
    yield from (call("fprop", x, weight, size=(2, 2), stride=stride) for stride in ((3, 2), (3, 3)))


def pads() -> Calls:
    x, weight = ints(1, 4, 7, 7), ints(4, 4, 3, 3)
    yield from (call("fprop", x, weight, size=(2, 2), stride=(4, 4), pad=pad) for pad in ((1, 0), (0, 0)))
    yield from (call("fprop", x, weight, size=(2, 2), stride=(4, 4), pad=pad) for pad in ((0, 1), (0, 0)))


def dilations() -> Calls:
    """A transposed convolution with an output_padding of 2, and one of dilation 2 without; and two convolutions."""
    y, x, weight = ints(1, 4, 3, 3), ints(1, 4, 9, 9), ints(4, 4, 3, 3)
    both = ((1, 1), (2, 2))
    yield from (call("dgrad", y, weight, size=(11, 11), stride=(3, 3), dilation=dilation) for dilation in both)
    yield from (call("fprop", x, weight, size=(2, 2), stride=(4, 4), dilation=dilation) for dilation in both)


def groups() -> Calls:
    y, weight = ints(1, 4, 3, 3), ints(4, 2, 3, 3)
    yield from (call("dgrad", y, weight, size=(5, 5), groups=groups) for groups in (1, 2))


def letters() -> Calls:
    x, y = ints(1, 4, 3, 3), ints(1, 4, 1, 1)
    yield from (call("wgrad", x, y, varies=varies) for varies in ("", "b"))
    yield from (call("wgrad", x, y, varies=varies) for varies in ("p q", "b p q"))


def simple(**more: Any) -> Call:
    """Return a call of fprop whose operands and result have 4 channels, all of them channels_last."""
    given = dict(first=last(ints(1, 4, 5, 5)), second=last(ints(4, 4, 3, 3)), channels_last=True) | more
    return call("fprop", **given)


def formats() -> Calls:
    first, second = last(ints(1, 4, 5, 5)), last(ints(4, 4, 3, 3))
    yield from (simple(first=first, second=second, channels_last=wish) for wish in (False, True))


def implementations() -> Calls:
    first, second = last(ints(1, 4, 5, 5)), last(ints(4, 4, 3, 3))
    yield from (simple(first=first, second=second, implementation=wish) for wish in ("auto", "reference"))


def the_same() -> Calls:
    """Two equal calls, between which the test turns torch's switch for TF32."""
    yield from [simple()] * 2


def changed(tensor: str, *changes: Callable[[Tensor], Tensor]) -> Calls:
    """Yield two calls for each of the `changes`, which makes the second one of the first. It is applied to `tensor`."""
    for change in changes:
        given = dict(first=last(ints(1, 4, 5, 5)), second=last(ints(4, 4, 3, 3)), bias=ints(4))
        yield simple(**given)
        yield simple(**given | {tensor: change(given[tensor])})


def shapes_of_first() -> Calls:
    x, weight = ints(1, 3, 6, 6), ints(4, 3, 3, 3)
    yield from (call("fprop", side, weight, stride=(2, 2), pad=(1, 1)) for side in (x[..., :5, :5], x))


def shapes_of_second() -> Calls:
    x, weight = ints(1, 3, 5, 5), ints(4, 3, 3, 3)
    yield from (call("fprop", x, each, size=(2, 2), stride=(2, 2)) for each in (weight[:, :, :2], weight))


def strides_of_first() -> Calls:
    x, weight = ints(1, 3, 5, 5), ints(4, 3, 3, 3)
    yield from (call("fprop", side, weight) for side in (x, x.mT.contiguous().mT))


def strides_of_bias() -> Calls:
    """The bias of a locally connected layer, without gaps and with gaps; and one that does not vary, likewise."""
    x, weight, bias = ints(1, 1, 2, 4), ints(2, 4, 2, 1, 1, 1), ints(2, 4, 4)
    for each in (bias[:, :2].contiguous(), bias[:, :2]):
        yield call("fprop", x, weight, each, size=(2, 4), varies="p q")
    yield from changed("bias", lambda bias: torch.stack([bias, bias + 9], 1)[:, 0])


def with_and_without_a_bias() -> Calls:
    first, second = last(ints(1, 4, 5, 5)), last(ints(4, 4, 3, 3))
    yield from (simple(first=first, second=second, bias=bias) for bias in (None, ints(4)))


# For each field an even number of calls. Each second one differs from the one before it in this field only.
CALLS: dict[str, Callable[[], Calls]] = {
    "name": names,
    "settings.size": sizes,
    "settings.stride": strides,
    "settings.pad": pads,
    "settings.dilation": dilations,
    "settings.groups": groups,
    "settings.varies": letters,
    "settings.channels_last": formats,
    "settings.implementation": implementations,
    "tf32": the_same,
    "first.shape": shapes_of_first,
    "first.strides": strides_of_first,
    "first.dtype": lambda: changed("first", Tensor.half),
    "first.device": lambda: changed("first", without_data),
    "first.address": lambda: changed("first", shifted),
    "second.shape": shapes_of_second,
    "second.strides": lambda: changed("second", Tensor.contiguous),
    "second.dtype": lambda: changed("second", Tensor.half),
    "second.device": lambda: changed("second", without_data),
    "second.address": lambda: changed("second", shifted),
    "bias.shape": lambda: changed("bias", lambda bias: bias[:3]),
    "bias.strides": strides_of_bias,
    "bias.dtype": lambda: changed("bias", Tensor.half),
    "bias.device": lambda: changed("bias", without_data),
    "bias.address": lambda: changed("bias", shifted),
    "bias": with_and_without_a_bias,
}
# With these fields, a wrong plan is wrong only for a compiled kernel, or for the user, who asked for something else.
HIDDEN = {"settings.implementation", "tf32", "bias.shape"} | {
    f"{tensor}.{field}" for tensor in TENSORS for field in ("dtype", "device", "address")
}


def pairs(made: Callable[[], Iterable[Any]], device: str) -> list[tuple[Any, Any]]:
    """Return the pairs of calls, or of backward passes, that are made for a field, on this device."""
    with torch.device(device):
        each = list(made())
    assert each
    return list(zip(each[::2], each[1::2], strict=True))
