"""Tests of mutation testing: the finder, and the runner on a tiny repository. A sample of real mutants is slow."""

import ast
import re
from collections.abc import Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.mutants import finder, runner
from tests.mutants.__main__ import main
from tests.mutants.equivalent import EQUIVALENT, stale
from tests.mutants.finder import ROOT, Mutant, find, gone
from tests.mutants.kinds import KINDS
from tests.mutants.runner import DIRECT, TESTS


@cache
def mutants() -> list[Mutant]:
    return find()


def found(source: str, folder: Path) -> dict[str, set[str]]:
    """Return the mutated code that the finder makes of a kernel with this source, by kind. Write it in `folder`."""
    kernels = folder / "tritonconv/kernels"
    kernels.mkdir(parents=True)
    (kernels / "some.py").write_text(source)
    mutants = find(folder)
    return {kind: {mutant.new for mutant in mutants if mutant.kind == kind} for kind in {m.kind for m in mutants}}


def test_there_are_many_of_every_kind() -> None:
    assert len(mutants()) >= 100
    assert {mutant.kind for mutant in mutants()} == set(KINDS)
    assert len({mutant.key for mutant in mutants()}) == len(mutants())


def same(before: bytes, after: bytes) -> int:
    """Return how many bytes two files have in common at their start."""
    return next(place for place, (a, b) in enumerate(zip(before, after, strict=False)) if a != b)


def test_each_is_one_change_that_parses() -> None:
    sources = {file: (ROOT / file).read_bytes() for file in {mutant.file for mutant in mutants()}}
    for mutant in mutants():
        before, after = sources[mutant.file], mutant.source
        ast.parse(after)
        changed = len(before) - same(before, after) - same(before[::-1], after[::-1])
        assert before != after
        assert mutant.old.encode() in before
        assert changed <= len(mutant.old.encode()), mutant


def test_no_reason_is_stale() -> None:
    gone_by = [f"{entry.file} {entry.function}: {entry.old} -> {entry.new}" for entry in stale(mutants())]
    assert not gone_by, (
        "entries of EQUIVALENT in tests/mutants/equivalent.py describe no mutant, because the code has changed. "
        "Adapt them if the mutant still exists and computes the same, else remove them:\n" + "\n".join(gone_by)
    )
    assert len({entry.key for entry in EQUIVALENT}) == len(EQUIVALENT), "an equivalent mutant is listed twice"


def test_what_is_not_mutated_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gone() == [], "tests/mutants/finder.py lists code that does not exist: correct or remove these entries"
    monkeypatch.setitem(finder.NOT_MUTATED, "tritonconv/no_such_file.py", "a reason")
    monkeypatch.setitem(finder.FUNCTIONS_NOT_MUTATED, "tritonconv/launch/start.py", {"no_such_function": "a reason"})
    assert gone() == ["tritonconv/no_such_file.py", "tritonconv/launch/start.py: no_such_function"]
    with pytest.raises(SystemExit, match="name missing code: tritonconv/no_such_file"):
        main(["--list"])


HARMLESS: set[str] = set()


def test_all_else_is_mutated() -> None:
    """A new file must give mutants, or be listed in `NOT_MUTATED` or `HARMLESS`."""
    files = {path.relative_to(ROOT) for path in (ROOT / "tritonconv").rglob("*.py") if path.name != "__init__.py"}
    mutated = {mutant.file for mutant in mutants()}
    harmless = {file.as_posix() for file in files if not finder.is_left_out(file)} - mutated
    assert harmless == HARMLESS, (
        f"these files give no mutants: {sorted(harmless - HARMLESS)}. List them, if that is right, in NOT_MUTATED of "
        "tests/mutants/finder.py with a reason, or in HARMLESS here if they have nothing to mutate. "
        f"These give mutants or are gone, so HARMLESS must not list them: {sorted(HARMLESS - harmless)}"
    )


def test_the_tests_exist() -> None:
    for name in TESTS:
        assert list((ROOT / name).glob("test_*.py")), f"{name} has no tests: correct TESTS in tests/mutants/runner.py"
    named = {place for file, direct in DIRECT.items() for place in (file, *direct)}
    missing = sorted(place for place in named if not (ROOT / place).exists())
    assert not missing, "DIRECT in tests/mutants/runner.py names files that do not exist"
    assert set(DIRECT) <= {mutant.file for mutant in mutants()}


@pytest.mark.parametrize(
    ("line", "kind", "wrong"),
    [
        ("return p < P", "bounds", {"return p <= P"}),
        ("return p // q", "signs", {"return p % q"}),
        ("return -p", "signs", {"return p"}),
        ("p += 1", "skips", {"pass"}),
        ("return p + P", "axes", {"return q + P", "return p + Q"}),
        ("return p & (q < Q) & P", "masks", {"return (q < Q) & P", "return p & P", "return p & (q < Q)"}),
        ("p = tl.where(q, p, 0)", "skips", {"pass"}),
        ("p = tl.where(q, p, 0)", "unset", {"p = 0"}),
        ("return tl.cdiv(p, q)", "splits", {"return (p // q)"}),
        ("return g * p + q", "offsets", {"return q"}),
        ("p = q.to(tl.int64)", "widths", {"p = q"}),
        ("tl.load(p, mask=q, other=0.0)", "unset", {"tl.load(p, mask=q, other=1.0)"}),
        ("tl.load(p, mask=q, other=0.0)", "masks", {"tl.load(p, mask=(q) | True, other=0.0)"}),
        ("p = tl.dot(q, Q, P)", "unset", {"p = tl.dot(q, Q)"}),
    ],
)
def test_what_is_written_wrongly(line: str, kind: str, wrong: set[str], tmp_path: Path) -> None:
    assert found(f"def kernel(p, q, P, Q, g):\n    {line}\n", tmp_path)[kind] == wrong


