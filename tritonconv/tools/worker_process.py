"""Python processes that compute an answer within a time limit. Whatever they do, the caller gets an answer or a reason.

A process gets its input as a file. It writes its answer to another file, so that nothing that is printed can be taken
for it. What it prints is kept only to explain a failure.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

# How much of what a process printed is read, from the end, and how much of its last line an error quotes.
READ, QUOTED = 4096, 300
# A process that was killed ends at once, unless the system can not end it, for example while a disk does not answer.
KILLED_WITHIN = 10.0


class WorkerProcessFailed(Exception):
    """A process gave no answer. The message says why."""


class WorkerProcess(NamedTuple):
    """A process that `started` has started, and the folder of its files: input, answer, stdout and stderr."""

    process: subprocess.Popen[bytes]
    folder: Path

    def answer(self, start: float, limit: float) -> bytes:
        """Wait until the process ends, and return its answer, or the first `READ` bytes of a longer one.

        Raise WorkerProcessFailed if the process fails, if it ends without an answer, or if it is still running when
        the clock `time.monotonic` is `limit` seconds past `start`.
        """
        try:
            status = self.process.wait(max(0.0, start + limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise WorkerProcessFailed(f"it had not ended after {limit:g} s, the time limit, and was killed") from None
        kill(self.process)  # what it has started; at once, because the system gives its number to others later
        if status < 0:
            name = signal.strsignal(-status)
            raise WorkerProcessFailed(f"it was ended by signal {-status} ({name}){self.last_words()}")
        if status > 0:
            raise WorkerProcessFailed(f"its exit status was {status}{self.last_words()}")
        try:
            with (self.folder / "answer").open("rb") as file:
                return file.read(READ)
        except OSError:
            raise WorkerProcessFailed(f"it ended without an answer{self.last_words()}") from None

    def last_words(self) -> str:
        """Return ": " and the last line that the process printed, on stderr or else on stdout, or "" if none."""
        for name in ("stderr", "stdout"):
            with (self.folder / name).open("rb") as file:
                file.seek(-min(READ, file.seek(0, os.SEEK_END)), os.SEEK_END)
                lines = file.read(READ).decode(errors="replace").strip().splitlines()
            if lines:
                return ": " + "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in lines[-1][:QUOTED])
        return ""


@contextmanager
def started(code: str, input: bytes) -> Iterator[WorkerProcess]:
    """Start a process that runs `code`, and when the context is left, kill it and the processes that it has started.

    `input` is its standard input. `sys.argv[1]` is the path of the file for its answer. It imports the same modules as
    this process. Raise an exception of any class if it can not be started.
    """
    # -P keeps the current directory from hiding modules.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path if isinstance(entry, str))
    with TemporaryDirectory(prefix="tritonconv-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "input").write_bytes(input)
        with (
            (folder / "input").open("rb") as stdin,
            (folder / "stdout").open("wb") as stdout,
            (folder / "stderr").open("wb") as stderr,
        ):
            process = subprocess.Popen(
                [sys.executable or "python3", "-P", "-c", code, str(folder / "answer")],
                stdin=stdin,
                # A pipe would stay open in a child that outlives the process. Files do not make anyone wait.
                stdout=stdout,
                stderr=stderr,
                env=os.environ | {"PYTHONPATH": path},
                start_new_session=True,  # a process group, which can be killed as a whole
            )
        try:
            yield WorkerProcess(process, folder)
        finally:
            if process.returncode is None:
                kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill all processes in the group of `process`, and wait until it has ended."""
    with suppress(ProcessLookupError, PermissionError):  # macOS denies to kill a group that has ended
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(KILLED_WITHIN)
