"""The statistics of reports, on data whose statistics can be computed by hand."""

from typing import Any

import pytest

from bench import results
from bench.report import changes, command, compare, tables
from bench.run.timing import spread, turns

Row = dict[str, Any]


def row(layer: str, contender: str, median: float, of: str = "fprop", family: str = "1x1", **more: Any) -> Row:
    times = {"median": median, "p20": 0.9 * median, "p80": 1.1 * median, "runs": 10}
    about = {"layer": layer, "family": family, "pass": of, "contender": contender, "dtype": "bfloat16"}
    return {**about, "status": "ok", "device_us": times, "wall_us": None, "roof": 0.5, "commit": "abc", **more}


def without_time(layer: str, contender: str, status: str) -> Row:
    return row(layer, contender, 1.0) | {"status": status, "reason": "because", "device_us": None}


def run(*rows: Row, date: str = "2026-01-01", **more: Any) -> results.Results:
    environment = {
        **dict.fromkeys(("gpu", "driver", "triton", "cuda", "cudnn", "commit"), "x"),
        **dict(cpu="y", threads=1, python="3", torch="2", changed=False, date=date),
    }
    return {"environment": environment, "ceilings": {"bfloat16": 100.0, "copy": 10.0}, "rows": list(rows), **more}


def test_geometric_mean() -> None:
    assert compare.geometric_mean([2.0, 0.5]) == pytest.approx(1.0)
    assert compare.geometric_mean([1.0, 10.0, 100.0]) == pytest.approx(10.0)
    assert compare.geometric_mean([3.0]) == pytest.approx(3.0)
    assert compare.geometric_mean([]) is None


def test_quantiles_lie_between_ranks() -> None:
    values = [50.0, 10.0, 40.0, 20.0, 30.0]
    # The place of p20 is 0.8 of the way from 10 to 20, and that of p80 is 0.2 of the way from 40 to 50.
    assert spread(values) == {"median": 30.0, "p20": 18.0, "p80": 42.0, "runs": 5}
    assert spread([1.0, 2.0]) == {"median": 1.5, "p20": 1.2, "p80": 1.8, "runs": 2}
    assert spread([7.0]) == {"median": 7.0, "p20": 7.0, "p80": 7.0, "runs": 1}


def test_speedups_are_ratios_of_medians() -> None:
    rows = [row("a", "torch", 10.0), row("a", "triton", 5.0), row("b", "torch", 3.0), row("b", "triton", 6.0)]
    assert compare.speedups(rows, "triton", "bfloat16") == {("a", "fprop"): 2.0, ("b", "fprop"): 0.5}
    assert compare.speedups(rows, "triton", "float16") == {}


def test_what_is_wrong_has_no_speed() -> None:
    rows = [row("a", "torch", 10.0), without_time("a", "triton", "wrong") | {"device_us": {"median": 1.0}}]
    assert compare.speedups(rows, "triton", "bfloat16") == {}
    text = tables.report(run(*rows, row("b", "torch", 4.0), row("b", "triton", 2.0)))
    assert "| a | wrong | 1x1 |" in text
    assert "| 1x1 (1) | 2.00 (50 %) |" in text
    assert "| b | 2.00 (50 %) | 1x1 |" in text
    assert "- 1 wrong: because (a fprop)" in text


def test_wall_time_stands_in_where_there_is_no_device() -> None:
    rows = [row("a", name, 1.0) | {"device_us": None, "wall_us": spread([time])} for name, time in
            (("torch", 8.0), ("reference", 2.0))]  # fmt: skip
    assert compare.speedups(rows, "reference", "bfloat16") == {("a", "fprop"): 4.0}


def test_graphs_are_not_compared_with_eager_calls() -> None:
    """If a CUDA graph could capture only one of the two, their eager times are compared."""
    torchs = row("a", "torch", 1.0, how="events") | {"wall_us": {"median": 6.0, "p20": 5.0, "p80": 7.0}}
    ours = row("a", "triton", 1.0, how="graph") | {"wall_us": {"median": 2.0, "p20": 1.0, "p80": 3.0}}
    assert compare.speedups([torchs, ours], "triton", "bfloat16") == {("a", "fprop"): 3.0}
    (change,) = changes.changes([ours | {"how": "events", "wall_us": {"median": 8.0, "p20": 7.0, "p80": 9.0}}], [ours])
    assert change.factor == 4.0


