"""Triton's interpreter without the work that it repeats: the same numbers sooner, for the tests.

- Triton's own looks up and replaces the members of its language for each jit function that is called. Here they are
  looked up once in a process, replaced once for a launch, and put back after it.
- Triton's own computes each sum, difference and product of integers a second time in 64 bits, to find overflows. It
  drops the answer outside debug mode. Here it does not compute it.
- Triton's own looks for casts and broadcasts in each operation. Here the types of the operands are compared first.
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
    """What Triton's interpreter puts in the place of members of Triton's language, as `patch_lang` of Triton says."""

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
        """Triton calls this for each launch, and for each jit function in it, where there is nothing left to do."""
        if not self.entered:
            self.entered = True
            for (owner, name), member in self.during.items():
                setattr(owner, name, member)
        return self

    def restore(self) -> None:
        """Triton calls this at the end of each launch."""
        for (owner, name), member in self.before.items():
            if member is self.missing:
                delattr(owner, name)
            else:
                setattr(owner, name, member)
        self.entered = False


def looked_up_once(np_dtype_of: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """numpy's dtype for a type of Triton's, which depends on its scalars only."""
    kept: dict[str, Any] = {}

    def found(dtype: Any) -> Any:
        scalar = dtype.scalar
        name = scalar.name
        if name not in kept:
            kept[name] = np_dtype_of(scalar)
        return kept[name]

    return found


def equal_types_first(checked: Callable[..., Any]) -> Callable[..., Any]:
    """How Triton makes two operands agree: there is nothing to do for numbers of one type and blocks of one shape."""
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
    """What is set where in Triton's interpreter, for Triton's own and for the quick one."""
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
    """Within this block kernels that are interpreted run in Triton's own interpreter or in the quick one."""
    if not interpreted():
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for owner, name, value in settings()[kind]:
            patch.setattr(owner, name, value)
        yield
