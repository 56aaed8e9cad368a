"""Hashes of the kernels' TTIR: Triton's intermediate representation before it looks at the hardware.

Names and places in the source do not count. Each hash also covers which parameters Triton may specialize. The TTIR does
not show that, because every integer is general here. In a launch, Triton makes an integer that is 1 a constant, and
takes a multiple of 16 for aligned, unless the kernel forbids it.
"""

import hashlib
import re
from collections import defaultdict
from typing import Any

from torch import Tensor
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend

from bench.lowering.offline import source_of
from bench.lowering.variants import started
from tritonconv.launch.plan import Launch

TARGET = GPUTarget("cuda", 90, 32)


def hashes() -> dict[str, dict[str, str]]:
    """Return, by operator and by a launch's name in `started`, a hash of its TTIR and of what `specialized` returns."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for operator, name, launch in started():
        whole = f"{normalised(ttir(launch))}\n{specialized(launch)}"
        found[operator][name] = hashlib.sha256(whole.encode()).hexdigest()[:12]
    return dict(found)


def specialized(launch: Launch) -> list[tuple[bool, bool]]:
    """Return for each parameter whether the kernel forbids specializing on its value and on its alignment.

    Constants are left out, and so are arguments that are None: the TTIR shows their values. Triton does not specialize
    TMA descriptors, so these are left out, too.
    """
    return [
        (each.do_not_specialize, each.do_not_specialize_on_alignment)
        for each in launch.kernel.params
        if not each.is_constexpr and isinstance(launch.arguments[each.name], int | Tensor)
    ]


def ttir(launch: Launch) -> str:
    """Return the TTIR of a launch's kernel for sm_90, after Triton's simplifications, without source locations."""
    source, options = source_of(launch.kernel, launch.arguments)
    context, backend = ir.context(), make_backend(TARGET)
    ir.load_dialects(context)
    backend.load_dialects(context)
    options = backend.parse_options(options)
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options, source.language)
    generators, modules = backend.get_codegen_implementation(options), backend.get_module_map()
    module = source.make_ir(TARGET, options, generators, modules, context)
    return str(stages["ttir"](module, {}).str_nodebug())


def normalised(text: str) -> str:
    """Return the TTIR with values numbered in order and every function named `kernel`, so that names do not count."""
    numbers: dict[str, str] = {}
    text = re.sub(r"%[\w$.-]+", lambda match: numbers.setdefault(match[0], f"%{len(numbers)}"), text)
    return re.sub(r"@[\w$.]+", "@kernel", text)