def test_local_layers_are_beside_unfold_and_einsum() -> None:
    """torch has no such layers. Their ratios do not enter the means of the other layers."""
    local = [row("l", name, time, family="local") for name, time in (("reference", 30.0), ("triton", 5.0))]
    slow = row("l", "loop", 60.0, family="local")
    missing = without_time("l", "torch", "skipped") | {"family": "local"}
    dense = [row("a", name, time) for name, time in (("torch", 4.0), ("triton", 2.0), ("reference", 16.0))]
    rows = [*dense, missing, *local, slow]
    assert compare.speedups(rows, "triton", "bfloat16") == {("a", "fprop"): 2.0}
    assert compare.speedups(rows, "triton", "bfloat16", "reference") == {("l", "fprop"): 6.0}
    assert compare.speedups(rows, "loop", "bfloat16", "reference") == {("l", "fprop"): 0.5}
    titles = [line for line in tables.report(run(*rows)).splitlines() if line.startswith("## ")]
    assert titles == [
        "## triton over torch, bfloat16",
        "## reference over torch, bfloat16",
        "## triton over unfold + einsum, bfloat16",
        "## loop over unfold + einsum, bfloat16",
    ]
    text = tables.report(run(*rows))
    assert "| 1x1 (1) | 2.00 (50 %) |" in text
    assert "| l | 6.00 (50 %) | local |" in text


def test_in_local_layers_the_machine_is_known_by_unfold_and_einsum() -> None:
    """If ours and the baseline both take 1.5 times as long, ours did not get worse. A slower loop is no failure."""

    def then(factor: float) -> list[Row]:
        times = {"reference": 30.0, "triton": 5.0, "loop": 60.0}
        return [row("l", name, factor * time, family="local") for name, time in times.items()]

    found = changes.changes(then(1.5), then(1.0))
    assert {change.about[2]: change.drift for change in found} == dict.fromkeys(("reference", "triton", "loop"), 1.5)
    assert not any(change.fails(0.05) for change in found)
    (alone,) = changes.changes(then(1.5)[1:2], then(1.0)[1:2])
    assert alone.fails(0.05)
    (loop,) = changes.changes(then(1.5)[2:], then(1.0)[2:])
    assert not loop.fails(0.05)


def test_a_change_is_beyond_the_spread() -> None:
    """Medians of 10 and 12 spread over 9..11 and 10.8..13.2, which overlap; 10 and 13 do not (11.7..14.3)."""
    old = [row("a", "triton", 10.0), row("b", "triton", 10.0), row("c", "triton", 13.0), row("d", "triton", 1.0)]
    new = [row("a", "triton", 12.0), row("b", "triton", 13.0), row("c", "triton", 10.0), row("e", "triton", 1.0)]
    found = changes.changes(new, old)
    assert [(change.about[0], change.factor) for change in found] == [
        ("b", pytest.approx(1.3)),
        ("c", pytest.approx(10 / 13)),
    ]
    assert [change.fails(0.05) for change in found] == [True, False]
    assert not found[0].fails(0.31)


def test_a_lost_result_is_a_change() -> None:
    old = [row("a", "triton", 10.0), row("b", "triton", 10.0)]
    new = [without_time("a", "triton", "failed"), without_time("b", "triton", "skipped")]
    found = changes.changes(new, old)
    assert [(change.about[0], change.factor, change.fails(10.0)) for change in found] == [
        ("a", None, True),
        ("b", None, True),
    ]


