"""Bounds on a kernel that follow from its GPU's data sheet: occupancy and TFLOP/s. Nothing here is measured."""

from math import ceil

from tritonconv.gpu import ARCHITECTURES, Architecture, DataSheet

# The architectures that kernels are compiled for: those with a data sheet, from which bounds follow.
ARCHS = [name for name, row in ARCHITECTURES.items() if row.data_sheet is not None]


def data_sheet(architecture: Architecture) -> DataSheet:
    """Return the data sheet of the architecture's GPU. Raise ValueError if none is known."""
    if architecture.data_sheet is None:
        raise ValueError(f"no data sheet of a GPU is known for {architecture.name}")
    return architecture.data_sheet


def products_of(architecture: Architecture, dtype: str) -> int:
    """Return how many products of `dtype` a multiprocessor forms in one cycle: float32 by FMAs, others on tensor cores.

    Raise ValueError if that number is not known for the architecture.
    """
    if architecture.products is None:
        raise ValueError(f"the products of {architecture.name} are not known")
    half, tf32, float32 = architecture.products
    return {"tf32": tf32, "float32": float32}.get(dtype, half)


def occupancy(architecture: Architecture, registers: int, num_warps: int, shared_bytes: int) -> float:
    """Return the occupancy of a kernel: the share of a multiprocessor's warps that its programs can fill at once.

    Each thread of a program takes `registers`, and the program takes `num_warps` warps and `shared_bytes`.
    """
    there = architecture.multiprocessor
    of_a_warp = ceil(max(registers, 1) * there.lanes / there.register_granule) * there.register_granule
    limits = [there.blocks, there.warps // num_warps, there.registers // of_a_warp // num_warps]
    if there.shared_bytes is not None:
        limits.append(there.shared_bytes // max(1, shared_bytes + there.reserved_bytes))
    return min(limits) * num_warps / there.warps


def bound_tflops(architecture: Architecture, products: int, cycles: float) -> float:
    """Return the TFLOP/s of the data sheet's GPU if each multiprocessor forms `products` in `cycles` and never waits.

    A product is two operations: a multiplication and an addition.
    """
    _, multiprocessors, clock_ghz = data_sheet(architecture)
    return 2 * products * multiprocessors * clock_ghz / cycles / 1e3
