"""Compile fprop offline, for GPUs that need not be there, and read what came out of the machine code.

Run as `python -m tests.lowering sm_90 bfloat16`, or gfx942; prints one JSON object per tile. It is a program of its own
because a process that interprets kernels can not compile them.
"""

import json
import re
import subprocess
import sys
import tempfile
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tritonconv import launch, tiles
from tritonconv.kernels.fprop import fprop_kernel
from tritonconv.ops import Sampling, geometry_of


def arguments(dtype: torch.dtype, operands: tiles.Operands, tile: tiles.Tile, even: bool) -> dict[str, Any]:
    """What the launcher passes for 3x3 taps in NHWC: channels aligned to `operands.vector`, filters if `even`."""
    C, F = 64 + operands.vector % 8, 64 + (not even)
    size = dict(dtype=dtype, device="meta")
    x = torch.empty(2, C, 8, 8, **size).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.empty(F, 3, 3, C, **size), torch.empty(F, **size)
    y = torch.empty(2, F, 6, 6, **size).contiguous(memory_format=torch.channels_last)
    geometry = geometry_of("fprop", x.shape, (F, C, 3, 3), Sampling((6, 6), (1, 1), (0, 0), (1, 1), 1, "triton"))
    return launch.fprop_arguments(x, weight, bias, y, geometry, tile)


def compiled(values: dict[str, Any], target: GPUTarget) -> Any:
    """The kernel compiled for `target`, specialised as Triton would specialise it for these arguments."""
    options = {name: values.pop(name) for name in ("num_warps", "num_stages")}
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(fprop_kernel.params):
        value = values[parameter.name]
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = "*" + {2: "bf16", 4: "fp32"}[value.element_size()]
            attributes[(index,)] = [] if parameter.do_not_specialize_on_alignment else [["tt.divisibility", 16]]
        elif parameter.is_constexpr:
            signature[parameter.name] = "constexpr"
            constants[(index,)] = value
        else:
            signature[parameter.name] = "i32"
    source = ASTSource(fprop_kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=target, options=options)


def machine_code(cubin: bytes) -> tuple[str, str]:
    """Resource usage and disassembly, by the tools in Triton's own wheel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tools = triton.knobs.nvidia
        commands = [[tools.cuobjdump.path, "-res-usage", file.name], [tools.nvdisasm.path, "-c", file.name]]
        usage, code = (subprocess.run(c, capture_output=True, text=True, check=True).stdout for c in commands)
    return usage, code


def lower(
    dtype: torch.dtype, operands: tiles.Operands, tile: tiles.Tile, even: bool, capability: int
) -> dict[str, Any]:
    """One row: registers, spills, shared memory, and which instructions multiply and copy."""
    values = arguments(dtype, operands, tile, even)
    if operands.exact:
        values["PRECISION"] = "ieee"
    kernel = compiled(values, GPUTarget("cuda", capability, 32))
    usage, code = machine_code(kernel.asm["cubin"])
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())  # type: ignore[union-attr]
    instructions = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", code)
    return {
        "vector": operands.vector,
        "exact": operands.exact,
        "align": [values["ALIGN_X"], values["ALIGN_Y"]],
        "tile": [tile.BLOCK_M, tile.BLOCK_N, tile.BLOCK_K, tile.num_warps, tile.num_stages],
        "registers": registers,
        "stack": stack,
        "spills": sum(name.startswith(("STL", "LDL")) for name in instructions),
        "shared": kernel.metadata.shared,
        "promised": tile.shared_bytes(operands.itemsize),
        "mma": sorted({name for name in instructions if re.match(r"HMMA|HGMMA|UTC.*MMA", name)}),
        "copies": sorted({name for name in instructions if name.startswith("LDGSTS")}),
    }


def lower_for_amd(arch: str) -> None:
    """One row for each tile in bfloat16: that it compiles, its shared memory, and whether matrix cores multiply."""
    device = tiles.Device.of(0, 304)
    for operands in (tiles.Operands(2, 1, whole_stores=False), tiles.Operands(2, 8)):
        for tile in tiles.available(operands, device):
            values = arguments(torch.bfloat16, operands, tile, even=operands.whole_stores)
            kernel = compiled(values, GPUTarget("hip", arch, 64))
            row = {"shared": kernel.metadata.shared, "mma": "mfma" in kernel.asm["amdgcn"]}
            print(json.dumps(row | {"promised": tile.shared_bytes(2)}), flush=True)


def main(arch: str, dtype: str) -> None:
    if arch.startswith("gfx"):
        return lower_for_amd(arch)
    capability, torch_dtype = int(arch.removeprefix("sm_")), getattr(torch, dtype)
    device = tiles.Device.of(capability, 132)
    itemsize = torch_dtype.itemsize
    for vector, even in ((1, False), (2, False), (16 // itemsize, False), (16 // itemsize, True)):
        for exact in {False, dtype == "float32"}:
            operands = tiles.Operands(itemsize, vector, even, exact)
            for tile in tiles.available(operands, device):
                print(json.dumps(lower(torch_dtype, operands, tile, even, capability)), flush=True)
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
