"""A fork server: a process that imports torch once and then runs code in forked copies of itself.

A test's code then starts without waiting for that import, which takes long. `processes.ForkServer` starts this file by
its path. Each line of its standard input is a job: the arguments of `run` as JSON. The answer to each is a line with
the exit status, which is negative after a signal.

Neither tritonconv nor Triton is imported here, because the code may want to change something before it imports them.
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
    """Run `code` in this process, a forked copy, as `python -c code` would, and return the exit status.

    `folder` becomes the working directory. `environment` replaces all environment variables. Output is appended to the
    files `stdout` and `stderr`.
    """
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
    """On Linux, have the operating system kill this process when its parent ends.

    On other systems this does nothing: there, a process that hangs outlives tests that were killed.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def serve() -> None:
    """Run the jobs of standard input one after the other, each in a forked copy, and print the exit status of each."""
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
