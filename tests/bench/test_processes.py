"""Rows of several processes become one, if they are of the same code and were timed in the same way."""

from typing import Any

import pytest

from bench import processes, results
from tests.bench.test_statistics import row, run, without_time


def timed(*medians: float, **more: Any) -> results.Row:
    """Return a row of triton whose device, warm and wall time have these medians. p20 is a tenth below, p80 above."""
    names = ("device_us", "warm_us", "wall_us")
    times = {
        name: {"median": each, "p20": 0.9 * each, "p80": 1.1 * each, "runs": 10}
        for name, each in zip(names, medians, strict=True)
    }
    return row("a", "triton", 1.0, how="graph", cold="read") | times | more


FIRST = timed(10.0, 8.0, 40.0, roof=0.5, clock_mhz=1700.0, extra_bytes=5, error_rms=0.3, process=1)
SECOND = timed(12.0, 8.4, 30.0, roof=0.6, clock_mhz=1800.0, extra_bytes=7, error_rms=0.2, process=2)


def test_two_processes_become_one_row() -> None:
    (found,) = results.merged([run(FIRST, SECOND)])["rows"]
    assert found["device_us"] == {"median": 11.0, "p20": 9.0, "p80": pytest.approx(13.2), "runs": 20}
    assert [found[name]["median"] for name in ("warm_us", "wall_us")] == [8.2, 35.0]
    assert found["between"] == {"device_us": 1.2, "warm_us": 1.05, "wall_us": pytest.approx(4 / 3, abs=1e-4)}
    assert (found["processes"], found["roof"], found["clock_mhz"], found["extra_bytes"]) == (2, 0.55, 1750.0, 7)
    assert found["error_rms"] == 0.3


def test_two_runs_are_two_processes() -> None:
    """A third run is one more, also if the first two were merged before. The spread between them only grows."""
    first, second, third = (
        run(timed(each, 8.0, 40.0), date=f"2026-0{n}-01") for n, each in enumerate((10.0, 12.0, 11.0), 1)
    )
    both = results.merged([first, second])
    assert both["rows"][0]["processes"] == 2
    (found,) = results.merged([both, third])["rows"]
    assert (found["processes"], found["between"]["device_us"]) == (3, 1.2)
    assert found["device_us"]["runs"] == 30
    assert len(both["runs"]) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"tile": {"fprop": "128x128x64w8s3"}},
        {"kernels": {"fprop": "2"}},
        {"cold": None},
        {"how": "events"},
        {"image": [1, 2, 3, 4]},
        {"commit": "def"},
    ],
)
def test_rows_of_other_code_or_method_are_not_combined(changed: dict[str, Any]) -> None:
    old, new = run(FIRST), run(SECOND | changed, date="2026-02-01")
    merged = results.merged([old, new])
    assert merged["rows"] == [SECOND | changed]
    assert [about["date"] for about in merged["runs"]] == ["2026-02-01"]


@pytest.mark.parametrize(("name", "combines"), [("torch", False), ("package", True)])
def test_torchs_rows_depend_on_versions_and_not_on_our_code(name: str, combines: bool) -> None:
    """Ours depend on both: what the host does takes time too."""
    for contender in ("torch", "triton"):
        old, new = (run(timed(9.0 + n, 8.0, 40.0, contender=contender), date=f"2026-0{n}-01") for n in (1, 2))
        new["environment"][name] = "new"
        (found,) = results.merged([old, new])["rows"]
        assert ("processes" in found) == (combines and contender == "torch")


@pytest.mark.parametrize("name", ["cpu", "threads", "python"])
def test_processes_of_other_hosts_are_not_combined(name: str) -> None:
    """The times of eager calls depend on the host, also on a GPU."""
    old, new = run(FIRST), run(SECOND, date="2026-02-01")
    new["environment"][name] = "new"
    assert results.merged([old, new])["rows"] == [SECOND]


def test_runs_with_other_numbers_of_threads_on_a_cpu_are_not_merged() -> None:
    old, new = run(FIRST), run(SECOND, date="2026-02-01")
    old["environment"] |= {"gpu": None}
    new["environment"] |= {"gpu": None, "threads": 64}
    with pytest.raises(ValueError, match="y with 1 threads, y with 64 threads"):
        results.merged([old, new])


