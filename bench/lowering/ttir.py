"""What Triton makes of the kernels before it looks at the hardware: TTIR, with everything but names and places.

Beside it stands what Triton may specialize. Every integer is general here. In a launch it becomes a constant if it is
1, and aligned if it is a multiple of 16, unless the kernel forbids that.
"""

import hashlib
import re
from collections import defaultdict
from typing import Any

from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend

from bench.lowering.offline import source_of
from bench.lowering.variants import started
from tritonconv.launch.plan import Launch

TARGET = GPUTarget("cuda", 90, 32)


def hashes() -> dict[str, dict[str, str]]:
    """For each operator, and each launch of each variant, a hash of its TTIR."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for operator, name, launch in started():
        whole = f"{normalised(ttir(launch))}\n{specialized(launch)}"
        found[operator][name] = hashlib.sha256(whole.encode()).hexdigest()[:12]
    return dict(found)


def specialized(launch: Launch) -> list[tuple[bool, bool]]:
    """Of each parameter whether its value, and whether its alignment, must stay general."""
    return [(p.do_not_specialize, p.do_not_specialize_on_alignment) for p in launch.kernel.params]


def ttir(launch: Launch) -> str:
    """The kernel of a launch as TTIR for sm_90, after Triton's own simplifications, with no places in the source."""
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
    """The same with values numbered as they come, and every kernel of one name: only what is computed is left."""
    numbers: dict[str, str] = {}
    text = re.sub(r"%[\w$.-]+", lambda match: numbers.setdefault(match[0], f"%{len(numbers)}"), text)
    return re.sub(r"@[\w$.]+", "@kernel", text)
