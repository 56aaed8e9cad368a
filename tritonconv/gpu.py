"""What is known of GPUs: by compute capability, what a block and a multiprocessor have, and what they do in a cycle.

To add an architecture, add its compute capability to `SHARED_BYTES` and `RATES`, and to `tiling/fits.py` if its threads
hold more accumulators than others'. Sources stand beside the numbers. Measured tiles of one GPU are a file in
`tiling/measured_tiles/`, which `python -m bench tune` writes.
"""

from dataclasses import dataclass

# Bytes of shared memory that one block may hold, by compute capability (CUDA C++ programming guide).
SHARED_BYTES = {80: 166_912, 86: 101_376, 87: 166_912, 89: 101_376, 90: 232_448, 100: 232_448, 103: 232_448}
# Registers of a multiprocessor.
REGISTERS = 65_536
# Instructions that a multiprocessor starts in a cycle, one for each of its four schedulers.
ISSUES = 4
# The least compute capability whose hardware copies whole blocks between global and shared memory (TMA).
COPIES_BLOCKS = 90


@dataclass(frozen=True, slots=True)
class Gpu:
    """What choosing a tile needs to know of a GPU.

    `capability` is 90 for sm_90 and 0 for AMD; `shared_bytes` is what one block may hold; `name` is what its maker
    calls it, by which its measured tiles are found.
    """

    capability: int
    multiprocessors: int
    shared_bytes: int
    name: str = ""

    @classmethod
    def of(cls, capability: int, multiprocessors: int, name: str = "") -> "Gpu":
        """The device with the shared memory that its capability is known for, or the least of any sm_80 and newer."""
        return cls(capability, multiprocessors, SHARED_BYTES.get(capability, 101_376 if capability else 65_536), name)


# Triton's interpreter spends its time per operation, not per element, and has no shared memory to run out of.
INTERPRETER = Gpu(capability=-1, multiprocessors=1, shared_bytes=1 << 40)


@dataclass(frozen=True)
class Rates:
    """What one multiprocessor does in one cycle: products, by how they are formed, and bytes, by where they come from.

    `copied_products` says that the products' operands may stay in shared memory (WGMMA, tcgen05), and need no
    instructions of their own to get there.
    """

    half: int
    tf32: int
    float32: int
    l2_bytes: float
    memory_bytes: float
    copied_products: bool = False


# Products: the makers' architecture papers, as in bench/lowering/chips.py. Memory: the bandwidth in their data sheets,
# by multiprocessors and clock (A100 2.0 TB/s, RTX 6000 Ada 1.0, between the H100's 3.4 and the H200's 4.8, B200 8.0,
# RTX PRO 6000 1.8, MI300X 5.3). L2: 5,120 bytes per cycle by the A100's paper; fitted for an H200; an estimate for a
# B200, and half of it where there is GDDR; 17 TB/s for the MI300X, by its paper.
RATES = {
    80: Rates(1024, 512, 64, 47, 13),
    89: Rates(512, 256, 128, 20, 2.7),
    90: Rates(2048, 1024, 128, 50, 16, copied_products=True),
    100: Rates(4096, 2048, 128, 39, 29, copied_products=True),
    120: Rates(512, 256, 128, 20, 3.6),
    0: Rates(1024, 512, 128, 27, 8),
}


def rates_of(device: Gpu) -> Rates:
    """Those of the device's architecture, or of the one before it."""
    return RATES[max(capability for capability in RATES if capability <= max(device.capability, 0))]
