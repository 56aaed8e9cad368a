"""Pairs of calls, and of backward passes, that differ in one field of the fast path's key and in nothing else."""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tests.support.cases import laid_out
from tests.support.fast_path_keys import DULL_OF, Given, Pass
from tests.support.neighbours import ints, last, shifted
from tritonconv.call import without_data
from tritonconv.operators.autograd import SavedCall
from tritonconv.settings import Settings

Givens = Iterable[Given]
Passes = Iterable[Pass]


def plain(**more: Any) -> Given:
    """Return a call of conv2d whose operands have 4 channels, which are last in memory."""
    given = dict(function="conv2d", input=last(ints(1, 4, 5, 5)), weight=last(ints(4, 4, 3, 3)), bias=ints(4)) | more
    return Given(**given)


def transposed(**more: Any) -> Given:
    return plain(function="conv_transpose2d", input=last(ints(1, 4, 3, 3)), **more)


def operators() -> Givens:
    x, weight = last(ints(1, 4, 5, 5)), last(ints(4, 4, 3, 3))
    yield from (Given(name, x, weight) for name in ("conv2d", "conv_transpose2d"))


def letters() -> Givens:
    """A weight that varies, which the function in the second call refuses."""
    per_sample, local = ints(1, 4, 4, 3, 3), ints(3, 3, 4, 4, 3, 3)
    x = last(ints(1, 4, 5, 5))
    yield from (Given(name, x, per_sample) for name in ("per_sample_conv2d", "conv2d"))
    yield from (Given(name, x, local) for name in ("locally_connected2d", "per_sample_conv2d"))
    y = last(ints(1, 4, 3, 3))
    yield from (Given(name, y, local) for name in ("locally_connected_transpose2d", "conv_transpose2d"))


def of_numbers(field: str, *pairs: tuple[Any, Any], **more: Any) -> Callable[[], Givens]:
    """Return a function that yields calls of both operators' functions with these pairs of values of a number."""

    def made() -> Givens:
        for make in (plain, transposed):
            name = "conv2d" if make is plain else "conv_transpose2d"
            if field not in DULL_OF[name]:
                continue
            for pair in pairs:
                if make is transposed and isinstance(pair[0], str):
                    continue
                each = make()
                given = {number: value for number, value in more.items() if number in DULL_OF[name]}
                yield from (each._replace(numbers=given | {field: value}) for value in pair)

    return made


def groups() -> Givens:
    """A transposed convolution with one group and with two, and a convolution that torch refuses with one group."""
    weight = last(ints(4, 2, 3, 3))
    y, x = last(ints(1, 4, 3, 3)), last(ints(1, 4, 5, 5))
    yield from (Given("conv_transpose2d", y, weight, numbers={"groups": groups}) for groups in (1, 2))
    yield from (Given("conv2d", x, weight, numbers={"groups": groups}) for groups in (2, 1))


def changed(make: Callable[[], Any], tensor: str, *changes: Callable[[Tensor], Tensor]) -> Callable[[], Iterable[Any]]:
    """Return a function that yields two calls or passes for each of the `changes` of one tensor of what is made."""

    def made() -> Iterable[Any]:
        for change in changes:
            each = make()
            yield each
            yield each._replace(**{tensor: change(getattr(each, tensor))})

    return made


def narrow() -> Given:
    """Return a call of conv2d whose result has the same size if the image has one row less."""
    return plain(input=ints(1, 3, 6, 6), weight=ints(4, 3, 3, 3), numbers={"stride": 2, "padding": 1})


def local() -> Given:
    """Return a call whose bias varies over positions."""
    return Given("locally_connected2d", ints(1, 1, 2, 4), ints(2, 4, 2, 1, 1, 1), ints(2, 2, 4))


def biases() -> Givens:
    each = plain()
    yield from (each._replace(bias=bias) for bias in (None, each.bias))


def spread(tensor: Tensor) -> Tensor:
    """Return the same numbers with other numbers between them."""
    return torch.stack([tensor, tensor + 9], -1)[..., 0]


def without_a_row(tensor: Tensor) -> Tensor:
    """Return a view without the last row, whose strides are those of the whole tensor."""
    return tensor[..., :-1, :]


def transposed_memory(tensor: Tensor) -> Tensor:
    return tensor.mT.contiguous().mT


def the_same(make: Callable[[], Any]) -> Callable[[], Iterable[Any]]:
    """Return a function that yields two equal calls or passes, between which the test turns torch's switch for TF32."""
    return lambda: [make()] * 2


