"""Run by its path: a process that has imported torch, which takes long, and runs code in copies of itself.

It reads a run from each line of its input, as JSON: the code, the folder, the environment, and the files for what it
writes. It answers with the exit status, less than zero after a signal. Nothing of the package is imported here, nor is
Triton: the code may want to change either before it is imported.
"""

import ctypes
import json
import os
import signal
import sys
import traceback
from types import ModuleType

import numpy  # noqa: F401
import pytest  # noqa: F401
import torch  # noqa: F401


def run(code: str, folder: str, environment: dict[str, str], stdout: str, stderr: str) -> int:
    """In a copy: as `python -c code` would. Returns the exit status."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for place, path in ((0, os.devnull), (1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), place)
    sys.argv, sys.path[0] = ["-c"], ""
    sys.modules["__main__"] = main = ModuleType("__main__")
    try:
        exec(compile(code, "<string>", "exec"), vars(main))
    except SystemExit as left:
        if left.code is None or isinstance(left.code, int):
            return left.code or 0
        print(left.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def end_with_parent() -> None:
    """On Linux. Elsewhere what hangs stays behind if the tests are killed."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def serve() -> None:
    end_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            end_with_parent()
            sys.exit(run(**json.loads(line)))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    serve()
