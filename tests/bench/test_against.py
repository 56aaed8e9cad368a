"""What counts as worse in compiled kernels, and how it is said."""

from typing import Any

import pytest

from bench.lowering import against

Row = dict[str, Any]


def row(**changed: Any) -> Row:
    about = dict(kernel="fprop", tile="128x128x64w8s3", dtype="bfloat16", arch="sm_90", x_vector=8, y_vector=8)
    found = dict(
        spill_bytes=0, shared_bytes=1000, mma="HGMMA", copy="LDGSTS.128", instructions_per_step=100, occupancy=0.5
    )
    found |= {"bound_tflops": 1000}
    return about | found | {"registers": 168, "triton": "3.7.1"} | changed


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"spill_bytes": 8}, "8 more bytes of spills: 0 -> 8"),
        ({"shared_bytes": 1001}, "1 more bytes of shared memory: 1000 -> 1001"),
        ({"mma": None}, "multiplies by nothing, before by HGMMA"),
        ({"copy": "LDGSTS.32"}, "copies by LDGSTS.32, before by LDGSTS.128"),
        ({"instructions_per_step": 103}, "3 more instructions in a step: 100 -> 103"),
        ({"instructions_per_step": None}, "no main loop is found"),
        ({"occupancy": 0.25}, "50% less occupancy: 0.5 -> 0.25"),
        (
            {"occupancy": 0.25, "registers": 180},
            "50% less occupancy: 0.5 -> 0.25, with 12 more registers: 168 -> 180",
        ),
    ],
)
def test_regressions_are_found(changed: dict[str, Any], words: str) -> None:
    (found,) = against.regressions([row(**changed)], [row()])
    assert str(found) == f"fprop 128x128x64w8s3, bfloat16 on sm_90, x8 y8: {words}"


def host_row(**changed: Any) -> Row:
    return row(host_descriptors=True, **changed)


def test_with_the_hosts_descriptors_instructions_count_only_as_far_as_the_bound_grows() -> None:
    """Rows with descriptors of the same kind are compared as always, and so are the other figures."""
    assert against.regressions([host_row(instructions_per_step=150)], [row()]) == []
    assert against.regressions([host_row(instructions_per_step=150)], [row(host_descriptors=False)]) == []
    (found,) = against.regressions([host_row(instructions_per_step=150)], [host_row()])
    assert found.what == "50 more instructions in a step: 100 -> 150"
    (found,) = against.regressions([row(instructions_per_step=150, host_descriptors=False)], [row()])
    assert found.what == "50 more instructions in a step: 100 -> 150"
    assert against.regressions([host_row(bound_tflops=870)], [row()]) == []
    (found,) = against.regressions([host_row(bound_tflops=869)], [row()])
    assert found.what == "13% less TFLOP/s by the bound: 1000 -> 869"
    assert against.regressions([host_row(bound_tflops=869)], [host_row()]) == []
    (found,) = against.regressions([host_row(instructions_per_step=None, bound_tflops=None)], [row()])
    assert found.what == "no main loop is found"
    (found,) = against.regressions([host_row(spill_bytes=4)], [row()])
    assert found.what == "4 more bytes of spills: 0 -> 4"


def test_longer_steps_are_counted() -> None:
    old = [row(tile=name, instructions_per_step=steps) for name, steps in [("a", 100), ("b", 300), ("c", 100)]]
    new = [host_row(tile=name, instructions_per_step=steps) for name, steps in [("a", 110), ("b", 312), ("c", 90)]]
    empty = [row(tile="d", instructions_per_step=None)]
    assert against.longer_steps(new + empty, old + empty) == (
        "2 of 3 kernels take more instructions a step: at most 12 more (300 -> 312), and at most 10% "
        "(fprop a, bfloat16 on sm_90, x8 y8)."
    )
    assert against.longer_steps(old, old) == "0 of 3 kernels take more instructions a step."


def test_what_is_better_or_can_not_be_compared_is_no_regression() -> None:
    better = row(instructions_per_step=90, occupancy=0.75, shared_bytes=500)
    assert against.regressions([better, row(instructions_per_step=102)], [row()]) == []
    other = [row(triton="3.6.0", spill_bytes=8), row(tile="64x64x64w4s3", spill_bytes=8)]
    assert against.regressions(other, [row()]) == []
    assert against.compared([*other, row()], [row()]) == 1


def test_a_problem_of_ones_own_is_compared_with_itself_only() -> None:
    """The kernels of two problems may differ, though their tiles and vectors are the same."""
    mine = row(geometry="one")
    assert against.compared([mine], [row(), row(geometry="other")]) == 0
    assert against.compared([mine], [row(), mine]) == 1


def test_what_changed_most_is_said_first_and_the_rest_is_counted() -> None:
    old = [row(tile=name) for name in "abc"]
    new = [row(tile=name, instructions_per_step=steps) for name, steps in zip("abc", (110, 150, 101), strict=True)]
    words, status = against.said(new, old, "old.json", most=1)
    assert status == 1
    assert words.splitlines() == [
        "3 of 3 kernels compared with old.json: 2 of them are worse.",
        "  fprop b, bfloat16 on sm_90, x8 y8: 50 more instructions in a step: 100 -> 150",
        "  and 1 more figures: --long lists them",
    ]
    assert "110" in against.said(new, old, "old.json")[0].splitlines()[-1]


def test_to_compare_nothing_is_an_error_and_to_find_nothing_worse_is_none() -> None:
    words, status = against.said([row()], [row(triton="3.6.0")], "old.json")
    assert (status, "nothing to compare" in words) == (1, True)
    assert against.said([row()], [row()], "old.json") == ("1 of 1 kernels compared with old.json: none is worse.", 0)