def test_what_is_left_alone(tmp_path: Path) -> None:
    source = '@jit(a + b)\ndef kernel(p: a < b, q=1 + 1):\n    """p < q"""\n    tile = tile_for(p + q)\n'
    assert found(source, tmp_path) == {}


KERNEL = """
def half(n):
    return n // 2

def count_down(n):
    while n > 0:
        n -= 1
"""
TEST = """
from tritonconv.kernels.some import count_down, half

def test_them():
    assert half(7) == {half}
    count_down(3)
"""


def repository(folder: Path, half: int = 3) -> list[str]:
    """Write a repository with two functions and a test of them, and return the options that run its mutants.

    The test expects `half` as the half of 7, so it passes on the unchanged code only with 3.
    """
    (folder / "tritonconv/kernels").mkdir(parents=True)
    for name in TESTS:
        (folder / name).mkdir(parents=True)
    (folder / "tritonconv/__init__.py").touch()
    (folder / "tritonconv/kernels/some.py").write_text(KERNEL)
    (folder / TESTS[0] / "test_some.py").write_text(TEST.format(half=half))
    return ["--root", str(folder), "--limit", "2", "--processes", "1", "--json", str(folder / "build/mutants.json")]


@pytest.mark.long
def test_survivors_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`n >= 0` makes one iteration more, which no test notices. Without `n -= 1` the loop never ends."""
    options = repository(tmp_path)
    assert main(options) == 1
    said = capsys.readouterr().out
    test = f"{TESTS[0]}/test_some.py::test_them"
    assert f"signs: return n // 2 -> return n % 2\n    killed by {test}" in said
    assert "bounds: n > 0 -> n >= 0\n    survived: all tests passed" in said
    assert f"skips: n -= 1 -> pass\n    hung, and so killed, in {test}" in said
    assert re.search(r"an entry with the reason in tests/mutants/equivalent.py:\n.* n > 0 -> n >= 0\n4 mutants", said)
    assert "4 mutants: 3 killed, 1 survived, 0 equivalent" in said
    assert main([*options, "--resume", options[-1], "--only", "half"]) == 0
    assert "1 mutants: 1 killed, 0 survived, 0 equivalent" in capsys.readouterr().out


def test_direct_tests_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant that they kill takes no other tests. With --direct, one that survives them takes none, either.

    A mutant that can not even be imported is killed before any test.
    """
    repository(tmp_path)
    (mutant,) = (each for each in find(tmp_path) if each.function == "half")
    direct = f"{TESTS[1]}/test_half.py"
    (tmp_path / direct).touch()
    monkeypatch.setattr(runner, "DIRECT", {mutant.file: (direct, f"{TESTS[1]}/test_missing.py")})
    started: list[list[str]] = []
    code = 0

    def start(_: object, copy: Path, limit: int, tests: Sequence[str]) -> int:
        started.append([*tests])
        (copy / "running.txt").write_text("a test")
        return code

    monkeypatch.setattr(runner, "start", start)
    server: Any = None
    for one in (mutant, None):
        assert runner.run(one, tmp_path, server).status == "survived"
        assert runner.run(one, tmp_path, server, direct_only=True).status == "survived"
    assert started == [[direct], [*TESTS], [direct]] * 2
    code = 1
    assert runner.run(mutant, tmp_path, server).status == "killed"
    monkeypatch.setattr(runner, "DIRECT", {})
    assert runner.run(mutant, tmp_path, server).status == "killed"
    assert started[6:] == [[direct], [*TESTS]]
    code = 4
    assert runner.run(mutant, tmp_path, server).test == "collection"
    with pytest.raises(AssertionError, match="found no tests"):
        runner.run(None, tmp_path, server)


def test_tests_that_fail_anyway_mean_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(repository(tmp_path, half=4)) == 2
    assert "Without any mutation" in capsys.readouterr().out


def test_outcomes_of_other_code_are_refused(tmp_path: Path) -> None:
    options = repository(tmp_path)
    assert main([*options, "--only", "half"]) == 0
    (tmp_path / "tritonconv/kernels/some.py").write_text(KERNEL + "\n")
    with pytest.raises(SystemExit, match="other code"):
        main([*options, "--resume", options[-1]])


def test_a_sample_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--count", "3", "--seed", "1"]) == 0
    said = capsys.readouterr().out
    assert said.endswith("3 mutants\n")
    assert "tritonconv/call.py of_gradient: it reports" in said


def test_some_can_be_chosen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By kind, and those whose file has direct tests."""
    monkeypatch.setattr("tests.mutants.__main__.find", lambda _: mutants())
    said = []
    for options in (["--kind", "widths"], ["--kind", "widths", "--direct"], ["--kind", "splits", "--direct"]):
        assert main(["--list", *options]) == 0
        said.append(capsys.readouterr().out.partition("\nMutants")[2].splitlines()[1:-1])
    assert all(": widths: " in line for line in said[0])
    assert (len(said[0]) > 0, len(said[1]), len(said[2]) > 0) == (True, 0, True)
    assert {line.partition(":")[0] for line in said[2]} <= set(DIRECT)


@pytest.mark.slow
def test_ten_real_mutants_are_killed() -> None:
    """The sample changes every day."""
    seed = date.today().toordinal()
    assert main(["--count", "10", "--seed", str(seed)]) == 0, f"python -m tests.mutants --count 10 --seed {seed}"


def test_names_are_readable() -> None:
    mutant = Mutant("a.py", "f", "p < P", "p <= P", 2, "bounds", 7, b"")
    assert str(mutant) == "a.py:7 f: bounds: p < P -> p <= P (occurrence 2)"
