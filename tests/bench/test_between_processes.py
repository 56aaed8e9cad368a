"""What a report says of the processes that its times are from."""

from pathlib import Path

import pytest

from bench import results
from bench.report import between_processes, every_time, gpu_page, readme_section, tables
from bench.results import Results
from tests.bench.made_up import by_hand, compared, spread


def with_processes(*between: tuple[float, float] | None) -> Results:
    """Return a run in which the rows, in turn, are from two processes that differ by these factors, or from one.

    The first factor is that of device times, the second that of eager times.
    """
    run = by_hand()
    for n, row in enumerate(run["rows"]):
        factors = between[n % len(between)]
        if factors:
            row |= {"processes": 2, "between": dict(zip(("device_us", "wall_us"), factors, strict=True))}
    return run


def test_one_process_is_said_to_be_one() -> None:
    for text in (tables.report(by_hand()), "\n".join(gpu_page.beside(compared(by_hand()), by_hand()))):
        assert "**All times are from one process**, so it is not known how much other processes would differ." in text
    assert "**from one process**" in readme_section.what(compared(by_hand()))
    assert "- Each row is from one process." in every_time.details(by_hand())


def test_the_spread_between_processes() -> None:
    """Four of eight rows differ by 1 % on the device and by 10 % in eager mode, the others by 5 % and 20 %."""
    run = with_processes((1.01, 1.1), (1.05, 1.2))
    said = (
        "Each time is from 2 processes. Their medians differ on the device by 3.0 % typically and 5.0 % at most, "
        "and in eager mode by 15 % typically and 20 % at most."
    )
    assert between_processes.from_processes(compared(run)) == said
    assert said in tables.report(run)
    assert "**from 2 processes, typically 3.0 % apart**" in readme_section.what(compared(run))
    assert "| 2 (5.0 %) |" in every_time.details(run)
    assert "from one process" not in tables.report(run) + every_time.details(run)


def test_some_rows_may_be_from_one_process() -> None:
    run = with_processes((1.02, 1.02), None)
    said = "4 of 8 times are from 2 processes, **the others from one**. Their medians differ on the device by 2.0 %"
    assert said in tables.report(run)
    assert "**4 of 8 from one process**" in readme_section.what(compared(run))
    assert "| 1 |" in every_time.details(run)


def test_equal_medians_are_0_percent_apart() -> None:
    assert "0 % typically and 0 % at most" in between_processes.from_processes(compared(with_processes((1.0, 1.0))))


def test_times_that_were_not_taken_in_turns() -> None:
    """The second run times triton alone, so its ratios are of times from two runs. Then torch is in it, too."""
    first, second = by_hand(), by_hand()
    second["environment"] = second["environment"] | {"date": "2026-01-03T00:00:00", "commit": "def"}
    second["rows"] = [row | {"commit": "def"} for row in second["rows"]]
    alone = second | {"rows": [row for row in second["rows"] if row["contender"] == "triton" and row["layer"] == "a"]}
    apart, together = (results.merged([first, run]) for run in (alone, second))
    said = "**In 2 of 4 passes the two times are from different runs**, so they were not taken in turns."
    assert said in tables.report(apart)
    assert "2 ratios of times from different runs**" in readme_section.what(compared(apart))
    for run in (first, together):
        assert "from different runs" not in tables.report(run) + readme_section.what(compared(run))


def test_two_runs_of_the_same_code_are_two_processes(tmp_path: Path) -> None:
    """In the second run everything takes 1.5 times as long, so that no ratio differs."""
    first, second = by_hand(), by_hand()
    second["environment"] = second["environment"] | {"date": "2026-01-03T00:00:00"}
    for row in second["rows"]:
        row |= {name: spread(1.5 * row[name]["median"]) for name in ("device_us", "wall_us")}
    for name, run in (("a", first), ("b", second)):
        results.save(tmp_path / f"{name}.json", run)
    together = results.merged([results.load(tmp_path / f"{name}.json") for name in "ab"])
    assert "Each time is from 2 processes. Their medians differ on the device by 50 %" in tables.report(together)
    assert compared(together).mean("device") == pytest.approx(compared(first).mean("device"))
