"""The processes of `tritonconv.warmup`. Whatever they do, it warns at most once, and the kernels compile here.

Most tests put a shell script in the place of Python. Its last argument is the file for the answer. The processes have
unlimited time, except where a test says that their time is over.
"""

import errno
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from triton.backends.compiler import GPUTarget

import tritonconv
from tests.support.hanging import Hanging, waiting
from tritonconv.launch.plan import Launch
from tritonconv.tools import parallel_compile, worker_process
from tritonconv.tools.parallel_compile import Elsewhere, compile_all

pytestmark = pytest.mark.oldest

JOBS = 3
Script = Callable[[str], None]


class Kernel:
    """A stand-in for a kernel. It notes what this process compiles."""

    def __init__(self, name: str, compiled: list[str]) -> None:
        self.__name__, self.compiled = name, compiled

    def warmup(self, grid: tuple[int, ...], **_: Any) -> None:
        self.compiled.append(self.__name__)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """A function that puts a shell script in the place of Python, and lifts the time limit."""
    monkeypatch.setattr(parallel_compile, "START_LIMIT", float("inf"))
    path = tmp_path / "python"

    def put(text: str) -> None:
        path.write_text(f'#!/bin/sh\ncd {tmp_path}\nfor answer in "$@"; do :; done\n{text}\n')
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return put


