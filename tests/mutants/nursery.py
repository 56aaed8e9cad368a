"""Run by its path: a process that has imported what takes long, and starts each run of the tests as a copy of itself.

It reads one run per line as JSON, the folder and the files of tests in it, and answers with pytest's exit status.
Nothing of the package is imported here, and no bytecode is written: two mutants of one second and one size would be
taken for the same.
"""

import json
import os
import sys
from pathlib import Path

import numpy  # noqa: F401
import pytest
import torch  # noqa: F401


def test(folder: str, files: list[str], limit: int) -> int:
    os.chdir(folder)
    output = os.open("output.txt", os.O_CREAT | os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.path.insert(0, folder)
    sys.dont_write_bytecode = True
    os.environ["MUTANTS_LIMIT"] = str(limit)
    return int(pytest.main(["-x", "-q", "-m", "not slow", "-p", "watch", "-p", "no:xdist", *files]))


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            status = test(**json.loads(line))
            sys.stdout.flush()
            os._exit(status)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    assert str(Path(__file__).parent) in sys.path, "pytest finds its plugin there"
    main()
