"""Which switches of `tritonconv.gpu.ARCHITECTURES` the committed records of `bench device` allow to be on."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bench import kernel_identity, results
from bench.device import evidence, exactness, exactness_units
from bench.device.evidence import DEPENDENT, SWITCHES, committed, confirmed, decided, slowdown
from tests.support.blocks import ON_GPU
from tritonconv.gpu import ARCHITECTURES, Gpu

Record = dict[str, Any]


@cache
def exact_rows() -> list[dict[str, Any]]:
    """Return the row of each unit of `exactness`, as a GPU would write it if all were right."""
    names = kernel_identity.names()
    found = []
    for unit in exactness_units.units(ON_GPU):
        row = exactness.about(unit, Gpu.of("sm_90", 132), names)
        found.append(row | {"status": "skipped" if unit.by_programs else "ok"})
    return found


def times(switch: str, off: float, on: float, layer: str = "a") -> list[dict[str, Any]]:
    """Return two rows of a layer, whose device takes `off` and `on` microseconds."""
    about = {"what": "times", "unit": f"{switch} {layer}", "switch": switch, "status": "ok"}
    kernels = {"kernels": {"wgrad": kernel_identity.names()["wgrad"]}}
    return [about | kernels | {"on": i == 1, "device": {"median": each}} for i, each in enumerate((off, on))]


def record(architecture: str = "sm_90") -> Record:
    """Return a record that confirms all switches."""
    tests = {"what": "tests", "unit": "dependent launch", "file": DEPENDENT, "status": "ok", "outcomes": {"passed": 3}}
    rows = [*exact_rows(), *times("host_descriptors", 10, 9), tests, *times("dependent_launch", 10, 9)]
    return {"architecture": architecture, "rows": copy.deepcopy(rows)}


def test_a_record_in_which_all_is_right() -> None:
    assert confirmed(record()) == set(SWITCHES)


def row_of(record: Record, what: str, switch: str) -> dict[str, Any]:
    """Return the first row of this kind that is about the switch and is ok."""
    return next(
        each
        for each in record["rows"]
        if each["what"] == what and each["status"] == "ok" and evidence.concerns(each, switch)
    )


@pytest.mark.parametrize("status", ["wrong", "failed", "skipped"])
@pytest.mark.parametrize(("what", "switch"), [("exactness", SWITCHES[0]), ("tests", SWITCHES[1])])
def test_one_row_that_is_not_ok_confirms_nothing(what: str, switch: str, status: str) -> None:
    found = record()
    row_of(found, what, switch)["status"] = status
    assert confirmed(found) == set(SWITCHES) - {switch}


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_wrong_time_confirms_nothing(switch: str) -> None:
    """A row of times is wrong if the layer's result is."""
    found = record()
    row_of(found, "times", switch)["status"] = "wrong"
    assert confirmed(found) == set(SWITCHES) - {switch}


@pytest.mark.parametrize(("what", "switch"), [("exactness", SWITCHES[0]), ("tests", SWITCHES[1])])
def test_a_row_that_is_missing_confirms_nothing(what: str, switch: str) -> None:
    found = record()
    found["rows"].remove(row_of(found, what, switch))
    assert confirmed(found) == set(SWITCHES) - {switch}


def test_dependent_launches_need_all_tests() -> None:
    """The one that compares results on a GPU is skipped without one, and the others pass."""
    found = record()
    row_of(found, "tests", "dependent_launch")["outcomes"] = {"passed": 3, "skipped": 1}
    assert confirmed(found) == {"host_descriptors"}


def test_dependent_launches_need_a_timed_layer() -> None:
    """host_descriptors need none, because many small problems show that they are exact."""
    found = record()
    found["rows"] = [row for row in found["rows"] if row["what"] != "times"]
    assert confirmed(found) == {"host_descriptors"}


def test_other_kernels_confirm_nothing() -> None:
    found = record()
    row_of(found, "times", "dependent_launch")["kernels"]["wgrad"] = "another"
    assert confirmed(found) == {"host_descriptors"}
    row_of(found, "exactness", "host_descriptors")["kernels"]["fprop"] = "another"
    assert confirmed(found) == set()


def test_other_descriptors_confirm_nothing() -> None:
    found = record()
    row_of(found, "exactness", "host_descriptors")["descriptors"] = "another"
    assert confirmed(found) == {"dependent_launch"}


