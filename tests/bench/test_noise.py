"""Whether a run says that the machine was busy, by hand-computed spreads."""

from itertools import count

import pytest

from bench import noise


def test_the_spread_is_p80_over_p20() -> None:
    """Of eleven values, the third and the ninth are those percentiles. Extremes do not count."""
    values = [0.001, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1000]
    assert noise.spread(values) == 8 / 2
    assert noise.spread([3.0] * 5) == 1.0


def test_the_spread_of_rows_is_that_of_the_middle_row() -> None:
    """Rows without a time are left out."""
    rows = [{"wall_us": {"p20": 10.0, "p80": 10.0 * factor}} for factor in (1.1, 5.0, 1.3)]
    assert noise.of_rows([*rows, {"status": "skipped"}, {"wall_us": None}]) == 1.3
    assert noise.of_rows([{"status": "skipped"}]) is None


def test_a_pulse_times_products_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """By this clock, products take 1, 3, 5 ... seconds: ten at first, after one that is not timed, and three later."""
    products: list[int] = []
    monkeypatch.setattr(noise.Pulse, "_product", lambda _: products.append(1))
    ticks = (n * (n + 1) / 2 for n in count())  # each time that passes is one second longer
    pulse = noise.Pulse(now=lambda: next(ticks))
    assert pulse.spread is None
    pulse.beat()
    pulse.beat()
    assert len(products) == 1 + 10 + 3
    assert pulse.seconds == [float(n) for n in range(1, 27, 2)]
    assert pulse.spread == noise.spread(pulse.seconds)


@pytest.mark.parametrize(
    ("of_product", "of_rows", "sentence"),
    [
        (2.3, 1.1, "The machine was busy: times vary by 2.3 times for one small product and 1.1 times for a call"),
        (1.2, 1.73, "The machine was busy: times vary by 1.2 times for one small product and 1.7 times for a call"),
        (227.4, None, "The machine was busy: times vary by 227 times for one small product"),
        (
            1.2,
            1.18,
            "The machine did not seem busy: times vary by 1.2 times for one small product and 1.2 times for a call",
        ),
        (None, 1.07, "The machine did not seem busy: times vary by 1.1 times for a call"),
    ],
)
def test_what_a_run_says(of_product: float | None, of_rows: float | None, sentence: str) -> None:
    said = noise.verdict(of_product, of_rows)
    assert said is not None
    assert said.startswith(f"{sentence} (p80 over p20).")
    assert said.endswith("Ratios are unreliable.") == ("was busy" in sentence)


def test_a_run_without_times_says_nothing() -> None:
    assert noise.verdict(None, None) is None
