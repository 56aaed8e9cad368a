"""Threads that take turns often."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def many_switches() -> Iterator[None]:
    """Let Python switch between threads as often as it can, within this block."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