def test_a_machine_that_got_slower_is_not_held_against_us() -> None:
    """Ours takes 1.5 times as long. In the three cases, torch takes 1.5 times, 1.2 times, or was not timed."""
    old = [row("a", "triton", 10.0), row("a", "torch", 20.0)]
    for torch_now, drift, fails in ((30.0, 1.5, False), (24.0, 1.2, True), (None, None, True)):
        new = [row("a", "triton", 15.0), *([row("a", "torch", torch_now)] if torch_now else [])]
        (change,) = (change for change in changes.changes(new, old) if change.about[2] == "triton")
        assert change.factor == 1.5
        assert change.drift == pytest.approx(drift)
        assert change.fails(0.05) == fails


def test_different_machines_are_not_compared() -> None:
    ours, theirs = run(row("a", "triton", 1.0)), run(row("a", "triton", 1.0))
    assert changes.differences(ours, theirs) == []
    theirs["environment"]["torch"] = "1"
    assert changes.differences(ours, theirs) == ["torch 1 -> 2"]
    with pytest.raises(ValueError, match="a rehearsal can not be compared"):
        changes.differences(ours | {"rehearsal": "small"}, theirs)
    theirs["environment"]["gpu"] = "another"
    with pytest.raises(ValueError, match="different machines"):
        changes.differences(ours, theirs)


@pytest.mark.parametrize(
    ("contender", "now", "threshold", "status"),
    [
        ("triton", 13.0, 0.05, 1),
        ("triton", 13.0, 0.5, 0),
        ("triton", 5.0, 0.05, 0),
        ("torch", 13.0, 0.05, 0),
        ("torch-nchw", 13.0, 0.05, 0),
    ],
)
def test_exit_status(contender: str, now: float, threshold: float, status: int) -> None:
    """The exit status is 1 if one of ours got slower by more than the threshold. torch may get slower."""
    assert command.against(run(row("a", contender, now)), run(row("a", contender, 10.0)), threshold) == status


def test_nothing_in_common_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.against(run(row("a", "triton", 1.0)), run(row("b", "triton", 1.0)), 0.05) == 1
    assert "Of 0 rows in both" in capsys.readouterr().out


def test_a_later_run_replaces_an_earlier_one() -> None:
    first = run(row("a", "triton", 1.0), row("b", "triton", 1.0))
    second = run(row("a", "triton", 2.0, commit="def"), date="2026-02-01")
    merged = results.merged([second, first])
    assert {each["layer"]: each["device_us"]["median"] for each in merged["rows"]} == {"a": 2.0, "b": 1.0}
    assert merged["environment"]["date"] == "2026-02-01"
    assert [about["date"] for about in merged["runs"]] == ["2026-01-01", "2026-02-01"]
    second["environment"]["gpu"] = "another"
    with pytest.raises(ValueError, match="different machines"):
        results.merged([first, second])


def test_what_failed_later_does_not_take_away_what_was_measured() -> None:
    good = run(row("a", "triton", 1.0, kernels={"fprop": "1"}), row("a", "torch", 1.0))
    same = without_time("a", "triton", "failed") | {"kernels": {"fprop": "1"}}
    bad = run(same, without_time("a", "torch", "failed"), date="2026-02-01")
    assert [each["status"] for each in results.merged([good, bad])["rows"]] == ["ok", "ok"]
    changed = run(same | {"kernels": {"fprop": "2"}}, date="2026-02-01")
    assert [each["status"] for each in results.merged([good, changed])["rows"]] == ["failed", "ok"]


def test_a_sample_stays_one() -> None:
    first = run(row("a", "triton", 1.0), sample="invented", complete=False, stopped="time")
    merged = results.merged([first, run(row("b", "triton", 1.0), date="2026-02-01", complete=True, stopped=None)])
    assert (merged["sample"], merged["complete"], merged["stopped"]) == ("invented", False, "time")


def test_turns_alternate() -> None:
    order = turns({"a": 1e-3, "b": 2e-3}, budget=0.02)
    assert order[:6] == ["a", "b", "b", "a", "a", "b"]
    assert (order.count("a"), order.count("b")) == (20, 10)
    assert set(order[20:]) == {"a"}  # b's budget is spent
    assert len(turns({"a": 1e-9}, budget=1.0)) == 100
    assert len(turns({"a": 1.0}, budget=0.1)) == 5
    assert turns({}, budget=1.0) == []
