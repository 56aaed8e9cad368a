"""Compile the kernels offline, for GPUs that need not be there, and read what came out of the machine code.

Run as `python -m tests.lowering sm_90 bfloat16 wgrad`, or gfx942; prints one JSON object per tile. It is a program of
its own because a process that interprets kernels can not compile them.
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
from tritonconv.geometry import ConvGeometry, Operator


def launches(
    operator: Operator, dtype: torch.dtype, operands: tiles.Operands, tile: tiles.Tile, even: bool
) -> list[launch.Launch]:
    """What is launched for 3x3 taps in NHWC: channels loaded by `operands.vector`, stored by 16 bytes if `even`."""
    loaded, stored = 64 + operands.vector % 8, 64 + (not even)
    if operator == "wgrad":
        stored = loaded
    C, F = (stored, loaded) if operator == "dgrad" else (loaded, stored)
    geometry = ConvGeometry(B=2, C=C, H=8, W=8, F=F, P=6, Q=6, R=3, S=3)
    size = dict(dtype=dtype, device="meta")
    x, y = (
        torch.empty(shape, **size).contiguous(memory_format=torch.channels_last)
        for shape in (geometry.image_shape, geometry.feature_shape)
    )
    weight, device = torch.empty(geometry.weight_shape, **size), tiles.INTERPRETER
    match operator:
        case "fprop":
            plan = launch.fprop(x, weight, torch.empty(F, **size), geometry, True, device, tile)
        case "dgrad":
            plan = launch.dgrad(y, weight, torch.empty(C, **size), geometry, True, device, tile)
        case "wgrad":
            plan = launch.wgrad(x, y, True, geometry, True, device, tile)
    return plan.launches


def compiled(kernel: Any, arguments: dict[str, Any], target: GPUTarget) -> Any:
    """The kernel compiled for `target`, specialised as Triton would specialise it for these arguments."""
    options = {name: arguments[name] for name in ("num_warps", "num_stages") if name in arguments}
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = "*" + {torch.bfloat16: "bf16", torch.float32: "fp32"}[value.dtype]
            attributes[(index,)] = [] if parameter.do_not_specialize_on_alignment else [["tt.divisibility", 16]]
        elif parameter.is_constexpr:
            signature[parameter.name] = "constexpr"
            constants[(index,)] = value
        else:
            signature[parameter.name] = "i32"
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes)
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
    operator: Operator, dtype: torch.dtype, operands: tiles.Operands, tile: tiles.Tile, even: bool, capability: int
) -> dict[str, Any]:
    """One row: registers, spills, shared memory, and which instructions multiply and copy."""
    kernel, _, arguments = launches(operator, dtype, operands, tile, even)[0]
    if operands.exact:
        arguments["PRECISION"] = "ieee"
    binary = compiled(kernel, arguments, GPUTarget("cuda", capability, 32))
    usage, code = machine_code(binary.asm["cubin"])
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())  # type: ignore[union-attr]
    instructions = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", code)
    return {
        "vector": operands.vector,
        "exact": operands.exact,
        "align": [arguments["ALIGN_X"], arguments["ALIGN_Y"]],
        "tile": [tile.BLOCK_M, tile.BLOCK_N, tile.BLOCK_K, tile.num_warps, tile.num_stages],
        "registers": registers,
        "stack": stack,
        "spills": sum(name.startswith(("STL", "LDL")) for name in instructions),
        "shared": binary.metadata.shared,
        "promised": tile.shared_bytes(operands.itemsize),
        "mma": sorted({name for name in instructions if re.match(r"HMMA|HGMMA|UTC.*MMA", name)}),
        "copies": sorted({name for name in instructions if name.startswith("LDGSTS")}),
    }


def lower_for_amd(arch: str, operator: Operator) -> None:
    """One row for each tile in bfloat16: that it compiles, its shared memory, and whether matrix cores multiply."""
    device = tiles.Device.of(0, 304)
    for operands in (tiles.Operands(2, 1, whole_stores=False), tiles.Operands(2, 8)):
        for tile in tiles.available(operands, device):
            for kernel, _, arguments in launches(operator, torch.bfloat16, operands, tile, even=operands.whole_stores):
                binary = compiled(kernel, arguments, GPUTarget("hip", arch, 64))
                row = {"shared": binary.metadata.shared, "mma": "mfma" in binary.asm["amdgcn"]}
                print(json.dumps(row | {"promised": tile.shared_bytes(2)}), flush=True)


def main(arch: str, dtype: str, operator: Operator) -> None:
    if arch.startswith("gfx"):
        return lower_for_amd(arch, operator)
    capability, torch_dtype = int(arch.removeprefix("sm_")), getattr(torch, dtype)
    device = tiles.Device.of(capability, 132)
    itemsize = torch_dtype.itemsize
    for vector, even in ((1, False), (2, False), (16 // itemsize, False), (16 // itemsize, True)):
        for exact in {False, dtype == "float32"}:
            operands = tiles.Operands(itemsize, vector, even, exact)
            for tile in tiles.available(operands, device):
                print(json.dumps(lower(operator, torch_dtype, operands, tile, even, capability)), flush=True)
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