def outcome(monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[str]]:
    """Compile stand-ins for kernels in two processes. Return how many were compiled there, and all warnings.

    This process must load, and so compile, each kernel, whatever the others did.
    """
    monkeypatch.setattr("triton.runtime.driver", SimpleNamespace(active=Elsewhere(GPUTarget("cuda", 90, 32))))
    compiled: list[str] = []
    jobs = [Launch(Kernel(f"kernel_{i}", compiled), 1, {"N": i}) for i in range(JOBS)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        counts = compile_all(jobs, 2)
    assert compiled == ["kernel_0", "kernel_1", "kernel_2"]
    assert counts[1:] == (2, 0, 0)
    return counts[0], [str(each.message) for each in caught]


FAILURES = {
    "killed": ("kill -9 $$", "it was ended by signal 9 (Killed)"),
    "killed by a signal without a name": (
        "echo here; kill -40 $$",
        "it was ended by signal 40 (Real-time signal 6): here",
    ),
    "an exit status": ("echo why >&2; exit 3", "its exit status was 3: why"),
    "an exit status after the answer": ("echo 1 > $answer; exit 3", "its exit status was 3"),
    "the error is on stdout": ("echo why; echo >&2; exit 3", "its exit status was 3: why"),
    "an empty line": ("echo >&2; exit 1", "its exit status was 1"),
    "not UTF-8": (r"printf '\377\376' >&2; exit 1", "its exit status was 1: \ufffd\ufffd"),
    "control characters": (r"printf 'a\033[31m\007b\n' >&2; exit 1", "its exit status was 1: a\ufffd[31m\ufffdb"),
    "much": ("yes why | head -c 1000000 >&2; exit 1", "its exit status was 1: why"),
    "a long line": ("yes | head -c 1000000 | tr -d '\\n' >&2; exit 1", "its exit status was 1: " + "y" * 300),
    "nothing": ("exit 0", "it ended without an answer"),
    "words": ("echo 2; echo 2 >&2; exit 0", "it ended without an answer: 2"),
    "an empty answer": (": > $answer", "it answered b'' instead of how many of its 2 kernels it compiled"),
    "too many": (
        "echo 1000000 > $answer",
        r"it answered b'1000000\n' instead of how many of its 2 kernels it compiled",
    ),
    "negative": ("echo -1 > $answer", r"it answered b'-1\n' instead of how many of its 2 kernels it compiled"),
    "no number": (r"printf '\377' > $answer", r"it answered b'\xff' instead of how many of its 2 kernels it compiled"),
    "too many digits": (
        "yes 1 | head -c 100000 | tr -d '\\n' > $answer",
        f"it answered b'{'1' * 40}' instead of how many of its 2 kernels it compiled",
    ),
    "the answer is a folder": ("mkdir $answer", "it ended without an answer"),
    "a child that goes on": ("sleep 1000 & exit 1", "its exit status was 1"),
}


@pytest.mark.parametrize(("text", "reason"), FAILURES.values(), ids=FAILURES)
def test_a_process_that_fails(text: str, reason: str, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    script(text)
    elsewhere, warned = outcome(monkeypatch)
    assert elsewhere == 0
    assert_warned(warned, 2, reason)


def assert_warned(warned: list[str], failed: int, reason: str) -> None:
    """Assert that there is one warning, of `failed` failed processes and with exactly this reason."""
    said = (
        f"tritonconv.warmup: {failed} of 2 processes that compile kernels failed. This process compiles what is "
        "missing. The first reason"
    )
    assert warned == [f"{said}: {reason}"]


def no_process(error: BaseException) -> Callable[..., Any]:
    def popen(*_: Any, **__: Any) -> None:
        raise error

    return popen


@pytest.mark.parametrize(
    "error",
    [
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        OSError(errno.ENOMEM, "no memory"),
        MemoryError(),
    ],
    ids=str,
)
def test_a_process_that_can_not_be_forked(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", no_process(error))
    assert_warned(outcome(monkeypatch)[1], 2, f"it could not be started: {type(error).__name__}: {error}")


def test_python_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", f"{tmp_path}/none")
    reason = f"FileNotFoundError: [Errno 2] No such file or directory: '{tmp_path}/none'"
    assert_warned(outcome(monkeypatch)[1], 2, f"it could not be started: {reason}")


def test_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", f"{tmp_path}/none")
    elsewhere, warned = outcome(monkeypatch)
    assert elsewhere == 0
    assert len(warned) == 1
    assert "The first reason: it could not be started: FileNotFoundError" in warned[0]


@pytest.mark.parametrize("noise", ["", r"echo 7; echo 7 >&2; printf '\377\n'; printf '\377\n' >&2;", "sleep 1000 &"])
def test_what_is_printed_is_no_answer(noise: str, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    script(f"{noise} echo 1 > $answer; {noise} exit 0")
    assert outcome(monkeypatch) == (2, [])


def test_one_of_two_fails(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    script("mkdir first && echo why >&2 && exit 1; echo 1 > $answer")
    elsewhere, warned = outcome(monkeypatch)
    assert elsewhere == 1
    assert_warned(warned, 1, "its exit status was 1: why")


@pytest.fixture
def hanging(tmp_path: Path, script: Script) -> Iterator[Hanging]:
    """Hanging processes, in the place of Python."""
    processes = Hanging(tmp_path)
    script(processes.text())
    yield processes
    os.close(processes.pipe)


def test_a_process_that_hangs(hanging: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is that of warmup's documentation. Then the processes and their children are killed."""
    monkeypatch.setattr(parallel_compile, "START_LIMIT", 120.0)
    monkeypatch.setattr(parallel_compile, "time", SimpleNamespace(monotonic=lambda: 5.0))
    monkeypatch.setattr(worker_process, "time", SimpleNamespace(monotonic=lambda: 35.0))
    monkeypatch.setattr(subprocess, "Popen", waiting(hanging, *[subprocess.TimeoutExpired("python", 0)] * 2))
    elsewhere, warned = outcome(monkeypatch)
    assert elsewhere == 0
    assert_warned(warned, 2, "it had not ended after 150 s, the time limit, and was killed")
    assert hanging.limits == [120.0, 120.0]  # of which 30 are over
    hanging.assert_ended()
    assert "two minutes, and ten seconds more for each kernel" in " ".join(str(tritonconv.warmup.__doc__).split())


def test_the_limit_is_one_for_all(hanging: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was waited for after another has no more time than what is left."""
    monkeypatch.setattr(parallel_compile, "START_LIMIT", 0.0)
    monkeypatch.setattr(parallel_compile, "KERNEL_LIMIT", 0.1)
    assert_warned(outcome(monkeypatch)[1], 2, "it had not ended after 0.3 s, the time limit, and was killed")
    hanging.assert_ended()


def test_children_of_a_process_that_has_ended(
    hanging: Hanging, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script("exec 9> alive; sleep 1000 & echo 1 > $answer; exit 0")
    assert outcome(monkeypatch) == (2, [])
    hanging.assert_ended()


def test_an_interrupt_leaves_no_process_behind(hanging: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", waiting(hanging, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        outcome(monkeypatch)
    hanging.assert_ended()


def test_an_interrupt_between_two_starts(hanging: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    popen, started = subprocess.Popen, []

    def once(*args: Any, **kwargs: Any) -> Any:
        if started:
            hanging.until_running(1)
            raise KeyboardInterrupt
        started.append(popen(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", once)
    with pytest.raises(KeyboardInterrupt):
        outcome(monkeypatch)
    hanging.assert_ended()
