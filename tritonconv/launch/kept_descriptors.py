"""TMA descriptors that the host has filled, one for each address, and launchers that take these.

All of this is private to Triton. `runtime.PROVEN` has the versions for which it is tested.
"""

from collections.abc import Callable, Sequence
from copy import copy
from functools import lru_cache
from inspect import getclosurevars, signature
from types import SimpleNamespace
from typing import Any, NamedTuple

from tritonconv.launch.descriptors import HostDescriptor

# How many descriptors are kept for each descriptor argument of a launch of a plan. When there would be more, the least
# recently used one is freed. It should exceed the number of equal layers in a model, which use the same plan.
KEPT_DESCRIPTORS = 128


def layouts_of(compiled: Any) -> Sequence[Any]:
    """Return what Triton's compiler has chosen for each descriptor that a kernel takes: its swizzle, for example."""
    return getattr(compiled.metadata, "tensordesc_meta", None) or ()


class Address(NamedTuple):
    """Stands for a tensor at this address, where Triton asks only for that."""

    address: int

    def data_ptr(self) -> int:
        return self.address


def filled_descriptors(descriptor: HostDescriptor, layout: Any) -> Callable[[int], Any]:
    """Return a function that fills the descriptor of a tensor at an address: the 128 bytes that TMA reads.

    The function returns Triton's object for them. It keeps the objects of the KEPT_DESCRIPTORS addresses that were used
    last. `layout` is that of `layouts_of`.
    """
    from triton.backends.nvidia import driver

    make = driver.make_tensordesc_arg
    # Triton 3.8 and newer take a third argument, which they do not use.
    rest = [layout, None][: len(signature(make).parameters) - 1]

    def filled(address: int) -> Any:
        described = SimpleNamespace(
            base=Address(address),
            shape=descriptor.shape,
            strides=descriptor.strides,
            padding="zero",
            round_f32_to_tf32=False,
        )
        return make(described, *rest)[0]

    return lru_cache(KEPT_DESCRIPTORS)(filled)


def wrapped(launcher: Any) -> Any:
    """Return the function that launches filled descriptors, around which Triton has wrapped `launcher.launch`.

    That function fills every descriptor anew at each launch. Return None if something else is there, for example what a
    profiler has put in its place.
    """
    try:
        return getclosurevars(launcher.launch).nonlocals.get("launcher")
    except (AttributeError, TypeError):
        return None


def without_filling(launcher: Any) -> Any:
    """Return a copy of a launcher that takes descriptors which are filled, as `launchers.launcher_arguments` lays them.

    `wrapped` must have found the function that the copy calls.
    """
    bare = copy(launcher)
    bare.launch = wrapped(launcher)
    return bare
