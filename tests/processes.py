"""Code in a process of its own, in which faults can be planted."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# Seconds after which a process of a test is ended. On a busy machine the slowest takes a few minutes: only what hangs
# takes as long as this.
HANG = 1800
# What a process of a test does not inherit.
OWN = ("TRITON_INTERPRET", "TRITONCONV_IMPLEMENTATION", "CC")


def python(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python` with these arguments, the repository on its path, and these variables in its environment."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    inherited = {name: value for name, value in os.environ.items() if name not in OWN}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=inherited | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )


def seen(code: str, cache: Path, **environment: str) -> Any:
    """What `tests.pretend.observe` prints at the end of `code`, with Triton's cache in the folder `cache`."""
    done = python("-c", "from tests.pretend import *\n" + code, TRITON_CACHE_DIR=str(cache), **environment)
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr}"
    return json.loads(done.stdout)


def one_warning(found: Any, *words: str) -> None:
    assert len(found["warnings"]) == 1, found
    for word in ("FallbackWarning: tritonconv: ", *words):
        assert word in found["warnings"][0], found
