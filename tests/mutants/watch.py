"""A pytest plugin for mutants: it limits the time of each test, and writes the running test's name to a file.

runner.py puts this folder on Python's path and loads the plugin as `watch`.
"""

import os
import signal
from pathlib import Path

# Seconds of processor time that one test may take. The slowest takes about ten, so this is enough on a busy machine.
LIMIT = int(os.environ.get("MUTANTS_LIMIT", "90"))
# A test that waits, for another process say, may take so many times `LIMIT` in real time.
WAITING = 4
RUNNING = Path("running.txt")


def watch(name: str, limit: int = LIMIT) -> None:
    """Write `name` to `RUNNING` as what is running, and restart both timers. Each ends the process by a signal.

    One counts `limit` seconds of processor time, the other WAITING * `limit` seconds of real time.
    """
    RUNNING.write_text(name)
    signal.setitimer(signal.ITIMER_PROF, limit)
    signal.alarm(WAITING * limit)


def pytest_configure() -> None:
    watch("collection", 180)


def pytest_runtest_logstart(nodeid: str) -> None:
    watch(nodeid)


def pytest_sessionfinish() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.alarm(0)