def test_a_file_that_is_there_twice_is_one_process() -> None:
    once = run(FIRST)
    twice = results.merged([once, once])
    assert "processes" not in twice["rows"][0]
    assert len(twice["runs"]) == 1


def test_what_is_published_again_with_more_counts_once() -> None:
    """A record goes on in a later call, and is published after each: all of the first is in the second, too."""
    first = results.merged([run(FIRST, SECOND)])
    third = timed(11.0, 8.0, 40.0, process=1)
    later = results.merged([run(FIRST, SECOND), run(third, date="2026-02-01")])
    for records in ([first, later], [run(FIRST, SECOND), later], [later, first]):
        (found,) = results.merged(records)["rows"]
        assert (found["processes"], found["device_us"]["median"], found["device_us"]["runs"]) == (3, 11.0, 30)


def test_the_median_is_that_of_all_processes() -> None:
    """It is 2 of 1, 2 and 9, in whichever order they are merged, and not 5.25, which is that of 1.5 and 9."""
    first, second, third = (run(timed(n, 8.0, 40.0), date=f"2026-01-0{n:.0f}") for n in (1.0, 2.0, 9.0))
    for one, two, three in ((first, second, third), (second, third, first)):
        (found,) = results.merged([results.merged([one, two]), three])["rows"]
        assert found["device_us"]["median"] == 2.0
        assert sorted(each[1] for each in found["each"]) == [1.0, 2.0, 9.0]


def test_torch_counts_where_it_took_turns_with_ours() -> None:
    """It was timed alone first, and then beside older code of ours. If it was never beside ours, all runs count."""
    torch_s = [timed(10.0 + n, 8.0, 40.0, contender="torch") for n in range(4)]
    runs = [
        run(torch_s[0], date="2026-01-01"),
        run(torch_s[1], FIRST | {"commit": "old"}, date="2026-01-02"),
        run(torch_s[2], FIRST, date="2026-01-03"),
        run(torch_s[3], SECOND, date="2026-01-04"),
    ]
    for records, medians in ((runs, (12.5, 11.0)), (runs[:3], (12.0, 10.0)), (runs[:1], (10.0,))):
        found = results.merged(records)["rows"]
        assert tuple(row["device_us"]["median"] for row in found) == medians
    apart = results.merged([*runs[:1], run(torch_s[1], date="2026-01-02"), run(FIRST, date="2026-01-05")])["rows"]
    assert [row["device_us"]["median"] for row in apart] == [10.5, 10.0]


def test_rows_of_several_runs_say_which() -> None:
    """Those of a single run do not."""
    old, new = run(FIRST, row("b", "triton", 1.0)), run(SECOND, date="2026-02-01")
    both, alone = results.merged([old, new])["rows"]
    assert (both["measured"], alone["measured"]) == (["2026-01-01 1", "2026-02-01 2"], ["2026-01-01"])
    assert "measured" not in results.merged([old])["rows"][0]


def test_a_process_that_failed_does_not_count() -> None:
    failed = without_time("a", "triton", "failed") | {"process": 2}
    assert results.merged([run(FIRST, failed)])["rows"] == [FIRST]
    assert results.merged([run(failed, FIRST)])["rows"] == [FIRST]


def test_a_process_counts_once() -> None:
    """If a process has two rows of the same thing, the later one counts."""
    assert results.merged([run(FIRST, SECOND | {"process": 1})])["rows"] == [SECOND | {"process": 1}]


def test_one_row_stays_as_it_is() -> None:
    assert processes.combined([FIRST]) is FIRST


def test_ceilings_and_what_reached_them_are_those_of_the_last_run() -> None:
    first = run(FIRST, ceilings_from={"bfloat16": "small", "tf32": "x"}, ceiling_clocks={"bfloat16": 1.0})
    second = run(SECOND, date="2026-02-01", ceilings_from={"bfloat16": "large"})
    merged = results.merged([first, second])
    assert merged["ceilings_from"] == {"bfloat16": "large", "tf32": "x"}
    assert merged["ceiling_clocks"] == {"bfloat16": 1.0}
    assert "ceilings_from" not in results.merged([run(FIRST)])
