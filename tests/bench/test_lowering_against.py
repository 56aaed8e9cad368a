"""What `python -m bench lowering --against` calls worse, in words, and what it prints by default."""

from typing import Any

import pytest

from bench.lowering.against import compared, longer_steps, regressions
from bench.lowering.overview import listed, overview
from bench.lowering.table import Row


def row(**changed: Any) -> Row:
    about = dict(kernel="fprop", tile="128x128x64w8s3", dtype="bfloat16", arch="sm_90", x_vector=8, y_vector=8)
    found = dict(
        spill_bytes=0, shared_bytes=1000, mma="HGMMA", copy="LDGSTS.128", instructions_per_step=100, occupancy=0.5
    )
    found |= {"bound_tflops": 1000, "registers": 168}
    return about | found | {"triton": "3.7.1"} | changed


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"spill_bytes": 8}, "8 more bytes spilled: 0 -> 8"),
        ({"shared_bytes": 1001}, "1 more bytes of shared memory: 1,000 -> 1,001"),
        ({"mma": None}, "other opcodes multiply: HGMMA -> none"),
        ({"copy": "LDGSTS.32"}, "other opcodes copy: LDGSTS.128 -> LDGSTS.32"),
        ({"instructions_per_step": 103}, "3 more instructions a step: 100 -> 103, 3% more"),
        ({"instructions_per_step": None}, "no main loop is found: it took 100 instructions a step"),
        ({"registers": 180, "occupancy": 0.25}, "lower occupancy: 0.5 -> 0.25 (12 more registers: 168 -> 180)"),
        ({"occupancy": 0.25}, "lower occupancy: 0.5 -> 0.25"),
    ],
)
def test_regressions_are_found(changed: dict[str, Any], words: str) -> None:
    (found,) = regressions([row(**changed)], [row()])
    assert found.endswith(words)
    assert found.startswith("fprop 128x128x64w8s3 bfloat16 sm_90, vectors of 8 and 8: ")


def test_a_main_loop_that_appears_is_told() -> None:
    (found,) = regressions([row()], [row(instructions_per_step=None)])
    assert found.endswith("a main loop is found where there was none: 100 instructions a step")


def test_more_registers_count_only_with_a_lower_occupancy() -> None:
    assert regressions([row(registers=180)], [row()]) == []


def host_row(**changed: Any) -> Row:
    return row(host_descriptors=True, **changed)


def test_with_the_hosts_descriptors_instructions_count_only_as_far_as_the_bound_grows() -> None:
    """Rows with descriptors of the same kind are compared as always, and so are the other figures."""
    assert regressions([host_row(instructions_per_step=150)], [row()]) == []
    assert regressions([host_row(instructions_per_step=150)], [row(host_descriptors=False)]) == []
    (found,) = regressions([host_row(instructions_per_step=150)], [host_row()])
    assert found.endswith("50 more instructions a step: 100 -> 150, 50% more")
    (found,) = regressions([row(instructions_per_step=150, host_descriptors=False)], [row()])
    assert found.endswith("50 more instructions a step: 100 -> 150, 50% more")
    assert regressions([host_row(bound_tflops=870)], [row()]) == []
    (found,) = regressions([host_row(bound_tflops=869)], [row()])
    assert found.endswith("a lower bound, by 13%: 1000 -> 869 TFLOP/s")
    assert regressions([host_row(bound_tflops=869)], [host_row()]) == []
    (found,) = regressions([host_row(instructions_per_step=None, bound_tflops=None)], [row()])
    assert found.endswith("no main loop is found: it took 100 instructions a step")
    (found,) = regressions([host_row(spill_bytes=4)], [row()])
    assert found.endswith("4 more bytes spilled: 0 -> 4")


def test_longer_steps_are_counted() -> None:
    old = [row(tile=name, instructions_per_step=steps) for name, steps in [("a", 100), ("b", 300), ("c", 100)]]
    new = [host_row(tile=name, instructions_per_step=steps) for name, steps in [("a", 110), ("b", 312), ("c", 90)]]
    empty = [row(tile="d", instructions_per_step=None)]
    assert longer_steps(new + empty, old + empty) == (
        "2 of 3 kernels take more instructions a step: at most 12 more (300 -> 312), and at most 10% "
        "(fprop a bfloat16 sm_90, vectors of 8 and 8)."
    )
    assert longer_steps(old, old) == "0 of 3 kernels take more instructions a step."


def test_what_is_better_or_can_not_be_compared_is_no_regression() -> None:
    better = row(instructions_per_step=90, occupancy=0.75, shared_bytes=500)
    assert regressions([better, row(instructions_per_step=102)], [row()]) == []
    other = [row(triton="3.6.0", spill_bytes=8), row(tile="64x64x64w4s3", spill_bytes=8)]
    assert regressions(other, [row()]) == []
    assert compared([*other, row()], [row()]) == 1


def compiled(kernel: str, count: int, **changed: Any) -> list[Row]:
    """Return rows of a kernel whose figures grow from row to row: registers 100, 101, ..., instructions 50, 51, ..."""
    return [
        row(
            kernel=kernel,
            tile=f"{kernel}-{number}",
            registers=100 + number,
            occupancy=1 - number / 100,
            instructions_per_step=50 + number,
            instructions_per_mma_cycle=number / 10,
            ffma_share=None,
            layers=["one", "two"],
        )
        | changed
        for number in range(count)
    ]


def test_a_screen_shows_a_line_for_each_kernel_and_the_worst_rows() -> None:
    rows = [*compiled("fprop", 30), *compiled("sum", 3, instructions_per_step=None, instructions_per_mma_cycle=None)]
    rows[3]["spill_bytes"] = 8
    text = overview(rows)
    lines = text.splitlines()
    assert len(lines) <= 40
    assert lines[0].startswith("compiled ")
    (fprop,) = [line.split() for line in lines if line.startswith("fprop ") and "to" in line]
    assert fprop == ["fprop", "30", "1", "129", "0.71", "50", "to", "79", "2.9"]
    (added,) = [line.split() for line in lines if line.startswith("sum ")]
    assert added == ["sum", "3", "0", "102", "0.98", "-", "-"]
    assert [line.split()[1] for line in lines if " fprop-" in line] == [f"fprop-{n}" for n in (29, 28, 27, 26, 25)]
    assert lines[-1] == "--long shows all 33 kernels, with every column."


def test_every_row_is_shown_if_asked_or_if_they_fit() -> None:
    many, few = compiled("fprop", 30), compiled("fprop", 20)
    assert all(f" {each['tile']} " in overview(many, long=True) for each in many)
    assert all(f" {each['tile']} " in overview(few) for each in few)
    assert " fprop-1 " not in overview(many)
    assert overview(few).startswith("x, y ")


def test_long_lists_are_cut_and_say_so() -> None:
    lines = [str(number) for number in range(12)]
    assert listed(lines).splitlines() == [*lines[:10], "and 2 more: --long shows them"]
    assert listed(lines, long=True).splitlines() == lines
    assert listed(lines[:10]).splitlines() == lines[:10]
