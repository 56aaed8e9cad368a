"""Code in a process of its own, in which faults can be planted."""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[2]
# Seconds after which a process of a test is ended. On a busy machine the slowest takes a few minutes: only what hangs
# takes as long as this. Mutants, which may hang, have a shorter time.
HANG = int(os.environ.get("TESTS_HANG", "900"))
# What a process of a test does not inherit.
OWN = ("TRITON_INTERPRET", "TRITONCONV_IMPLEMENTATION", "CC")

Done = subprocess.CompletedProcess[str]


def environment(**more: str) -> dict[str, str]:
    """That of a test's process: this one's, with the repository on Python's path, and these variables."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {name: value for name, value in os.environ.items() if name not in OWN} | {"PYTHONPATH": path} | more


def python(*arguments: str, cwd: Path = ROOT, **more: str) -> Done:
    """`python` with these arguments, and these variables in its environment."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )


class Nursery:
    """A process that has imported torch and starts what it is told to run as copies of itself."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nursery.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            start_new_session=True,
        )
        atexit.register(self.close)

    def run(
        self,
        code: str,
        folder: Path,
        environment: Mapping[str, str],
        stdout: Path,
        stderr: Path,
        limit: float | None = None,
    ) -> int:
        """Run the code in a folder. Returns its exit status, or less than zero after a signal.

        What it writes goes to two files, or to one. After `limit` seconds it is ended, with a TimeoutError.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        wanted = dict(
            code=code, folder=str(folder), environment={**environment}, stdout=str(stdout), stderr=str(stderr)
        )
        answer = ""
        with suppress(BrokenPipeError):
            print(json.dumps(wanted), file=self.process.stdin, flush=True)
            if not select.select([self.process.stdout], [], [], limit)[0]:
                self.close()
                raise TimeoutError(f"this took more than {limit} s: {code}")
            answer = self.process.stdout.readline()
        if not answer:
            self.close()
            raise RuntimeError(f"the process that starts tests is gone: exit status {self.process.returncode}")
        return int(answer)

    def close(self) -> None:
        """End it, and what it runs."""
        atexit.unregister(self.close)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with suppress(BrokenPipeError):
            self.process.communicate()


@cache
def nursery() -> Nursery:
    """One for all tests of this process."""
    return Nursery(environment())


def ran(code: str, cwd: Path = ROOT, **more: str) -> Done:
    """`python -c code` with these variables in its environment, but for the time that it takes to import torch."""
    with TemporaryDirectory() as folder:
        stdout, stderr = Path(folder) / "stdout", Path(folder) / "stderr"
        try:
            status = nursery().run(code, cwd, environment(**more), stdout, stderr, HANG)
        except (TimeoutError, RuntimeError):
            nursery.cache_clear()
            raise
        return subprocess.CompletedProcess(code, status, stdout.read_text(), stderr.read_text())


def seen(code: str, cache: Path, anew: bool = False, **more: str) -> Any:
    """What `tests.support.pretend.observe` prints at the end of `code`, with Triton's cache in the folder `cache`.

    The code runs in a copy of a process that imported torch. If `anew`, it runs in a new process, whose hashes and
    addresses are its own.
    """
    code = "from tests.support.pretend import *\n" + code
    run = partial(python, "-c", code) if anew else partial(ran, code)
    done = run(TRITON_CACHE_DIR=str(cache), **more)
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr}"
    return json.loads(done.stdout)


def one_warning(found: Any, *words: str) -> None:
    assert len(found["warnings"]) == 1, found
    for word in ("FallbackWarning: tritonconv: ", *words):
        assert word in found["warnings"][0], found
