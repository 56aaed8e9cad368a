"""The shapes of a bias: the letters that it varies over, and how it is added to a result of N channels.

| shape | letters | varies over |
|---|---|---|
| (N,) | "" | channels alone |
| (B, N) | "b" | and samples |
| (N, h, w) | "p q" | and pixels of the result |
| (B, N, h, w) | "b p q" | and both |
"""

from collections.abc import Sequence

from torch import Tensor

# The letters, by the number of the bias's dimensions.
LETTERS = {1: "", 2: "b", 3: "p q", 4: "b p q"}


def letters_of(bias: Tensor) -> str:
    """Return the letters that the bias varies over. Raises ValueError for a shape that is not in the table above."""
    if bias.ndim not in LETTERS:
        raise ValueError(f"a bias has 1 to 4 dimensions, but got one of shape {list(bias.shape)}")
    return LETTERS[bias.ndim]


def shape_beside(result: Sequence[int], letters: str) -> tuple[int, ...]:
    """Return the shape of a bias that varies over `letters`, for a result of shape (B, N, h, w)."""
    B, N, *pixels = result
    return (*[B] * ("b" in letters), N, *(pixels if "p" in letters else ()))


def broadcastable(bias: Tensor) -> Tensor:
    """Return the bias in a shape that can be broadcast to a result (B, N, h, w)."""
    return bias if "p" in letters_of(bias) else bias[..., None, None]


def sum_for(letters: str, gradient: Tensor) -> Tensor:
    """Return the gradient of a bias that varies over `letters`, from the gradient (B, N, h, w) of the result."""
    shared = [0] * ("b" not in letters) + [2, 3] * ("p" not in letters)
    return gradient.sum(shared) if shared else gradient
