"""What a contender is not asked to do, because it would take a device too long or need too much memory."""

from math import prod

from bench.layers import Layer
from bench.run.contenders import Pass
from bench.run.roof import patch_bytes

# On a CPU, a contender that stores patches is skipped if it needs more bytes of memory than this, and a loop over
# positions if autograd writes more bytes in it. Either then takes more than a few seconds.
MOST_BYTES = 4_000_000_000
# On a GPU, a loop over more positions than this is skipped. Each position starts several kernels, in dozens of runs.
MOST_POSITIONS = 256


def takes_too_long(contender: str, layer: Layer) -> str | None:
    """Why a layer takes a GPU too long if this contender computes it; None if it does not."""
    positions = layer.geometry.P * layer.geometry.Q
    if contender == "loop" and layer.family == "local" and positions > MOST_POSITIONS:
        return f"a loop over {positions} positions takes too long; at most {MOST_POSITIONS} on a GPU"
    return None


def needs_too_much(contender: str, layer: Layer, of: Pass, itemsize: int) -> str | None:
    """Why a pass of a layer is too much for a CPU if this contender computes it; None if it is not.

    Contenders that unfold the image store patches: every pixel once for each filter tap. A step stores the gradient of
    the patches too. In a loop over positions, autograd writes a gradient of the size of the whole weight for each
    position.
    """
    geometry = layer.geometry
    if unfolds(contender, layer):
        patches = patch_bytes("fprop", geometry, itemsize) * (2 if of == "step" else 1)
        memory = patches + geometry.minimal_bytes(itemsize)
        if memory > MOST_BYTES:
            return f"stores {gigabytes(memory)} GB of patches and operands; at most {gigabytes(MOST_BYTES)} GB on a CPU"
    if contender == "loop" and of == "step" and layer.family == "local":
        written = geometry.P * geometry.Q * itemsize * prod(geometry.weight_shape)
        if written > MOST_BYTES:
            return (
                f"autograd writes {gigabytes(written)} GB, the weight's gradient once for each position; "
                f"at most {gigabytes(MOST_BYTES)} GB on a CPU"
            )
    return None


def unfolds(contender: str, layer: Layer) -> bool:
    """Whether a contender stores the patches of the image. `grouped` does so for local layers only."""
    return contender in ("reference", "unfold-compile") or (contender == "grouped" and layer.geometry.per_location)


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g}"
