"""Reads a layer of one's own from text, for example "conv2d(64, 128, 3, stride=2, padding=1) at 8x64x56x56 bf16".

The call has the arguments of torch.nn, in their order or by their names. After "at" stands the size of the input, and
then the dtype.
"""

import ast
import re
from typing import Any

from bench.layers import VARIES, Layer
from tests.support.cases import Case

EXAMPLE = "conv2d(64, 128, 3, stride=2, padding=1) at 8x64x56x56 bf16"
# The arguments of each operator in the order of torch.nn. A bias is allowed, and has no effect on the layer.
_FIRST = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
ARGUMENTS = {
    False: (*_FIRST, "dilation", "groups", "bias"),
    True: (*_FIRST, "output_padding", "groups", "bias", "dilation"),
}
# Short and long names of dtypes, and the benchmark's names for them.
DTYPES = {
    **dict.fromkeys(("bf16", "bfloat16"), "bfloat16"),
    **dict.fromkeys(("fp16", "float16", "half"), "float16"),
    "tf32": "tf32",
    **dict.fromkeys(("fp32", "float32", "float"), "float32"),
}

_TEXT = re.compile(r"\s*([\w.]+)\s*(\(.*\))\s*at\s+(\d+(?:\s*x\s*\d+)*)\s+(\w+)\s*", re.IGNORECASE)


def own_layer(text: str) -> tuple[Layer, str]:
    """Return the layer that `text` describes, in channels_last and without a bias, and its dtype.

    Raise ValueError with an example if the text cannot be read, or if torch refuses such a layer.
    """
    try:
        return _read(text)
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f'"{text}" is no layer: {error}. An example: "{EXAMPLE}"') from error


def _read(text: str) -> tuple[Layer, str]:
    found = _TEXT.fullmatch(text)
    if not found:
        raise ValueError("it needs a call, the word at, the input's size and a dtype")
    name, call, size, dtype = found.groups()
    if dtype.lower() not in DTYPES:
        raise ValueError(f"there is no dtype {dtype}; there are {', '.join(DTYPES)}")
    input_shape = [int(extent) for extent in re.split(r"\s*x\s*", size.lower())]
    if len(input_shape) != 4:
        raise ValueError(f"the input's size is batch x channels x height x width, not {size}")
    operator = operator_named(name)
    given = arguments(call, transposed="transpose" in operator)
    into, out, kernel = (given.pop(one) for one in _FIRST[:3])
    given.pop("bias", None)
    if into != input_shape[1]:
        raise ValueError(f"in_channels is {into}, but the input has {input_shape[1]} channels")
    rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
    case = Case(
        text.strip(),
        batch=input_shape[0],
        channels=(into, out),
        size=(input_shape[2], input_shape[3]),
        kernel=(rows, columns),
        **given,
        transposed="transpose" in operator,
        varies=VARIES[operator],
        bias=False,
        x="channels_last",
        weight="channels_last",
    )
    _ = case.geometry  # raises torch's error
    return Layer(case, operator, "own"), DTYPES[dtype.lower()]


def operator_named(name: str) -> str:
    """Return the operator with this name: that of a function or of a module, such as conv2d, Conv2d or nn.Conv2d."""
    known = {operator.replace("_", ""): operator for operator in VARIES}
    short = name.rpartition(".")[2].replace("_", "").lower()
    if short not in known:
        raise ValueError(f"there is no operator {name}; there are {', '.join(VARIES)}")
    return known[short]


def arguments(call: str, transposed: bool) -> dict[str, Any]:
    """Return the arguments of a call, "(...)", by the names of torch.nn: ints, pairs of ints, or a text for padding."""
    names = ARGUMENTS[transposed]
    try:
        tree = ast.parse(f"f{call}", mode="eval").body
        if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
            raise ValueError
        placed = [ast.literal_eval(value) for value in tree.args]
        named = {each.arg or "**": ast.literal_eval(each.value) for each in tree.keywords}
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"the arguments {call} are no list of numbers and names") from error
    if unknown := [name for name in named if name not in names]:
        raise ValueError(f"there is no argument {', '.join(unknown)}; there are {', '.join(names)}")
    if len(placed) > len(names):
        raise ValueError(f"there are {len(placed)} arguments without a name, and at most {len(names)}")
    given = dict(zip(names, placed, strict=False))
    if twice := sorted(set(given) & set(named)):
        raise ValueError(f"{', '.join(twice)} stands twice")
    given |= named
    if missing := [name for name in names[:3] if name not in given]:
        raise ValueError(f"{', '.join(missing)} is missing")
    return {name: checked(name, value) for name, value in given.items()}


def checked(name: str, value: Any) -> Any:
    """Return an argument: an int, or a pair that is an int if both are equal. Raise ValueError for anything else."""
    if name == "bias" or (name == "padding" and isinstance(value, str)):
        return value
    least = 0 if "padding" in name else 1
    many = [value] if type(value) is int else list(value) if isinstance(value, tuple | list) else []
    single = ("in_channels", "out_channels", "groups")
    if len(many) not in ((1,) if name in single else (1, 2)) or any(type(one) is not int for one in many):
        what = "an int" if name in single else "an int or a pair of ints"
        raise ValueError(f"{name} must be {what}, not {value!r}")
    if min(many) < least:
        raise ValueError(f"{name} must be at least {least}, not {value!r}")
    return many[0] if len(set(many)) == 1 else tuple(many)
