"""`Settings`: what an operator takes beside tensors, and how `torch.ops.tritonconv` takes it."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch

Sizes = Sequence[int]


class Settings(NamedTuple):
    """What an operator takes beside tensors.

    `size` is the extent of the result in pixels or taps: (P, Q), (H, W) or (R, S). `pad` is the leading padding; the
    trailing one follows from the sizes of both sides. `varies` has the letters of the axes that the weight carries in
    front: "", "b", "p q" or "b p q". `channels_last` says whether the result has its channels last in memory, and the
    results of the calls of the backward pass, too. A weight that varies always has its channels last in memory.
    `implementation` is one of `dispatch.IMPLEMENTATIONS`, or "auto".
    """

    size: Sizes
    stride: Sizes
    pad: Sizes
    dilation: Sizes
    groups: int
    varies: str
    channels_last: bool
    implementation: str

    @property
    def reference_arguments(self) -> dict[str, Any]:
        """The settings that a function of the reference takes, by name."""
        return dict(
            size=self.size,
            stride=self.stride,
            pad=self.pad,
            dilation=self.dilation,
            groups=self.groups,
            varies=self.varies,
        )

    @property
    def packed(self) -> tuple[Any, ...]:
        """The arguments of the operators in `torch.ops.tritonconv`: `size`, `pad`, `groups`, and the rest as text.

        torch takes longer to convert twelve values for an operator than for the rest of a call. Sizes, padding and
        groups may be symbolic in a graph of `torch.compile` or `torch.export`. The rest are constants there.
        """
        size, stride, pad, dilation, groups, *others = self
        rest: tuple[Any, ...] = (stride, dilation, *others)
        if torch.compiler.is_dynamo_compiling():  # which can not trace a cached function
            return *size, *pad, groups, to_text(*rest)
        try:
            return *size, *pad, groups, cached_to_text(*rest)
        except TypeError:  # symbolic numbers can not be hashed
            return *size, *pad, groups, to_text(*rest)

    @classmethod
    def unpacked(cls, *arguments: Any) -> "Settings":
        """Return the settings that were packed into these arguments."""
        height, width, pad_h, pad_w, groups, text = arguments
        stride, dilation, *others = cached_from_text(text)
        return cls((height, width), stride, (pad_h, pad_w), dilation, groups, *others)


def to_text(stride: Sizes, dilation: Sizes, varies: str, channels_last: bool, implementation: str) -> str:
    """Return settings as text: "stride=2,2 dilation=1,1 varies= channels_last=True implementation=auto"."""
    strides, dilations = (f"{int(rows)},{int(columns)}" for rows, columns in (stride, dilation))
    return (
        f"stride={strides} dilation={dilations} varies={varies.replace(' ', '')} "
        f"channels_last={bool(channels_last)} implementation={implementation}"
    )


def from_text(text: str) -> tuple[Any, ...]:
    """Return the settings in a text of `to_text`, in the order of its arguments."""
    values = dict(each.split("=") for each in text.split(" "))
    stride, dilation = (tuple(map(int, values[name].split(","))) for name in ("stride", "dilation"))
    return stride, dilation, " ".join(values["varies"]), values["channels_last"] == "True", values["implementation"]


# A training loop packs and unpacks the same settings again and again.
cached_to_text, cached_from_text = lru_cache(4096, typed=True)(to_text), lru_cache(4096)(from_text)
