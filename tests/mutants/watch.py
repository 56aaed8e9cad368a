"""A pytest plugin that is loaded by its path: a time limit for each test, and a note of which one is running."""

import os
import signal
from pathlib import Path

# Seconds of processor time that one test may take; the slowest takes some ten of them. On a busy machine they last.
LIMIT = int(os.environ.get("MUTANTS_LIMIT", "90"))
# How many times as long a test may wait for something else, another process say.
WAITING = 4
RUNNING = Path("running.txt")


def watch(name: str, limit: int = LIMIT) -> None:
    """From here on `name` is what fails. The timer ends the process, wherever it is."""
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
