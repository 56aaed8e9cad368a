"""Processes that hang, and a stand-in for `subprocess.Popen` that does not wait for them."""

import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path


class Hanging:
    """Processes that hang, each with a child. `limits` are the seconds for which they were waited for."""

    def __init__(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "alive")
        self.pipe, self.heard = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK), b""
        self.limits: list[float] = []

    def text(self) -> str:
        """The shell script of a process. It and its child keep the pipe open as long as they run."""
        return "exec 9> alive; sleep 1000 & echo >&9; wait"

    def any_alive(self) -> bool:
        """Whether a process or its child has the pipe open."""
        with suppress(BlockingIOError):
            while read := os.read(self.pipe, 100):
                self.heard += read
            return False
        return True

    def until_running(self, processes: int) -> None:
        while len(self.heard) < processes:
            self.any_alive()
            time.sleep(0.01)

    def assert_ended(self) -> None:
        """Assert that all processes end, and give killed ones a minute for it."""
        end = time.monotonic() + 60
        while self.any_alive() and time.monotonic() < end:
            time.sleep(0.01)
        assert not self.any_alive()


def waiting(hanging: Hanging, *then: BaseException) -> type[subprocess.Popen[bytes]]:
    """Return a class of processes. The first waits for any of them end when two run, with one exception each."""
    left = [*then]

    class Process(subprocess.Popen[bytes]):
        def wait(self, timeout: float | None = None) -> int:
            if not left:
                return super().wait(timeout)
            hanging.until_running(2)
            assert timeout is not None
            hanging.limits.append(timeout)
            raise left.pop()

    return Process
