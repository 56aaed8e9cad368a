"""Run a test's code in a separate process, in which it may plant faults without harm to other tests."""

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
# Seconds after which a test's process is killed. The slowest takes a few minutes on a busy machine, so only a process
# that hangs takes this long. Mutation testing sets a shorter limit, because mutants often hang.
HANG = int(os.environ.get("TESTS_HANG", "900"))
# Environment variables that a test's process does not inherit.
OWN = ("TRITON_INTERPRET", "TRITONCONV_IMPLEMENTATION", "CC")

Done = subprocess.CompletedProcess[str]


def environment(**more: str) -> dict[str, str]:
    """Return the environment for a test's process.

    It is this process's, without `OWN`, with the repository on PYTHONPATH, and with the variables in `more`.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {name: value for name, value in os.environ.items() if name not in OWN} | {"PYTHONPATH": path} | more


def python(*arguments: str, cwd: Path = ROOT, **more: str) -> Done:
    """Run `python` with these arguments in a new process, and return its exit status and output.

    `more` are variables for its environment. Raise subprocess.TimeoutExpired if it takes more than HANG seconds.
    """
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )


class ForkServer:
    """A fork server (fork_server.py): a process that has imported torch, and runs code in forked copies of itself."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fork_server.py"))],
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
        """Run `code` in `folder` and return its exit status, which is negative after a signal.

        `environment` has all its variables. Its output goes to the files `stdout` and `stderr`, which may be the same
        file. Raise TimeoutError if the code takes more than `limit` seconds (None: no limit), and RuntimeError if the
        server has died. In both cases the server is closed.
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
                raise TimeoutError(f"this took more than {limit} s and was killed: {code}")
            answer = self.process.stdout.readline()
        if not answer:
            self.close()
            raise RuntimeError(
                f"the process that starts tests is gone: exit status {self.process.returncode}; running: {code}"
            )
        return int(answer)

    def close(self) -> None:
        """Kill the server's process group, and wait until the server has ended. It can not be used again.

        The group holds the server, the forked copy that runs code, and what that code has started in the same group.
        """
        atexit.unregister(self.close)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with suppress(BrokenPipeError):
            self.process.communicate()


@cache
def fork_server() -> ForkServer:
    """Return the fork server that all tests of this process share. The first call starts it."""
    return ForkServer(environment())


def ran(code: str, cwd: Path = ROOT, **more: str) -> Done:
    """Run code as `python("-c", code)` does, but in a forked copy of a process that has already imported torch.

    `more` are variables for its environment. Raise TimeoutError if the code takes more than HANG seconds, and
    RuntimeError if the shared server has died. In both cases the next call starts another server.
    """
    with TemporaryDirectory() as folder:
        stdout, stderr = Path(folder) / "stdout", Path(folder) / "stderr"
        try:
            status = fork_server().run(code, cwd, environment(**more), stdout, stderr, HANG)
        except (TimeoutError, RuntimeError):
            fork_server.cache_clear()
            raise
        return subprocess.CompletedProcess(code, status, stdout.read_text(), stderr.read_text())


def seen(code: str, cache: Path, anew: bool = False, **more: str) -> Any:
    """Run code that ends with `observe(...)`, and return what `observe` printed as a dict.

    All names of `tests.support.pretend` are imported before the code. Triton's disk cache is the folder `cache`. `more`
    are variables for the environment. The code runs in a forked copy that has imported torch or, if `anew`, in a new
    process, with hashes and addresses of its own. Raise AssertionError if its exit status is not 0.
    """
    code = "from tests.support.pretend import *\n" + code
    run = partial(python, "-c", code) if anew else partial(ran, code)
    done = run(TRITON_CACHE_DIR=str(cache), **more)
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr}"
    return json.loads(done.stdout)


def one_warning(found: Any, *words: str) -> None:
    """Assert that `seen` returned exactly one warning, a FallbackWarning that contains all these words."""
    assert len(found["warnings"]) == 1, found
    for word in ("FallbackWarning: tritonconv: ", *words):
        assert word in found["warnings"][0], found
