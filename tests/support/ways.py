"""Which way calls take: the fast path or the long way. Nothing here changes what they compute."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tritonconv.fast_path import backward, forward, function


@dataclass
class Repeated:
    """How many passes have repeated kept plans, forward and backward."""

    forward: int = 0
    backward: int = 0


@contextmanager
def repeated() -> Iterator[Repeated]:
    """Count, within this block, the passes that take the fast path."""
    count, repeat, gradients = Repeated(), function.repeat, backward.gradients

    def counted_repeat(*arguments: Any) -> Any:
        count.forward += 1
        return repeat(*arguments)

    def counted_gradients(*arguments: Any) -> Any:
        found = gradients(*arguments)
        count.backward += found is not None
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(function, "repeat", counted_repeat)
        patch.setattr(forward, "repeat", counted_repeat)
        patch.setattr(backward, "gradients", counted_gradients)
        yield count


@contextmanager
def noted_long_ways() -> Iterator[list[str]]:
    """Note, within this block, what goes the long way: "forward" for a call, "backward" for gradients of a fast call.

    What `torch.compile` traces is not noted.
    """
    noted: list[str] = []

    def noting(way: Callable[..., Any], what: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if not torch.compiler.is_compiling():
                noted.append(what)
            return way(*arguments)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "checked_and_computed", noting(forward.checked_and_computed, "forward"))
        patch.setattr(function, "pull_back", noting(function.pull_back, "backward"))
        yield noted


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Let all calls within this block go the long way, and keep none of them."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (forward, function):
            patch.setattr(module, "is_plain", lambda *_: False)
        yield
