"""Why a time is shorter than the roofline allows: each reason on data that can be computed by hand."""

from typing import Any

import pytest

from bench.layers import Layer
from bench.report import above_roof, tables
from bench.report.above_roof import inside, why
from bench.results import Results, Row
from tests.bench.made_up import a_gpu_s_row, by_hand, compared
from tests.support.cases import Case
from tritonconv.geometry import ConvGeometry

# Two images of 4 x 4 pixels and 3 x 3 taps with a padding of 1. Along an axis, 4 positions times 3 taps are 12 pairs.
# The first and the last tap leave the image once each. So 10 of 12 are inside, and 100 of 144.
CASE = Case("tiny", batch=2, channels=(8, 16), size=(4, 4), padding=1, bias=False)
INSIDE = 100 / 144
# In bytes of bfloat16.
IMAGE, WEIGHT, FEATURES = 2 * 2 * 8 * 16, 2 * 16 * 8 * 9, 2 * 2 * 16 * 16
ALL = IMAGE + WEIGHT + FEATURES


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = {"tiny": Layer(CASE, "conv2d", "made up"), "up": Layer(CASE, "conv2d", "made up")}
    monkeypatch.setattr(above_roof, "known_layers", lambda: layers)


def row(roof: float, bound: str, contender: str = "torch", of: str = "fprop", **more: Any) -> Row:
    operators = 3 if of == "step" else 1
    made = a_gpu_s_row("tiny", "dense 3x3", of, contender, 10.0, 50.0) | {
        "image": [2, 8, 4, 4],
        "bytes": operators * ALL,
    }
    return made | {"roof": roof, "bound": bound, "error_rms": 1e-3, **more}


def run(**more: Any) -> Results:
    """Return a run of a GPU whose record has all that a new one has."""
    found = by_hand()
    found["environment"] |= {"l2_bytes": 1 << 30, **more.pop("environment", {})}
    return found | {"ceilings_from": {"bfloat16": "8 x 8 x 8"}, "ceiling_clocks": {"bfloat16": 1000.0}} | more


def test_what_is_below_its_roof_needs_no_reason() -> None:
    assert why(row(1.0, "arithmetic"), run()) is None
    assert why(row(0.5, "memory"), run()) is None
    assert why(row(0.5, "L2") | {"roof": None}, run()) is None


def test_the_share_of_the_products_in_the_padding() -> None:
    geometry = ConvGeometry(B=1, C=1, H=5, W=1, F=1, P=3, Q=1, R=3, S=1, stride_h=2, pad_h=1)
    # Rows -1 0 1, 1 2 3 and 3 4 5, of which -1 and 5 are outside.
    assert inside(geometry) == pytest.approx(7 / 9)
    dilated = ConvGeometry(B=1, C=1, H=4, W=1, F=1, P=4, Q=1, R=3, S=1, pad_h=2, dilation_h=2)
    # Rows -2 0 2, -1 1 3, 0 2 4 and 1 3 5: eight of twelve are inside.
    assert inside(dilated) == pytest.approx(8 / 12)


def test_products_in_the_padding() -> None:
    """31 % of the products save torch 31 % of the time, so a share of 1.4 is explained and one of 1.5 is not."""
    words = "31 % of the products lie in the padding and need not be computed"
    assert 1.4 * INSIDE < 1 < 1.5 * INSIDE
    known = {"clock_mhz": 1000.0}
    assert why(row(1.4, "arithmetic", **known), run()) == words
    assert why(row(1.5, "arithmetic", **known), run()) == f"{words}; the rest is unexplained"
    assert why(row(1.4, "arithmetic", image=[2, 8, 5, 5], **known), run()) == "unexplained"  # another problem
    for ours in ("triton", "reference"):  # they compute these products
        assert why(row(1.4, "arithmetic", ours, **known), run()) == "unexplained"


