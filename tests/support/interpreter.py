"""A quicker variant of Triton's interpreter for the tests. It skips repeated work and gives the same bits.

- Triton's interpreter looks up and replaces the members of `triton.language` for every call of a jit function. The
  quick one looks them up once in a process, replaces them once in a launch, and restores them after it.
- Triton's interpreter repeats each integer sum, difference and product in 64 bits, to find overflows, and ignores
  the answer outside debug mode. The quick one leaves this out.
- Triton's interpreter looks for casts and broadcasts in every operation. The quick one first compares the types of the
  operands, which mostly agree.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from types import FunctionType
from typing import Any, Literal

import pytest

from tritonconv.runtime import interpreted

Settings = list[tuple[Any, str, Any]]


class Replacements:
    """The members of `triton.language` that the interpreter replaces, before and during a launch.

    They are found by calling Triton's own `_patch_lang` once, on a function that refers to the language.
    """

    def __init__(self, patch_lang: Callable[[Any], Any], missing: object) -> None:
        import triton.language as tl

        assert tl.core.is_builtin(tl.core.load), "a launch of Triton's own interpreter has left its replacements behind"
        sees_the_language = FunctionType((lambda: None).__code__, {"tl": tl, "core": tl.core})
        scope = patch_lang(sees_the_language)
        self.missing = missing
        self.before: dict[tuple[Any, str], Any] = {}
        for owner, name, member in scope._changes:
            self.before.setdefault((owner, name), member)
        self.during = {(owner, name): vars(owner)[name] for owner, name in self.before}
        scope.restore()
        self.entered = False

    def enter(self, _: Any) -> "Replacements":
        """Replace the members, and return self, whose `restore` Triton calls.

        Triton calls this for a launch and for each jit function in it. Only the first of these calls replaces anything.
        """
        if not self.entered:
            self.entered = True
            for (owner, name), member in self.during.items():
                setattr(owner, name, member)
        return self

    def restore(self) -> None:
        """Put the original members back. Triton calls this at the end of each launch."""
        for (owner, name), member in self.before.items():
            if member is self.missing:
                delattr(owner, name)
            else:
                setattr(owner, name, member)
        self.entered = False


def looked_up_once(np_dtype_of: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return `np_dtype_of`, Triton's look-up of numpy dtypes, with a cache by scalar type.

    The answer depends on nothing else.
    """
    kept: dict[str, Any] = {}

    def found(dtype: Any) -> Any:
        scalar = dtype.scalar
        name = scalar.name
        if name not in kept:
            kept[name] = np_dtype_of(scalar)
        return kept[name]

    return found


def equal_types_first(checked: Callable[..., Any]) -> Callable[..., Any]:
    """Return `checked`, Triton's type check of two operands, with a short cut for operands that already agree.

    Two tensors of the same shape and type (int1, int32, int64 or fp32) are returned as they are. All others go to
    `checked`.
    """
    from triton.language import tensor

    def agreed(semantic: Any, left: Any, right: Any, *how: Any, **more: Any) -> Any:
        if type(left) is type(right) is tensor:
            of = left.type
            if of.name == right.type.name and of.scalar.name in ("int1", "int32", "int64", "fp32"):
                return left, right
        return checked(semantic, left, right, *how, **more)

    return agreed


@cache
def settings() -> dict[str, Settings]:
    """Return the attributes to set (owner, name, value) for each kind of interpreter: "own" (Triton's) and "quick"."""
    from triton.runtime import interpreter

    builder, semantic = interpreter.interpreter_builder, type(interpreter.interpreter_semantic)
    own: Settings = [
        (interpreter, "_patch_lang", interpreter._patch_lang),
        (interpreter, "_get_np_dtype", interpreter._get_np_dtype),
        (semantic, "binary_op_type_checking_impl", semantic.binary_op_type_checking_impl),
        (builder, "options", builder.options),
    ]
    assert not builder.options.debug, "Triton checks for overflows now, which the quick interpreter would leave out"
    quick: Settings = [
        (interpreter, "_patch_lang", Replacements(interpreter._patch_lang, interpreter._MISSING).enter),
        (interpreter, "_get_np_dtype", looked_up_once(interpreter._get_np_dtype)),
        (semantic, "binary_op_type_checking_impl", equal_types_first(semantic.binary_op_type_checking_impl)),
        (builder, "options", replace(builder.options, sanitize_overflow=False)),
    ]
    return {"own": own, "quick": quick}


@contextmanager
def interpreting(kind: Literal["own", "quick"] = "quick") -> Iterator[None]:
    """Run interpreted kernels by Triton's own interpreter ("own") or by the quick one, within this block.

    Does nothing where kernels are compiled.
    """
    if not interpreted():
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for owner, name, value in settings()[kind]:
            patch.setattr(owner, name, value)
        yield
