"""Which sizes the kernels do not count in 32 bits, so that dispatch refuses them, up to the last that they count."""

import pytest

from tests.support.plans import call_of, meta_factors
from tritonconv import dispatch
from tritonconv.call import Call
from tritonconv.dispatch import why_not
from tritonconv.geometry import ConvGeometry, Operator


@pytest.fixture(autouse=True)
def any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_why_not_device", lambda _: None)


def call_of_size(geometry: ConvGeometry, operator: Operator = "fprop") -> Call:
    """Return a call on operands without data."""
    return call_of(operator, geometry, meta_factors(geometry))


INDICES = "the kernels' 32-bit indices, which must stay below 2^31 - 2^16"
TOO_FAR = "a stride, dilation or padding is 2^15 or more"
COUNTED = 2**31 - 2**16


def too_many_programs(operator: str) -> str:
    return f"{operator} would launch 2^31 programs or more, which a GPU can not"


SAMPLING = ("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w")
SMALL = dict(B=1, C=1, H=8, W=8, F=1, P=1, Q=1, R=1, S=1)
PIXEL = SMALL | dict(H=1, W=1)


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        *(({name: 2**15}, TOO_FAR) for name in SAMPLING),
        (dict(stride_h=30_000, stride_w=30_000, C=64), too_many_programs("dgrad")),
        (dict(B=192, H=1, W=1, stride_h=2**15 - 1, stride_w=2**15 - 1), too_many_programs("dgrad")),
        (
            dict(F=2**31 - 2**15, G=2**30 - 2**14, C=2**30 - 2**14, W=1),
            f"2147450880 channels are too many for {INDICES}",
        ),
        (dict(C=2**31, G=2**30, F=2**30, W=1), f"2147483648 channels are too many for {INDICES}"),
        (PIXEL | dict(C=COUNTED, F=COUNTED, G=COUNTED), f"{COUNTED} channels are too many for {INDICES}"),
        (dict(H=2**31 - 2000, W=1, pad_h=2**15 - 1), f"the padded image, 2147514415 x 1, is too large for {INDICES}"),
        (dict(H=COUNTED - 9, W=1, pad_h=9), f"the padded image, {COUNTED} x 1, is too large for {INDICES}"),
        (dict(W=COUNTED - 9, H=1, pad_w=9), f"the padded image, 1 x {COUNTED}, is too large for {INDICES}"),
        (dict(R=131_076, dilation_h=2**14), f"the padded image, 2147549184 x 8, is too large for {INDICES}"),
        (
            dict(W=2**31 - 2**17, H=1, dilation_w=2**14, S=131_076),
            f"the padded image, 1 x 2147549184, is too large for {INDICES}",
        ),
        (dict(H=9, P=2**17, stride_h=2**14), f"the padded image, 2147467265 x 8, is too large for {INDICES}"),
        (dict(W=9, Q=2**17, stride_w=2**14), f"the padded image, 8 x 2147467265, is too large for {INDICES}"),
        (dict(B=2**16, P=2**15), f"the matrix product of fprop, {2**31} x 1 x 1, is too large for {INDICES}"),
        (PIXEL | dict(B=COUNTED), f"the matrix product of fprop, {COUNTED} x 1 x 1, is too large for {INDICES}"),
        (dict(C=2**15, R=2**16), f"the matrix product of fprop, 1 x 1 x {2**31}, is too large for {INDICES}"),
        (dict(F=2**15, R=2**16), f"the matrix product of dgrad, 64 x 1 x {2**31}, is too large for {INDICES}"),
        (PIXEL | dict(B=63, P=2**15, Q=2**14 + 1, varies="p q"), too_many_programs("fprop")),
        (PIXEL | dict(P=2**16, Q=2**15, varies="p q"), too_many_programs("fprop")),
        (PIXEL | dict(B=2**27, F=2**14), too_many_programs("fprop")),
    ],
)
def test_what_32_bits_do_not_count_is_refused(sizes: dict[str, int], reason: str) -> None:
    assert why_not("triton", call_of_size(ConvGeometry(**(SMALL | sizes)))) == reason


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        *({name: 2**15 - 1} for name in SAMPLING),
        PIXEL | dict(C=COUNTED - 1, F=COUNTED - 1, G=COUNTED - 1),
        dict(H=COUNTED - 9, W=1, pad_h=8),
        dict(W=COUNTED - 9, H=1, pad_w=8),
        PIXEL | dict(R=2**17 - 5, dilation_h=2**14, P=2**10),
        PIXEL | dict(P=2**17 - 4, stride_h=2**14),
        PIXEL | dict(B=COUNTED - 1),
        PIXEL | dict(C=2**15 - 1, R=2**16 - 1),
        PIXEL | dict(P=2**16, Q=2**15 - 1, varies="p q"),
        PIXEL | dict(B=15, P=2**16, Q=2**15 - 1, varies="p q"),
        PIXEL | dict(B=2**27, F=2**13),
    ],
)
def test_what_32_bits_count_is_not_refused(sizes: dict[str, int]) -> None:
    """These are as large as can be, or nearly."""
    assert why_not("triton", call_of_size(ConvGeometry(**(SMALL | sizes)))) is None


def test_too_many_positions_are_refused() -> None:
    """All operators refuse, so that no training step fails halfway. Here the image has too many pixels for dgrad."""
    huge = ConvGeometry(B=2**20, C=1, H=64, W=64, F=1, P=1, Q=1, R=1, S=1)
    for operator in ("fprop", "dgrad", "wgrad"):
        reason = str(why_not("triton", call_of_size(huge, operator)))
        assert "dgrad, 4294967296 x 1 x 1, is too large for" in reason
