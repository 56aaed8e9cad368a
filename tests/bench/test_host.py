"""`python -m bench host`: how often a call enters Python, how long it takes the host, and what counts as worse."""

import platform
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import results
from bench.host import command
from bench.results import RESULTS
from tests.support.processes import python

triton = pytest.importorskip("triton")

COMMITTED = {row["call"]: row for row in results.read_rows(RESULTS / "host.json")}
# The most that each call may take, in units of torch's.
LIMITS = {"forward no grad": 2.0, "forward grad": 2.0, "step": 1.7, "step autocast": 2.0}
MOST_FUNCTIONS = 60


def limit(call: str) -> float:
    return LIMITS[call.partition(",")[0]]


def test_what_is_committed_keeps_the_limits() -> None:
    """The layers are dense, transposed and locally connected. Only the dense one is measured in autocast."""
    calls = [f"{call}{kind}" for kind in ("", ", transposed", ", local") for call in LIMITS]
    for call in calls:
        if call == "step autocast" or "autocast" not in call:
            row = COMMITTED[call]
            assert row["ratio"] <= limit(call), row
            assert "autocast" in call or row["functions"] <= MOST_FUNCTIONS, row


@pytest.mark.skipif(
    (torch.__version__.partition("+")[0], triton.__version__, platform.python_version_tuple()[:2])
    != ("2.13.0", "3.7.1", ("3", "11")),
    reason="the functions of torch, Triton and Python 3.11 that a call enters were counted with the pinned versions",
)
def test_a_call_enters_as_many_functions_and_takes_as_long_as_committed(tmp_path: Path) -> None:
    """Times are noisy on a busy machine, so a call may take up to two fifths longer."""
    done = python("-m", "bench", "host", "--rounds", "20", "--json", str(tmp_path / "host.json"))
    assert done.returncode == 0, done.stderr
    found = {row["call"]: row for row in results.read_rows(tmp_path / "host.json")}
    assert {call: row["functions"] for call, row in found.items()} == {
        call: row["functions"] for call, row in COMMITTED.items()
    }
    slow = {call: row["ratio"] for call, row in found.items() if row["ratio"] > 1.4 * COMMITTED[call]["ratio"]}
    assert not slow


def row(**fields: Any) -> dict[str, Any]:
    return dict(call="step", ratio=1.5, functions=50, torch="2.13.0", triton="3.7.1", python="3.11") | fields


def worse(**fields: Any) -> list[str]:
    return command.regressions(command.paired([row(**fields)], [row(call="forward grad"), row()]))


def test_what_counts_as_worse() -> None:
    assert worse() == worse(ratio=1.8, functions=10) == []
    assert worse(functions=51) == ["step: functions 50 -> 51"]
    assert worse(ratio=1.9) == ["step: ratio 1.5 -> 1.9"]
    assert len(worse(ratio=3.0, functions=60)) == 2


@pytest.mark.parametrize("field", ["call", "torch", "triton", "python"])
def test_only_rows_of_the_same_call_and_versions_are_compared(field: str) -> None:
    assert command.paired([row()], [row(**{field: "other"})]) == []
    assert command.paired([row()], [row()]) == [(row(), row())]


def test_the_command_compares(tmp_path: Path) -> None:
    """It fails if a call enters more functions than before, and if no row is of these versions."""
    versions = dict(torch=torch.__version__.partition("+")[0], triton=triton.__version__)
    versions |= dict(python=".".join(map(str, sys.version_info[:2])))
    for name, fields, message in (
        ("better", dict(functions=1), "forward no grad: functions 1 -> "),
        ("other", dict(torch="1.0"), "There is nothing to compare"),
    ):
        before = tmp_path / f"{name}.json"
        results.write(before, results.lines([row(call="forward no grad", ratio=100.0, **versions | fields)]))
        done = python("-m", "bench", "host", "--rounds", "1", "--against", str(before))
        assert done.returncode == 1, done.stderr
        assert message in done.stdout