@pytest.mark.parametrize("mark", ["rehearsal", "sample"])
def test_what_no_gpu_has_measured_confirms_nothing(mark: str) -> None:
    assert confirmed(record() | {mark: "in Triton's interpreter"}) == set()


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_that_makes_layers_slower_is_not_confirmed(switch: str) -> None:
    """The geometric mean of several layers counts."""
    found = record()
    found["rows"] += times(switch, 10, 10.9, "b")
    assert confirmed(found) == set(SWITCHES)
    found["rows"] += times(switch, 10, 10.9, "c")
    assert confirmed(found) == set(SWITCHES) - {switch}


def test_times_of_one_way_alone_do_not_count() -> None:
    assert slowdown(times("host_descriptors", 10, 30)[:1]) == 1
    assert slowdown(times("host_descriptors", 10, 40) + times("host_descriptors", 10, 10, "b")) == pytest.approx(2)


def test_several_records_decide_together() -> None:
    """Each architecture has its own. A record that shows a switch to be wrong counts more than one that confirms it.

    A record of other kernels does not count.
    """
    none: Record = {"architecture": "sm_100", "rows": []}
    assert decided([none, record(), none]) == {"sm_90": set(SWITCHES), "sm_100": set()}
    wrong = record()
    row_of(wrong, "exactness", "host_descriptors")["status"] = "wrong"
    for both in ([wrong, record()], [record(), wrong]):
        assert decided(both) == {"sm_90": {"dependent_launch"}}
    for row in wrong["rows"]:
        if row["status"] == "wrong":
            row["kernels"]["fprop"] = "another"
    assert decided([wrong, record()]) == {"sm_90": set(SWITCHES)}


def test_a_later_record_has_what_the_first_one_lacks() -> None:
    """Rows of other kernels do not count, and neither do tests that the clock stopped, nor rehearsals."""
    first, second = record(), record()
    lacking = row_of(first, "exactness", "host_descriptors")
    first["rows"] = [row for row in first["rows"] if row["unit"] not in (lacking["unit"], "dependent launch")]
    second["rows"] = [row for row in second["rows"] if row["unit"] == lacking["unit"]]
    old = copy.deepcopy(lacking) | {"kernels": {"fprop": "another"}, "status": "wrong"}
    stopped = {"what": "tests", "unit": "dependent launch", "file": DEPENDENT, "status": "stopped", "outcomes": {}}
    first["rows"] += [old, stopped]
    assert decided([first]) == {"sm_90": set()}
    assert decided([first, second]) == decided([second, first]) == {"sm_90": {"host_descriptors"}}
    tests = stopped | {"status": "ok", "outcomes": {"passed": 3}}
    assert decided([first, second, record() | {"rows": [tests]}]) == {"sm_90": set(SWITCHES)}
    assert decided([first, second | {"rehearsal": "on a pretended GPU"}]) == {"sm_90": set()}


def test_committed_records_may_have_a_number(tmp_path: Path) -> None:
    for name in ("a-switches.json", "a-switches-2.json", "a-correctness.json"):
        results.save(tmp_path / name, {"environment": {}, "ceilings": {}, "rows": [], "name": name})
    assert {each["name"] for each in committed(tmp_path)} == {"a-switches.json", "a-switches-2.json"}


def mistakes(found: dict[str, set[str]]) -> list[str]:
    """Return what to change in `gpu.py`, so that the switches are those in `found`, by architecture."""
    return [
        f"set {switch} of {name} to {switch in found.get(name, set())} in tritonconv/gpu.py"
        for name, row in ARCHITECTURES.items()
        for switch in SWITCHES
        if getattr(row, switch, False) != (switch in found.get(name, set()))
    ]


def test_switches_are_on_where_a_committed_record_confirms_them() -> None:
    """They are off everywhere else. If the kernels change, the records of the old ones confirm nothing any more."""
    assert mistakes(decided(committed())) == []


def test_a_record_that_confirms_a_switch_that_is_off_is_a_mistake() -> None:
    found = {name: {each for each in SWITCHES if getattr(row, each, False)} for name, row in ARCHITECTURES.items()}
    assert mistakes(found) == []
    other = found["sm_90"] ^ {"host_descriptors"}
    (said,) = mistakes(found | {"sm_90": other})
    assert said == f"set host_descriptors of sm_90 to {'host_descriptors' in other} in tritonconv/gpu.py"
