"""Reads one layer from text, for example "conv2d(64, 128, 3, stride=2, padding=1) at 8x64x56x56 bf16".

The layer is written as torch.nn's or tritonconv's module, with its arguments. After "at" come the batch, channels,
height and width of the input, and then the dtype.
"""

import ast
import re
from typing import Any, NamedTuple

from bench.layers import Layer
from tests.support.cases import Case
from tritonconv.reference.torch_rules.arguments import FUNCTIONS

EXAMPLE = "conv2d(64, 128, 3, stride=2, padding=1) at 8x64x56x56 bf16"
DTYPES = {
    **dict.fromkeys(("bf16", "bfloat16"), "bfloat16"),
    **dict.fromkeys(("fp16", "float16", "half"), "float16"),
    "tf32": "tf32",
    **dict.fromkeys(("fp32", "float32", "float"), "float32"),
}
# The arguments of torch.nn's modules in order. A layer's bias changes nothing here: layers have none.
CONV = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias")
TRANSPOSED = (*CONV[:5], "output_padding", "groups", "bias", "dilation")
# The names of the operators without underscores, each with the letters that its weight varies over, and whether it is
# transposed.
OPERATORS = {
    name.replace("_", ""): (name, letters, number == 1)
    for letters, names in FUNCTIONS.items()
    for number, name in enumerate(names)
}
TEXT = re.compile(r"\s*(?P<call>.+)\s+at\s+(?P<size>\d+(?:\s*x\s*\d+)+),?\s+(?P<dtype>\w+)\s*", re.IGNORECASE)


class OwnLayer(NamedTuple):
    """A layer and the dtype of its operands, as the benchmark calls it."""

    layer: Layer
    dtype: str


def parse(text: str) -> OwnLayer:
    """Return the layer that `text` describes. Raise ValueError if it describes none, with an example."""
    try:
        found = TEXT.fullmatch(text)
        if found is None:
            raise ValueError('there is no layer "at" a size and a dtype')
        call, dtype = found["call"].strip(), DTYPES.get(found["dtype"].lower())
        if dtype is None:
            raise ValueError(f"no such dtype: {found['dtype']}; there are {', '.join(DTYPES)}")
        operator, letters, transposed, given = parsed_call(call)
        size = [int(extent) for extent in found["size"].lower().split("x")]
        if len(size) != 4 or 0 in size:
            raise ValueError(f"the size {found['size']} is no batch x channels x height x width")
        case = case_of(f"{call} at {'x'.join(map(str, size))}", letters, transposed, given, size)
        layer = Layer(case, operator, "own")
        layer.geometry  # noqa: B018  (raises torch's error if torch refuses these arguments)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f'"{text}" is no layer: {error}. Write for example "{EXAMPLE}"') from None
    return OwnLayer(layer, dtype)


def parsed_call(text: str) -> tuple[str, str, bool, dict[str, Any]]:
    """Return the operator's name, the letters that its weight varies over, whether it is transposed, and its arguments.

    Raise ValueError if `text` is no call of a known operator with literal arguments.
    """
    try:
        call = ast.parse(text, mode="eval").body
    except SyntaxError:
        raise ValueError(f"{text} is no call") from None
    if not isinstance(call, ast.Call):
        raise ValueError(f"{text} is no call")
    name = ast.unparse(call.func)
    known = OPERATORS.get(name.rpartition(".")[2].lower().replace("_", ""))
    if known is None:
        raise ValueError(f"no such layer: {name}; there are {', '.join(name for name, *_ in OPERATORS.values())}")
    names = TRANSPOSED if known[2] else CONV
    if len(call.args) > len(names):
        raise ValueError(f"{name} takes at most {len(names)} arguments")
    given = list(zip(names, call.args, strict=False)) + [(str(each.arg), each.value) for each in call.keywords]
    arguments: dict[str, Any] = {}
    for argument, value in given:
        if argument not in names:
            raise ValueError(f"{name} takes no {argument}; it takes {', '.join(names)}")
        if argument in arguments:
            raise ValueError(f"{argument} is given twice")
        try:
            arguments[argument] = ast.literal_eval(value)
        except (ValueError, TypeError):
            raise ValueError(f"{argument}={ast.unparse(value)} is no number") from None
    if missing := [each for each in names[:3] if each not in arguments]:
        raise ValueError(f"{name} lacks {' and '.join(missing)}")
    return *known, arguments


def case_of(name: str, letters: str, transposed: bool, given: dict[str, Any], size: list[int]) -> Case:
    """Return the case of these arguments with an input of `size`. Raise ValueError if they do not fit together."""
    numbers: dict[str, Any] = {
        key: value if key == "padding" and isinstance(value, str) else integers(key, value)
        for key, value in given.items()
        if key != "bias"
    }
    into, out, kernel = numbers.pop("in_channels"), numbers.pop("out_channels"), numbers.pop("kernel_size")
    groups = numbers.get("groups", 1)
    if not all(isinstance(number, int) for number in (into, out, groups)):
        raise ValueError("in_channels, out_channels and groups are one number each")
    if size[1] != into:
        raise ValueError(f"its input has {size[1]} channels, but in_channels is {into}")
    if min(into, out, groups) < 1 or into % groups or out % groups:
        raise ValueError(f"{into} and {out} channels can not be divided into {groups} groups")
    return Case(
        name,
        batch=size[0],
        channels=(into, out),
        size=(size[2], size[3]),
        kernel=kernel if isinstance(kernel, tuple) else (kernel, kernel),
        transposed=transposed,
        varies=letters,
        bias=False,
        x="channels_last",
        weight="channels_last",
        **numbers,
    )


def integers(name: str, value: Any) -> int | tuple[int, int]:
    """Return an integer, or a pair of integers. A pair of equal numbers becomes one. Raise ValueError for others."""
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2 or not all(type(number) is int for number in pair):
        raise ValueError(f"{name}={value!r} is no integer and no pair of integers")
    first, second = pair
    return first if first == second else (first, second)
