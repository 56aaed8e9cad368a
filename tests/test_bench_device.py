"""The standing GPU work: its clock, its record that is whole at any moment, and what it chooses to measure."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import results
from bench.device import cache, correctness
from bench.device.schedule import Clock, Record, in_time
from bench.device.speed import Unit, measure_all, profile, stale, units
from bench.layers import SMOKE, Layer, select
from bench.results import ROOT


class Time:
    """A clock's hand that is moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def worked(lasting: list[float], seconds: float, reserve: float = 0.0) -> int:
    """How many units of these lengths are begun within the time."""
    hand, begun = Time(), 0
    for length in in_time(lasting, Clock(seconds, hand), reserve):
        begun += 1
        hand.now += length
    return begun


def test_no_unit_is_begun_that_may_not_end_in_time() -> None:
    assert worked([1, 1, 1, 1], 4) == 4
    assert worked([1, 1, 1, 1], 3.5) == 3
    assert worked([1, 3, 1, 1], 6) == 2  # after one of 3, 2 are left
    assert worked([1, 1, 1, 1], 4, reserve=2) == 2
    assert worked([5, 1], 3) == 1
    assert worked([1], 0) == 0


HASH_OF_SNIPPET = "0b8153daeeca"


def environment(**kernels: str) -> dict[str, Any]:
    return {"gpu": "NVIDIA Test", "date": "2026-01-01", "kernels": kernels}