def described(make: Callable[[], Any], tensor: str) -> dict[str, Callable[[], Iterable[Any]]]:
    """Return the pairs in which the device, dtype or address of one tensor differs."""
    return {
        f"{tensor}.device": changed(make, tensor, without_data),
        f"{tensor}.dtype": changed(make, tensor, Tensor.half, Tensor.bfloat16),
        f"{tensor}.address": changed(make, tensor, shifted),
    }


# For each field an even number of calls. Each second one differs from the one before it in this field only.
FORWARD_PAIRS: dict[str, Callable[[], Givens]] = {
    "form.operator": operators,
    "form.varies": letters,
    "stride": of_numbers("stride", (1, 2), ((1, 2), (2, 1)), (2, (1, 2))),
    "padding": of_numbers("padding", (0, 1), ((0, 1), (1, 0)), ("valid", "same"), ("same", "foo")),
    "output_padding": of_numbers("output_padding", (0, 1), ((0, 1), (1, 0)), (1, 2), stride=2),
    "groups": groups,
    "dilation": of_numbers("dilation", (1, 2), ((1, 2), (2, 1)), (1, 0)),
    "implementation": lambda: (plain()._replace(implementation=wish) for wish in ("auto", "reference")),
    "tf32": the_same(plain),
    **described(plain, "input"),
    **described(plain, "weight"),
    **described(plain, "bias"),
    "input.shape": changed(narrow, "input", without_a_row),
    "input.strides": changed(plain, "input", spread, Tensor.contiguous, transposed_memory),
    "weight.shape": changed(narrow, "weight", without_a_row),
    "weight.strides": changed(plain, "weight", spread, Tensor.contiguous, transposed_memory),
    "bias.shape": changed(plain, "bias", lambda bias: bias[:3]),
    "bias.strides": lambda: (*changed(plain, "bias", spread)(), *changed(local, "bias", spread)()),
    "bias": biases,
}


def saved_call(**more: Any) -> SavedCall:
    """Return what is saved_call of a call of fprop without a bias."""
    dull = dict(size=(3, 3), stride=(1, 1), pad=(0, 0), dilation=(1, 1), groups=1, varies="")
    return SavedCall.of("fprop", Settings(**dull | dict(channels_last=True, implementation="triton") | more), None)


def plain_pass(**more: Any) -> Pass:
    """Return a backward pass of a call of fprop whose tensors have 4 channels, which are last in memory."""
    x, weight, gradient = (last(ints(*shape)) for shape in ((1, 4, 5, 5), (4, 4, 3, 3), (1, 4, 3, 3)))
    return Pass(**dict(saved_call=saved_call(), first=x, weight=weight, gradient=gradient) | more)


def strided() -> Pass:
    """Return a backward pass whose gradient has the same shape if the image has one row less."""
    return Pass(
        saved_call(size=(3, 3), stride=(2, 2), pad=(1, 1)), ints(1, 3, 6, 6), ints(4, 3, 3, 3), ints(1, 4, 3, 3)
    )


def at_positions() -> Pass:
    """Return a backward pass whose weight varies over positions. The weight is read without a copy."""
    x, weight, gradient = last(ints(1, 4, 4, 4)), laid_out(ints(2, 2, 4, 4, 3, 3), "channels_last"), ints(1, 4, 2, 2)
    return Pass(saved_call(size=(2, 2), varies="p q"), x, weight, last(gradient))


def settings() -> Passes:
    """Two calls with equal shapes, one of them with dilation."""
    each = plain_pass()
    yield each
    yield each._replace(saved_call=saved_call(dilation=(2, 2), pad=(1, 1)))


def needs() -> Passes:
    """Gradients are required of the first factor, of the weight, of both, or of the weight and the bias."""
    each = plain_pass()
    wishes = [(True, False, False), (True, True, False), (False, True, False), (False, True, True), (True, True, True)]
    for wish, other in pairwise(wishes):
        yield from (each._replace(needed=(*needed, False)) for needed in (wish, other))


BACKWARD_PAIRS: dict[str, Callable[[], Passes]] = {
    "saved_call": settings,
    "needed": needs,
    "tf32": the_same(plain_pass),
    **described(plain_pass, "gradient"),
    **described(plain_pass, "first"),
    **described(at_positions, "weight"),
    "gradient.shape": changed(strided, "gradient", without_a_row),
    "gradient.strides": changed(plain_pass, "gradient", spread, Tensor.contiguous, transposed_memory),
    "first.shape": changed(strided, "first", without_a_row),
    "first.strides": changed(plain_pass, "first", spread, Tensor.contiguous, transposed_memory),
    "weight.shape": changed(strided, "weight", without_a_row),
    "weight.strides": changed(at_positions, "weight", spread, Tensor.contiguous, transposed_memory),
}
