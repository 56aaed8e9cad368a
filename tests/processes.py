"""Code in a process of its own, in which faults can be planted."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def seen(code: str, cache: Path, **environment: str) -> Any:
    """What `tests.pretend.observe` prints at the end of `code`, with Triton's cache in the folder `cache`."""
    names = ("TRITON_INTERPRET", "TRITONCONV_IMPLEMENTATION", "CC")
    clean = {key: value for key, value in os.environ.items() if key not in names}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", "from tests.pretend import *\n" + code],
        env=clean | {"PYTHONPATH": path, "TRITON_CACHE_DIR": str(cache)} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr}"
    return json.loads(done.stdout)


def one_warning(found: Any, *words: str) -> None:
    assert len(found["warnings"]) == 1, found
    for word in ("FallbackWarning: tritonconv: ", *words):
        assert word in found["warnings"][0], found