def test_the_record_is_whole_after_every_unit(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "layers.json"
    record = Record(path, part="layers", environment=environment(), ceilings={})
    for expected in (None, ["a", "b"]):
        assert results.load(path)["remaining"] == expected
        assert not results.load(path)["complete"]
        record.plan(["a", "b"])
    record.add("a", [{"layer": "a"}])
    assert results.load(path)["rows"] == [{"layer": "a"}]
    assert results.load(path)["remaining"] == ["b"]
    record.close("the time was up")
    assert (results.load(path)["complete"], results.load(path)["stopped"]) == (False, "the time was up")
    record.add("b", [{"layer": "b"}])
    record.close()
    assert results.load(path)["complete"]
    assert [p.name for p in path.parent.iterdir()] == ["layers.json"]


def test_a_failing_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    results.write(path, "old")

    def full(path: Path, _: str) -> None:
        path.touch()
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        results.write(path, "new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_smoke_rows_and_bfloat16_come_first() -> None:
    order = units(select("all"), ["bfloat16", "tf32"])
    assert [unit.of for unit in order[:4]] == ["fprop", "dgrad", "wgrad", "step"]
    measured = [name for name in SMOKE if "local" not in name]
    assert {unit.layer.name for unit in order[: 4 * len(measured)]} == set(measured)
    assert [unit.dtype for unit in order] == ["bfloat16"] * 176 + ["tf32"] * 176
    assert len({unit.name for unit in order}) == 352


HASHES = {"fprop": "1", "dgrad": "2", "wgrad": "3"}


def measured_row(unit: Unit, **changed: Any) -> dict[str, Any]:
    hashes = {name: HASHES[name] for name in results.KERNELS_OF[unit.of]}
    about = {"layer": unit.layer.name, "pass": unit.of, "contender": "triton", "dtype": unit.dtype}
    return {**about, "status": "ok", "kernels": hashes, "tile": {"a": "tile"}, **changed}


def test_only_what_changed_is_stale() -> None:
    everything = units(select("unet_up1,rn50_conv1"), ["bfloat16"])

    def names(known: list[dict[str, Any]] | None, hashes: dict[str, str] = HASHES, tile: str = "tile") -> set[str]:
        old = None if known is None else {"rows": known}
        return {f"{u.layer.name} {u.of}" for u in stale(everything, old, hashes, lambda _: {"a": tile})}

    rows = [measured_row(unit) for unit in everything]
    both = [f"{layer} {{}}".format for layer in ("unet_up1", "rn50_conv1")]
    assert names(rows) == set()
    assert names(None) == names([]) == {f(of) for f in both for of in ("fprop", "dgrad", "wgrad", "step")}
    assert names(rows, HASHES | {"wgrad": "new"}) == {f(of) for f in both for of in ("wgrad", "step")}
    assert names(rows, tile="another") == names(None)
    assert names(rows[1:]) == {f"{everything[0].layer.name} fprop"}
    wrong = measured_row(everything[0], status="wrong", tile=None, kernels=None)
    assert names([wrong, *rows[1:]]) == {f"{everything[0].layer.name} fprop"}


class FakeSession:
    """Measures the same of everything, or raises."""

    def __init__(self, outcome: str | Exception) -> None:
        self.outcome = outcome
        self.precompiled: list[Any] = []

    def record(self) -> dict[str, Any]:
        return {"environment": environment(), "ceilings": {}}

    def precompile(self, passes: Any) -> int:
        self.precompiled = list(passes)
        return len(self.precompiled)

    def measure(self, layer: Layer, of: str, dtype: str) -> list[dict[str, Any]]:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        row = {"layer": layer.name, "pass": of, "contender": "triton", "dtype": dtype, "status": self.outcome}
        return [row | {"reason": "because"}]


@pytest.mark.parametrize(
    ("outcome", "status", "done", "stopped"),
    [
        ("ok", 0, 4, None),
        ("skipped", 0, 4, None),
        ("wrong", 1, 4, None),
        ("failed", 1, 4, None),
        (RuntimeError("illegal memory access"), 1, 0, "rn50_conv1 fprop bfloat16: illegal memory access"),
    ],
)
def test_the_status_of_what_was_timed(
    outcome: str | Exception, status: int, done: int, stopped: str | None, tmp_path: Path
) -> None:
    session: Any = FakeSession(outcome)
    todo = units(select("rn50_conv1"), ["bfloat16"])
    kept: list[None] = []
    assert measure_all(session, todo, tmp_path / "layers.json", Clock(100), lambda: kept.append(None)) == status
    record = results.load(tmp_path / "layers.json")
    assert (len(record["rows"]), record["stopped"], record["complete"]) == (done, stopped, stopped is None)
    assert len(session.precompiled) == 4
    assert kept == [None]


def test_time_that_is_up_is_no_failure(tmp_path: Path) -> None:
    session: Any = FakeSession("ok")
    assert measure_all(session, units(select("smoke"), ["tf32"]), tmp_path / "a.json", Clock(1), lambda: None) == 0
    record = results.load(tmp_path / "a.json")
    assert (record["rows"], record["stopped"], len(record["remaining"])) == ([], "the time was up", 44)


def test_a_profile_is_of_one_call() -> None:
    def sort() -> torch.Tensor:
        return torch.arange(100_000.0).flip(0).sort().values

    few, many = (profile(sort, torch.device("cpu"), runs) for runs in (2, 20))
    assert few[0]["name"] == many[0]["name"] == "aten::sort"
    assert many[0]["us"] < 5 * few[0]["us"]
    assert many == sorted(many, key=lambda each: -each["us"])


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    for path in (ROOT / "tritonconv" / "kernels").glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    return tmp_path


def changed_hashes(folder: Path, name: str, old: str, new: str) -> set[str]:
    before = results.kernel_hashes(folder)
    path = folder / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    after = results.kernel_hashes(folder)
    return {operator for operator in before if before[operator] != after[operator]}


def test_the_hash_is_of_the_code(kernels: Path) -> None:
    assert results.kernel_hashes(kernels) == results.kernel_hashes()
    assert len(set(results.kernel_hashes().values())) == 3
    assert changed_hashes(kernels, "wgrad.py", "\nimport triton\n", "\n# a comment\nimport triton\n") == set()
    assert changed_hashes(kernels, "wgrad.py", "rows are filters", "rows are the filters") == set()
    assert changed_hashes(kernels, "wgrad.py", "import triton\n", "import triton\n\nx = 1\n") == {"wgrad"}


def test_the_hash_is_the_same_in_every_python(kernels: Path) -> None:
    """3.12 and 3.13 have other syntax trees than 3.11."""
    for name in results.OPERATORS:
        (kernels / f"{name}.py").write_text("def f(x, *, y: int = 1) -> str:\n    return f'{x}' + \"y\"  # words\n")
    assert set(results.kernel_hashes(kernels).values()) == {HASH_OF_SNIPPET}


def test_the_hash_follows_imports(kernels: Path) -> None:
    assert changed_hashes(kernels, "gemm.py", "import triton\n", "import triton\n\nx = 1\n") == {"fprop", "dgrad"}
    assert changed_hashes(kernels, "index.py", "import triton\n", "import triton\n\nx = 1\n") == set(HASHES)
    assert changed_hashes(kernels, "dgrad.py", "import triton\n", "import triton\n\nx = 1\n") == {"dgrad"}


def test_compiled_kernels_are_carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one folder into another, where Triton's index must name the files as they lie there."""
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    with cache.kept(tmp_path) as keep:
        first = Path(os.environ["TRITON_CACHE_DIR"])
        (first / "KEY").mkdir()
        (first / "KEY" / "kernel.cubin").write_bytes(b"code")
        group = {"child_paths": {"kernel.cubin": str(first / "KEY" / "kernel.cubin")}}
        (first / "KEY" / "__grp__kernel.json").write_text(json.dumps(group))
        keep()
        assert (tmp_path / cache.ARCHIVE).exists()
    assert "TRITON_CACHE_DIR" not in os.environ
    assert not first.exists()
    with cache.kept(tmp_path):
        second = Path(os.environ["TRITON_CACHE_DIR"])
        found = json.loads((second / "KEY" / "__grp__kernel.json").read_text())["child_paths"]
        assert Path(found["kernel.cubin"]).read_bytes() == b"code"
        assert Path(found["kernel.cubin"]).is_relative_to(second)


def test_a_broken_archive_is_no_hindrance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / cache.ARCHIVE).write_bytes(b"\xfd7zXZ\x00 and no more")
    with cache.kept(tmp_path):
        assert list(Path(os.environ["TRITON_CACHE_DIR"]).iterdir()) == []
    assert "can not be read" in capsys.readouterr().err


def test_without_a_folder_the_cache_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "mine")
    with cache.kept(None) as keep:
        keep()
        assert os.environ["TRITON_CACHE_DIR"] == "mine"


