"""`torch.nn.functional.fold` for all tensors that torch's convolutions take: also integers and no channels."""

from torch import Tensor
from torch.nn import functional

from tritonconv.reference.torch_rules.checks import Pair


def torch_fold(columns: Tensor, size: Pair, taps: Pair, dilation: Pair, stride: Pair) -> Tensor:
    """Return `torch.nn.functional.fold(columns, size, taps, dilation, 0, stride)`.

    torch's function refuses integers and images without channels. For these, the pixels that one tap sees are added to
    the image, tap after tap.

    Args:
        columns: patches of shape (B, C*R*S, P*Q).
        size: (H, W), the rows and columns of the result, which the patches fill.
        taps, dilation, stride: pairs (rows, columns), as in `reference.functional.fold`.

    Returns:
        Images of shape (B, C, H, W).
    """
    if 0 not in columns.shape[1:] and (columns.is_floating_point() or columns.is_complex()):
        return functional.fold(columns, size, taps, dilation, stride=stride)
    (R, S), (B, rows, _) = taps, columns.shape
    P, Q = ((size[i] - (taps[i] - 1) * dilation[i] - 1) // stride[i] + 1 for i in (0, 1))
    patches = columns.view(B, rows // (R * S), R, S, P, Q)
    image = columns.new_zeros(B, rows // (R * S), *size)
    for r in range(R):
        for s in range(S):
            seen = image[:, :, r * dilation[0] :: stride[0], s * dilation[1] :: stride[1]][:, :, :P, :Q]
            seen += patches[:, :, r, s]
    return image