@pytest.mark.parametrize(
    ("of", "l2", "share"),
    [
        ("fprop", 1 << 30, FEATURES / ALL),
        ("dgrad", 1 << 30, IMAGE / ALL),
        ("wgrad", 1 << 30, WEIGHT / ALL),
        ("fprop", 100, 100 / ALL),
        # The results of all three operators, and each operand once more: 1 + 1 of 3.
        ("step", 1 << 30, 2 / 3),
        # The cache keeps 100 bytes of results at the end, and 100 bytes between two operators.
        ("step", 100, 300 / (3 * ALL)),
    ],
)
def test_what_stays_in_the_l2_cache(of: str, l2: int, share: float) -> None:
    found = run(environment={"l2_bytes": l2})
    words = f"{above_roof.percent(share)} of the bytes can stay in the L2 cache"
    assert why(row(0.999 / (1 - share), "memory", of=of), found) == words
    assert why(row(1.001 / (1 - share), "memory", of=of), found) == f"{words}; the rest is unexplained"


def test_the_size_of_the_l2_cache_may_be_unknown() -> None:
    found = run(environment={"l2_bytes": None})
    expected = "unexplained (the record lacks the size of the L2 cache)"
    assert why(row(1.1, "memory"), found) == expected


def test_a_higher_clock_than_that_of_the_ceiling() -> None:
    words = "the clock was 10 % higher than while the ceiling was measured"
    assert why(row(1.09, "arithmetic", "triton", clock_mhz=1100.0), run()) == words
    assert why(row(1.11, "arithmetic", "triton", clock_mhz=1100.0), run()) == f"{words}; the rest is unexplained"
    assert why(row(1.09, "arithmetic", "triton", clock_mhz=900.0), run()) == "unexplained"
    # The memory has a clock of its own.
    assert why(row(1.09, "memory", "triton", clock_mhz=1100.0), run(environment={"l2_bytes": 0})) == "unexplained"


def test_an_algorithm_with_fewer_products() -> None:
    """It is known by an error of at least twice ours, and not by one of 1.9 times."""
    ours = row(0.9, "arithmetic", "triton")
    theirs = row(2.0, "arithmetic", clock_mhz=1000.0)
    said = why(theirs | {"error_rms": 2.5e-3}, run(), ours)
    assert said is not None
    assert said.endswith("its error is 2.5 times ours, so its algorithm may take fewer products, as Winograd's does")
    assert "unexplained" in str(why(theirs | {"error_rms": 1.9e-3}, run(), ours))
    assert "unexplained" in str(why(theirs | {"error_rms": 2.5e-3}, run()))


def test_fewer_products_save_no_bytes() -> None:
    theirs, without_l2 = row(1.2, "memory") | {"error_rms": 1.0}, run(environment={"l2_bytes": 0})
    assert why(theirs, without_l2, row(0.9, "memory", "triton")) == "unexplained"


def test_the_clock_at_the_ceiling_of_another_run_is_no_reason() -> None:
    """Of several runs, only the last one's ceiling and its clock are known."""
    now = run()
    fast = row(1.09, "arithmetic", "triton", clock_mhz=1100.0)
    assert "unexplained" not in str(why(fast | {"measured": [f"{now['environment']['date']} 2"]}, now))
    assert why(fast | {"measured": ["2020-01-01 1"]}, now) == "unexplained"


def test_the_caches_of_a_cpu_are_warm() -> None:
    found = run(environment={"gpu": None, "cpu": "x"})
    assert str(why(row(1.1, "memory"), found)).startswith("the caches of a CPU are not cold")


def test_older_records_lack_what_could_explain_a_time() -> None:
    older = {name: value for name, value in run().items() if not name.startswith("ceiling") or name == "ceilings"}
    assert why(row(1.1, "arithmetic", "triton"), older) == (
        "unexplained (the record lacks the clock and ceilings of several copies and products)"
    )


def test_the_report_says_why_for_each_time() -> None:
    found = by_hand()
    found["rows"] = [each | {"roof": 1.1 if each["contender"] == "torch" else 0.9} for each in found["rows"]]
    found["rows"] = [each | {"bound": "L2", "clock_mhz": 1.0} for each in found["rows"]]
    line = (
        "- torch a fprop 110 %, torch b fprop 110 %, torch a wgrad 110 %, torch c fprop 110 %: unexplained (the record"
    )
    assert line in tables.report(found)
    assert above_roof.listed_reasons(found, compared(found)).startswith("Above the roofline, and why:")
    assert len(above_roof.reasons(found, compared(found))) == 4
    assert "Above the roofline" not in tables.report(by_hand())