def device(folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "bench", "device", "--out", str(folder), "--rows", "rn50_c5_1x1_s2_down", *options]


# Also where there is a GPU.
WITHOUT_GPU = os.environ | {"CUDA_VISIBLE_DEVICES": ""}


def test_a_rehearsal(tmp_path: Path) -> None:
    """Both parts, stopped by their clocks: the tests wherever they are, the rest between two problems."""
    command = device(tmp_path, "--seconds", "25")
    done = subprocess.run(command, cwd=ROOT, env=WITHOUT_GPU, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["correctness.json", "layers.json", "layers.md"]
    correctness, layers = (results.read(tmp_path / f"{name}.json") for name in ("correctness", "layers"))
    assert "rehearsal" in correctness
    assert "rehearsal" in layers
    tests, problems = correctness["rows"]
    assert not tests["finished"]
    assert not tests["failures"]
    assert not problems["failures"]
    assert problems["problems"] > 0
    assert layers["environment"]["kernels"] == results.kernel_hashes()
    assert layers["rows"]
    for row in layers["rows"]:
        assert row["status"] == "ok", row
        assert ("kernels" in row) == (row["contender"] == "triton")
    assert layers["complete"] == (layers["remaining"] == [])


def test_the_tests_outcomes_are_collected() -> None:
    """Of those that ran, also if they were stopped."""
    done = list(correctness.run_tests(300, ["geometry"]))[-1]
    assert done["finished"]
    assert set(done["outcomes"]) == {"passed"}
    assert done["outcomes"]["passed"] >= 5
    assert done["failures"] == []
    stopped = list(correctness.run_tests(0.2, ["geometry"]))[-1]
    assert (stopped["finished"], stopped["outcomes"], stopped["failures"]) == (False, {}, [])
    missing = list(correctness.run_tests(300, ["nonsense"]))[-1]
    (failure,) = missing["failures"]
    assert failure["message"].startswith(("exit status 4", "exit status 5"))  # without xdist, with it
    assert "no tests ran" in failure["message"]


def test_random_problems_find_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that is off by a thousandth, in float32."""
    right = correctness.step

    def wrong(*arguments: Any) -> list[torch.Tensor]:
        return [part * 1.001 for part in right(*arguments)]

    cpu = torch.device("cpu")
    checked = [correctness.check_random(seed, False, "float32", cpu) for seed in range(4)]
    assert checked == [None] * 4
    monkeypatch.setattr(correctness, "step", wrong)
    assert all("is off by" in str(correctness.check_random(seed, False, "float32", cpu)) for seed in range(4))
    *_, found = correctness.random_problems(cpu, Clock(60), first=3)
    assert len(found["failures"]) == correctness.FAILURES
    assert {"seed", "transposed", "dtype", "what"} == set(found["failures"][0])
    assert found["seeds"][0] == 3


@pytest.mark.parametrize(("tests", "problems", "status"), [(0, 0, 0), (1, 0, 1), (0, 1, 1)])
def test_a_failure_is_told(
    tests: int, problems: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = {"test": "a", "message": "b"}
    of_tests = {"what": "tests", "finished": True, "outcomes": {}, "failures": [failed] * tests}
    of_problems = {"what": "random problems", "problems": 3, "failures": [failed] * problems, "stopped": None}
    monkeypatch.setattr(correctness, "run_tests", lambda seconds: iter([of_tests]))
    monkeypatch.setattr(correctness, "random_problems", lambda *_: iter([of_problems]))
    args = argparse.Namespace(out=tmp_path, seed=0)
    assert correctness.run(args, torch.device("cpu"), Clock(10), lambda: None) == status
    record = results.read(tmp_path / "correctness.json")
    assert record["rows"] == [of_tests, of_problems]
    assert record["complete"]


def alive(argument: str) -> bool:
    """Whether there is a process with such a part of an argument."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if argument in path.read_text(errors="replace") and path.parent.name != str(os.getpid()):
                return True
    return False


def test_told_to_stop_in_the_tests(tmp_path: Path) -> None:
    """Nothing goes on behind its back, and what the tests have found is there."""
    path, recorded = tmp_path / "correctness.json", str(tmp_path / "tmp")
    os.mkdir(recorded)
    command = device(tmp_path, "--part", "correctness", "layers", "--seconds", "200")
    with subprocess.Popen(command, cwd=ROOT, env=WITHOUT_GPU | {"TMPDIR": recorded}, stdout=subprocess.DEVNULL) as run:
        end = time.monotonic() + 120
        while time.monotonic() < end and not (path.exists() and results.read(path)["rows"]):
            time.sleep(0.1)
        assert alive(recorded)
        run.terminate()
        run.wait(30)
    left = results.read(path)
    assert left["rows"][0]["what"] == "tests"
    assert (left["complete"], left["stopped"]) == (False, "killed")
    assert not alive(recorded)


def test_killed_in_the_middle(tmp_path: Path) -> None:
    """Whatever was found by then is there, and the file is valid."""
    path = tmp_path / "layers.json"
    options = ("--part", "layers", "--seconds", "100", "--rows", "smoke")
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with subprocess.Popen(device(tmp_path, *options), cwd=ROOT, env=WITHOUT_GPU, **quiet) as run:
        end = time.monotonic() + 120
        while time.monotonic() < end and not (path.exists() and results.load(path)["rows"]):
            time.sleep(0.05)
        run.send_signal(signal.SIGKILL)
    left = results.load(path)
    assert left["rows"]
    assert not left["complete"]
    assert 0 < len(left["remaining"]) < 44
