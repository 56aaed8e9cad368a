"""What was found in compiled kernels, kept on disk, so that a kernel is compiled and read only once.

A kernel is known by a hash of all that its machine code depends on: everything that Triton makes the TTIR from, the
options, the target, and Triton itself. Making the TTIR would take a tenth of a second or more for each kernel. It also
leaves out the lines of the source, which change the machine code a little.

The files are in `build/lowering`, so that `make clean` removes them and no checkout sees another's.
"""

import hashlib
import inspect
import json
import os
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import triton
from triton import knobs
from triton._C.libtriton import get_cache_invalidating_env_vars
from triton.compiler.compiler import make_backend
from triton.runtime.cache import get_cache_key

from bench.lowering import assembly, machine_code
from bench.lowering.machine_code import Code, Loop, target_of
from bench.lowering.offline import Job, launch_of, source_of

FOLDER = Path(__file__).parents[2] / "build" / "lowering"


def key_of(job: Job) -> str:
    """Return a hash of all that the job's `Code` depends on.

    Triton's own key has the text and lines of the kernel and of all functions that it calls, the types and constants of
    its arguments, the options, and Triton's files. It also has the version of ptxas and the variables of the
    environment that change what is compiled.
    """
    launch, target = launch_of(job), target_of(job)
    source, options = source_of(launch.kernel, launch.arguments)
    backend: Any = make_backend(target)
    parsed = backend.parse_options(options | source.parse_options())
    in_triton = get_cache_key(source, backend, parsed, env_vars=get_cache_invalidating_env_vars())
    return hashed(in_triton, str(target), triton.__version__, str(tools()), counting())


def hashed(*parts: str) -> str:
    """Return a hash of the parts. It changes if any of them does."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@cache
def tools() -> list[tuple[str, str]]:
    """Return the programs that read machine code, with their versions."""
    nvidia: Any = knobs.nvidia
    return [(tool.path, tool.version) for tool in (nvidia.cuobjdump, nvidia.nvdisasm)]


@cache
def counting() -> str:
    """Return a hash of the code that counts instructions. What older code counted is not used."""
    return hashed(*map(inspect.getsource, (assembly, machine_code)))


def read(key: str, folder: Path | None = None) -> Code | None:
    """Return what is kept for `key` in `folder` (by default FOLDER), or None.

    A file begins with a hash of the rest. If it has another one, it is damaged and not used.
    """
    with suppress(OSError, ValueError, TypeError):
        digest, _, text = path_of(key, folder).read_text().partition("\n")
        if digest == hashed(key, text):
            found = json.loads(text)
            return Code(**(found | {"loop": Loop(*found["loop"])}))
    return None


def write(key: str, code: Code, folder: Path | None = None) -> None:
    """Keep `code` for `key` in `folder` (by default FOLDER). Nothing is kept where the folder cannot be written."""
    path, text = path_of(key, folder), json.dumps(code._asdict())
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Other processes may write the same file at the same time. Renaming never shows half a file.
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write(f"{hashed(key, text)}\n{text}")
        os.replace(file.name, path)


def path_of(key: str, folder: Path | None) -> Path:
    """Return the path of the file for `key`."""
    return (folder or FOLDER) / key
