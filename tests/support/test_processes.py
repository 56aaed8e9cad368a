"""A test's process behaves like `python -c`, new or forked, and one that hangs or dies gives a clear error."""

import os
import signal
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.processes import Done, fork_server, python, ran


def started(code: str, how: str) -> Done:
    return python("-c", code) if how == "anew" else ran(code)


@pytest.mark.parametrize("how", ["anew", "as a copy"])
@pytest.mark.parametrize(
    ("code", "status", "stdout", "stderr"),
    [
        ("print('said')", 0, "said\n", ""),
        ("import sys; print('said', file=sys.stderr)", 0, "", "said\n"),
        ("import sys; sys.exit(3)", 3, "", ""),
        ("import sys; sys.exit('said')", 1, "", "said\n"),
        ("import atexit; atexit.register(print, 'at the end')", 0, "at the end\n", ""),
        ("import os; os.kill(os.getpid(), 9)", -9, "", ""),
        ("print(__name__, [name for name in ('json', 'torch', '__file__') if name in vars()])", 0, "__main__ []\n", ""),
        ("import sys; print('triton' in sys.modules, 'tritonconv' in sys.modules)", 0, "False False\n", ""),
        ("import os; print(os.environ.get('TRITON_INTERPRET'))", 0, "None\n", ""),
    ],
)
def test_as_python_does(code: str, status: int, stdout: str, stderr: str, how: str) -> None:
    done = started(code, how)
    assert (done.returncode, done.stdout, done.stderr) == (status, stdout, stderr)


@pytest.mark.parametrize("how", ["anew", "as a copy"])
def test_an_error_is_told(how: str) -> None:
    done = started("1 / 0", how)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_one_does_not_change_the_next(tmp_path: Path) -> None:
    assert ran("import os, torch; torch.nothing = 1; os.environ['A'] = 'a'; os.chdir('/')").returncode == 0
    done = ran("import os, torch; print(hasattr(torch, 'nothing'), os.environ.get('A'), os.getcwd())", cwd=tmp_path)
    assert done.stdout == f"False None {tmp_path}\n"


def test_what_hangs_is_ended_and_the_next_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    first = fork_server().process
    monkeypatch.setattr(processes, "HANG", 0.5)
    with pytest.raises(TimeoutError, match="this took more than"):
        ran("import time; time.sleep(1000)")
    assert first.poll() is not None
    monkeypatch.undo()
    assert ran("print(1)").stdout == "1\n"


def test_a_fork_server_that_is_gone_is_told_and_another_takes_its_place() -> None:
    os.kill(fork_server().process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="the process that starts tests is gone"):
        ran("print(1)")
    assert ran("print(1)").stdout == "1\n"
