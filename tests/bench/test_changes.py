"""What changed between two runs, in words, and in the method."""

from argparse import Namespace
from pathlib import Path

import pytest

from bench import results
from bench.report import changes, command
from bench.results import Row
from tests.bench.made_up import a_gpu_s_row, by_hand, spread


def rows(triton: float, torch: float | None, family: str = "1x1", yardstick: str = "torch") -> list[Row]:
    """Return rows of triton and of its yardstick, with these times on the device. The second may be missing."""
    found = [a_gpu_s_row("a", family, "fprop", "triton", triton, 1.0)]
    return found + ([a_gpu_s_row("a", family, "fprop", yardstick, torch, 1.0)] if torch else [])


@pytest.mark.parametrize(
    ("ours", "torchs", "words"),
    [
        (16.4, 12.3, "1.64 times slower; torch itself 1.23 (10.0 -> 16.4 us)"),
        (16.4, 5.0, "1.64 times slower; torch itself 2.00 times faster (10.0 -> 16.4 us)"),
        (16.4, 10.04, "1.64 times slower; torch itself unchanged (10.0 -> 16.4 us)"),
        (16.4, None, "1.64 times slower; torch itself was not timed in both runs (10.0 -> 16.4 us)"),
        (5.0, 8.0, "2.00 times faster; torch itself 1.25 (10.0 -> 5.0 us)"),
    ],
)
def test_a_change_in_words(ours: float, torchs: float | None, words: str) -> None:
    (found, *_) = (
        change for change in changes.changes(rows(ours, torchs), rows(10.0, 10.0)) if change.about[2] == "triton"
    )
    assert str(found) == f"a fprop triton bfloat16: {words}"


def test_the_yardstick_s_own_change_stands_alone() -> None:
    (found,) = changes.changes(rows(10.0, 16.4), rows(10.0, 10.0))
    assert str(found) == "a fprop torch bfloat16: 1.64 times slower (10.0 -> 16.4 us)"


@pytest.mark.parametrize("family", ["local", "per sample", "dynamic"])
def test_layers_whose_weight_varies_have_another_yardstick(family: str) -> None:
    old, new = (rows(*times, family, "reference") for times in ((10.0, 20.0), (20.0, 40.0)))
    assert "2.00 times slower; unfold + einsum itself 2.00 (" in str(changes.changes(new, old)[0])


def test_a_lost_row_says_why() -> None:
    new = [row | {"status": "failed", "reason": "because"} for row in rows(10.0, None)]
    (found,) = changes.changes(new, rows(10.0, None))
    assert str(found) == "a fprop triton bfloat16: lost (failed: because)"


def test_times_with_caches_that_were_cooled_in_other_ways_are_not_compared() -> None:
    """Their eager times are compared instead, which are the same here, and this is said."""
    old, new = by_hand(), by_hand()
    new["rows"] = [row | {"cold": "read", "device_us": spread(1000.0)} for row in new["rows"]]
    assert changes.changes(new["rows"], old["rows"]) == []
    (line,) = changes.differences(new, old)
    assert line.startswith("the L2 cache was cooled by a write -> read")
    assert changes.differences(new, new) == []


def test_the_host_of_a_gpu_is_said_and_the_threads_of_a_cpu_must_be_the_same() -> None:
    old, new = by_hand(), by_hand()
    new["environment"] = new["environment"] | {"cpu": "another", "threads": 64}
    assert [line.split(" ")[0] for line in changes.differences(new, old)] == ["cpu", "threads"]
    for run in (old, new):
        run["environment"] = run["environment"] | {"gpu": None, "cpu": "the same"}
    with pytest.raises(ValueError, match="can not be compared: the same with 64 threads, the same with 2 threads"):
        changes.differences(new, old)


def test_an_old_record_of_two_processes_is_taken_as_a_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of its processes took twice as long as the other. The new time is that of the first."""
    new, old = (by_hand() | {"rows": rows(10.0, 10.0)} for _ in range(2))
    old["rows"] = [row | {"process": n, "device_us": spread(10.0 * n)} for n in (1, 2) for row in new["rows"]]
    for name, run in (("new", new), ("old", old)):
        results.save(tmp_path / f"{name}.json", run)
    about = dict(files=[tmp_path / "new.json"], against=tmp_path / "old.json", out=None, publish=False, threshold=0.05)
    assert command.main(Namespace(**about)) == 0
    assert "Of 2 rows in both, 0 changed" in capsys.readouterr().out
