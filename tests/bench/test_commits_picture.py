"""The picture of throughput over commits: its points, and which runs make it."""

from pathlib import Path
from typing import Any

import pytest

from bench import results

pytest.importorskip("matplotlib")

from matplotlib.axes import Axes

from bench.report import machines, pictures, style
from bench.report.commits_picture import by_commit, over_commits
from tests.bench.made_up import SAMPLE, evidence


def test_over_commits_a_partial_run_goes_on_from_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run times only wgrad, at twice the speed. The other passes keep their points."""
    first = results.load(SAMPLE[0])
    timed = [row for row in first["rows"] if row["pass"] == "wgrad" and row["status"] == "ok"]
    rows = [row | {"tflops": 2 * row["tflops"], "commit": "def"} for row in timed]
    second = first | {"rows": rows, "environment": first["environment"] | {"date": "2027-01-01", "package": "def"}}
    drawn: dict[str, Any] = {}
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda axis, x, y, **k: drawn.update({k["label"]: y}) or plot(axis, x, y, **k))
    over_commits([first, second], ["reference"], "float32", style.LIGHT)
    assert set(drawn) == {"fprop", "dgrad", "wgrad", "step"}
    for of, (before, after) in drawn.items():
        assert after == pytest.approx(before * (2 if of == "wgrad" else 1))


def test_runs_of_one_commit_are_one_point_over_commits() -> None:
    """They are processes of the same code."""
    runs = [evidence(commit=commit, date=f"2026-01-0{day}") for day, commit in ((3, "b"), (1, "a"), (2, "a"))]
    assert [run["environment"]["commit"] for run in by_commit(runs)] == ["a", "b"]
    assert [run["environment"]["date"] for run in by_commit(runs)] == ["2026-01-02", "2026-01-03"]
    assert "commits-float32" in pictures.pictures(runs)
    assert "commits-float32" not in pictures.pictures(runs[1:])
    machine = [(Path("x"), run) for run in runs]
    assert [len(machines.over_commits(some, "float32", "")) for some in (machine, machine[1:])] == [1, 0]
