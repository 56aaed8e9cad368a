"""The random problems as tests, and tests of the fuzzer: what it draws, and that it finds and shrinks an error."""

import sys
from collections import Counter
from dataclasses import fields, replace
from functools import cache
from typing import Any

import pytest
import torch

from tests.support.cases import LAYOUTS, Case
from tests.support.oracle import forward
from tests.support.plans import call_of, meta_factors, planned
from tests.support.processes import python
from tests.sweep import __main__ as command
from tests.sweep.check import wrong
from tests.sweep.problems import (
    DTYPES,
    GRADIENTS,
    MOST_CHANNELS,
    MOST_STEPS,
    drawn_tile,
    integers,
    problem,
    steps,
    steps_of,
)
from tests.sweep.shrink import shrink, simpler
from tritonconv.geometry import OPERATORS
from tritonconv.gpu import INTERPRETER
from tritonconv.launch import bounded_cache, planners

BLOCK = 20


@cache
def drawn() -> list[Case]:
    """Return the problems of the first 2,000 seeds."""
    return [problem(seed) for seed in range(2000)]


@pytest.mark.parametrize(
    "block", [pytest.param(n, marks=[pytest.mark.slow] if n >= 120 // BLOCK else []) for n in range(2000 // BLOCK)]
)
def test_random_problems(block: int, device: str) -> None:
    """Forward and all gradients must be right, so each problem tests all three operators."""
    for seed in range(BLOCK * block, BLOCK * block + BLOCK):
        found = wrong(problem(seed), device, integers(seed), seed)
        assert found is None, (
            f"the random problem of seed {seed} is wrong: {found}\n"
            f"to repeat and shrink it: python -m tests.sweep --seed {seed} --count 1"
        )


def test_a_seed_always_means_the_same_problem() -> None:
    assert problem(17) == drawn()[17] != drawn()[19]
    assert problem(3, "tf32") == replace(drawn()[3], dtype="tf32")
    assert eval(drawn()[5].line, {"Case": Case}) == drawn()[5]


def test_every_parameter_is_drawn() -> None:
    """Every value that the sweep promises must occur, often enough to be combined with the others."""
    conv = [case for case in drawn() if not case.transposed]
    assert len(conv) == 1000
    found = {field.name: Counter(getattr(case, field.name) for case in drawn()) for field in fields(Case)}
    least = {
        "batch": [None, 0, 1, 2, 3],
        "groups": [1, 2, 3, 4],
        "x": LAYOUTS,
        "weight": LAYOUTS,
        "gradient": GRADIENTS,
        "dtype": DTYPES,
        "bias": [False, True],
        "padding_mode": ["reflect", "replicate", "circular"],
        "bias_layout": ["sliced", "repeated", "offset"],
    }
    for name, values in least.items():
        for value in values:
            assert found[name][value] >= 20, (name, value)
    assert {c for case in drawn() for c in case.channels} == set(range(1, MOST_CHANNELS + 1))
    assert {k for case in drawn() for k in case.kernel} == set(range(1, 8))
    assert {s for case in drawn() if case.padding != "same" for s in case.stride} == {1, 2, 3, 4}
    assert {d for case in drawn() for d in case.dilation} == {1, 2, 3}
    assert sum(case.kernel[0] != case.kernel[1] for case in drawn()) > 1000
    assert sum(case.padding == "same" for case in conv) > 100
    assert sum(case.groups == case.channels[0] > 1 for case in drawn()) > 100
    assert sum(case.transposed and max(case.output_padding) > 0 for case in drawn()) > 300
    beyond = [c for c in conv if c.padding != "same" and c.padding[0] > c.dilation[0] * (c.kernel[0] - 1) + 1]
    assert len(beyond) > 50
    assert {integers(seed) for seed in (0, 1)} == {True} != {integers(seed) for seed in (2, 3)}


def test_several_tiles_meet() -> None:
    """Problems must take several tiles of rows, of columns and of the reduction, also all at once, and split-K sums."""
    met: Counter[str] = Counter()
    for seed, case in enumerate(drawn()):
        if case.batch == 0:
            continue
        for operator in OPERATORS:
            tile, (M, N, K, _) = drawn_tile(seed, operator, case.geometry), case.geometry.gemm(operator)
            assert steps_of(operator, case.geometry, tile) <= MOST_STEPS
            taps = 1 if operator == "wgrad" else case.geometry.R * case.geometry.S
            several = M > tile.BLOCK_M, N > tile.BLOCK_N, K // taps > tile.BLOCK_K
            for axis, more in zip("MNK", several, strict=True):
                met[f"{operator} {axis}"] += more
            met[f"{operator} all"] += all(several)
            met["split"] += tile.SPLIT_K > 1 and K > tile.BLOCK_K
    assert min(count for what, count in met.items() if "all" not in what) >= 50, met
    assert min(met.values()) >= 5, met


def test_problems_are_legal_and_small() -> None:
    for case in drawn()[:500]:
        sides = {case.geometry.image_shape, case.geometry.feature_shape}
        result = forward(case, *(torch.empty_like(t) if t is not None else None for t in case.operands()))
        if case.batch is not None and case.padding_mode == "zeros":
            assert sides == {case.input_shape, tuple(result.shape)}, case
        assert max(steps(case.geometry).values()) <= MOST_STEPS


@pytest.mark.parametrize("seed", range(12))
def test_steps_are_those_that_are_launched(seed: int) -> None:
    """The estimate of steps must be at least the number of programs that are launched."""
    case = drawn()[seed]
    promised, geometry = steps(case.geometry), case.geometry
    for operator in OPERATORS:
        plan = planned(call_of(operator, geometry, meta_factors(geometry)), gpu=INTERPRETER)
        assert sum(each.programs for each in plan.launches[:1]) <= promised[operator]


def test_shrinking_ends_where_nothing_simpler_is_wrong() -> None:
    def wide(case: Case) -> bool:
        return case.kernel[1] >= 2 and case.channels[0] > 3 and case.x == "sliced"

    case = Case("drawn", 3, (12, 6), (7, 9), (5, 3), (2, 3), (2, 1), (1, 3), groups=3, x="sliced", weight="offset")
    least = shrink(case, wide)
    assert least.line == "Case('drawn', channels=(4, 1), size=(1, 1), kernel=(1, 2), padding=(0, 1), x='sliced')"
    assert wide(least)
    assert not any(wide(each) for each in simpler(least))


def off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant an error: a padding of rows of two or more counts as one."""
    plain = planners.integers

    def planted(*args: Any) -> dict[str, int]:
        found = plain(*args)
        return found | {"pad_h": min(found["pad_h"], 1)}

    monkeypatch.setattr(planners, "integers", planted)


def test_a_planted_error_is_found_shrunk_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    off_by_one(monkeypatch)
    monkeypatch.setattr(sys, "argv", ["sweep", "--count", "30"])
    assert command.main() == 1
    said = capsys.readouterr().out
    line = said.strip().splitlines()[-1].strip().removesuffix(",")
    least = eval(line, {"Case": Case})
    assert least.padding[0] == 2
    assert (least.channels, least.stride, least.groups, least.x) == ((1, 1), 1, 1, "contiguous")
    assert "integers are wrong" in said or "allowed" in said
    seed = said.split("--seed ")[1].split()[0]
    assert problem(int(seed)).padding != "same"
    monkeypatch.undo()
    bounded_cache.clear()
    assert wrong(least, "cuda" if torch.cuda.is_available() else "cpu", True, int(seed)) is None


def test_as_a_command() -> None:
    done = python("-m", "tests.sweep", "--seed", "4", "--count", "2", "--dtype", "float16")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 random problems (seeds 4 to 5), none is wrong")
