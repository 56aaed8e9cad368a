"""A bias: over which letters it varies, and how it lies beside a result of N channels.

| shape | letters | varies over |
|---|---|---|
| (N,) | "" | channels alone |
| (B, N) | "b" | and samples |
| (N, h, w) | "p q" | and pixels of the result |
| (B, N, h, w) | "b p q" | and both |
"""

from collections.abc import Sequence

from torch import Tensor

# By the number of dimensions.
LETTERS = {1: "", 2: "b", 3: "p q", 4: "b p q"}


def letters_of(bias: Tensor) -> str:
    """Over which letters the bias varies. Raises ValueError where its shape is none of the above."""
    if bias.ndim not in LETTERS:
        raise ValueError(f"a bias has 1 to 4 dimensions, but got one of shape {list(bias.shape)}")
    return LETTERS[bias.ndim]


def shape_beside(result: Sequence[int], letters: str) -> tuple[int, ...]:
    """The shape of a bias that varies over `letters`, and is added to a result of shape (B, N, h, w)."""
    B, N, *pixels = result
    return (*[B] * ("b" in letters), N, *(pixels if "p" in letters else ()))


def broadcastable(bias: Tensor) -> Tensor:
    """The bias as it is added to a result (B, N, h, w)."""
    return bias if "p" in letters_of(bias) else bias[..., None, None]


def sum_for(letters: str, gradient: Tensor) -> Tensor:
    """The gradient of a bias that varies over `letters`, from the gradient (B, N, h, w) of what it was added to."""
    shared = [0] * ("b" not in letters) + [2, 3] * ("p" not in letters)
    return gradient.sum(shared) if shared else gradient
