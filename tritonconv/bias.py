"""The shapes of a bias: the letters that it varies over, and how it is added to a result of N channels.

| shape | letters | varies over |
|---|---|---|
| (N,) | "" | channels alone |
| (B, N) | "b" | channels and samples |
| (N, h, w) | "p q" | channels and pixels of the result |
| (B, N, h, w) | "b p q" | channels, samples and pixels of the result |
"""

from collections.abc import Sequence

from torch import Tensor

# The letters, by the number of the bias's dimensions.
LETTERS = {1: "", 2: "b", 3: "p q", 4: "b p q"}

# The axes of a result (B, N, h, w) over which a bias does not vary, by the letters of the bias.
_SHARED_AXES = {each: (0,) * ("b" not in each) + (2, 3) * ("p" not in each) for each in LETTERS.values()}


def letters_of(bias: Tensor) -> str:
    """Return the letters that the bias varies over. Raise ValueError if it does not have 1 to 4 dimensions."""
    if bias.ndim not in LETTERS:
        raise ValueError(f"a bias has 1 to 4 dimensions, but got one of shape {list(bias.shape)}")
    return LETTERS[bias.ndim]


def shape_beside(result: Sequence[int], letters: str) -> tuple[int, ...]:
    """Return the shape of a bias that varies over `letters`, for a result of shape (B, N, h, w)."""
    B, N, *pixels = result
    return (*[B] * ("b" in letters), N, *(pixels if "p" in letters else ()))


def broadcastable(bias: Tensor) -> Tensor:
    """Return the bias, or a view of it, in a shape that can be broadcast to a result (B, N, h, w)."""
    return bias if "p" in letters_of(bias) else bias[..., None, None]


def sum_for(letters: str, gradient: Tensor) -> Tensor:
    """Return the gradient of a bias that varies over `letters`, from the gradient (B, N, h, w) of the result.

    It is summed over samples unless `letters` has "b", and over pixels unless `letters` has "p q". If it has all, the
    gradient is returned unchanged.
    """
    shared = _SHARED_AXES[letters]
    return gradient.sum(shared) if shared else gradient
