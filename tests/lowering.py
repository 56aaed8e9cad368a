"""Compile the kernels offline, for GPUs that need not be there, and read what came out of the machine code.

Run as `python -m tests.lowering sm_90 bfloat16 wgrad`, or gfx942; prints one JSON object per tile. It is a program of
its own because a process that interprets kernels can not compile them.
"""

import json
import re
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tritonconv import launch, tiles
from tritonconv.geometry import ConvGeometry, Operator


class Memory(NamedTuple):
    """How many adjacent channels of the image and of the features are loaded or stored at once."""

    x: int
    y: int


def memories(operator: Operator, itemsize: int) -> list[Memory]:
    """Every combination that a launch can meet."""
    whole, loads = 16 // itemsize, sorted({1, 4 // itemsize, 16 // itemsize})
    match operator:
        case "fprop":
            return [Memory(load, store) for load in loads for store in (1, whole)]
        case "dgrad":
            return [Memory(store, load) for load in loads for store in (1, whole)]
        case "wgrad":
            return [Memory(x, y) for x in loads for y in loads]


def operands_of(operator: Operator, itemsize: int, memory: Memory, exact: bool) -> tiles.Operands:
    """What `pick` is told of such operands."""
    loaded, stored = {"fprop": memory, "dgrad": memory[::-1], "wgrad": (min(memory), 16 // itemsize)}[operator]
    return tiles.Operands(itemsize, loaded, stored > 1, exact)


def launches(operator: Operator, dtype: torch.dtype, memory: Memory, tile: tiles.Tile) -> list[launch.Launch]:
    """What is launched for 3x3 taps in NHWC, with channels that can be loaded and stored as `memory` says."""
    C, F = (64 + align % (16 // dtype.itemsize) for align in memory)
    geometry = ConvGeometry(B=2, C=C, H=8, W=8, F=F, P=6, Q=6, R=3, S=3)
    size = dict(dtype=dtype, device="meta")
    x, y = (
        torch.empty(shape, **size).contiguous(memory_format=torch.channels_last)
        for shape in (geometry.image_shape, geometry.feature_shape)
    )
    weight = torch.empty(geometry.weight_shape, **size)
    factors = {
        "fprop": (x, weight, torch.empty(F, **size)),
        "dgrad": (y, weight, torch.empty(C, **size)),
        "wgrad": (x, y, True),
    }
    return launch.PLANS[operator](*factors[operator], geometry, True, tiles.INTERPRETER, tile).launches


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
    operator: Operator, dtype: torch.dtype, memory: Memory, tile: tiles.Tile, exact: bool, capability: int
) -> dict[str, Any]:
    """One row: registers, spills, shared memory, and which instructions multiply and copy."""
    kernel, _, arguments = launches(operator, dtype, memory, tile)[0]
    assert (arguments["ALIGN_X"], arguments["ALIGN_Y"]) == memory
    arguments["PRECISION"] = "tf32" if dtype == torch.float32 and not exact else "ieee"
    binary = compiled(kernel, arguments, GPUTarget("cuda", capability, 32))
    usage, code = machine_code(binary.asm["cubin"])
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())  # type: ignore[union-attr]
    instructions = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", code)
    return {
        "memory": memory,
        "exact": exact,
        "tile": [tile.BLOCK_M, tile.BLOCK_N, tile.BLOCK_K, tile.num_warps, tile.num_stages],
        "registers": registers,
        "stack": stack,
        "spills": sum(name.startswith(("STL", "LDL")) for name in instructions),
        "shared": binary.metadata.shared,
        "promised": tile.shared_bytes(operator, dtype.itemsize),
        "mma": sorted({name for name in instructions if re.match(r"HMMA|HGMMA|UTC.*MMA", name)}),
        "copies": sorted({name for name in instructions if name.startswith("LDGSTS")}),
    }


def lower_for_amd(arch: str, operator: Operator) -> None:
    """One row for each tile in bfloat16: that it compiles, its shared memory, and whether matrix cores multiply."""
    device = tiles.Device.of(0, 304)
    for memory in (Memory(1, 1), Memory(8, 8)):
        for tile in tiles.available(operator, operands_of(operator, 2, memory, exact=False), device):
            kernel, _, arguments = launches(operator, torch.bfloat16, memory, tile)[0]
            binary = compiled(kernel, arguments, GPUTarget("hip", arch, 64))
            row = {"shared": binary.metadata.shared, "mma": "mfma" in binary.asm["amdgcn"]}
            print(json.dumps(row | {"promised": tile.shared_bytes(operator, 2)}), flush=True)


def main(arch: str, dtype: str, operator: Operator) -> None:
    if arch.startswith("gfx"):
        return lower_for_amd(arch, operator)
    capability, torch_dtype = int(arch.removeprefix("sm_")), getattr(torch, dtype)
    device = tiles.Device.of(capability, 132)
    for memory in memories(operator, torch_dtype.itemsize):
        for exact in sorted({False, dtype == "float32"}):
            operands = operands_of(operator, torch_dtype.itemsize, memory, exact)
            for tile in tiles.available(operator, operands, device):
                print(json.dumps(lower(operator, torch_dtype, memory, tile, exact, capability)), flush=True)
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
