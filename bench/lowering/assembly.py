"""Reads machine code: which instructions multiply, which copy, and how many one step of the main loop takes.

It reads the disassembly of NVIDIA's nvdisasm and the assembly that LLVM writes for AMD.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

# MATRIX: multiplications on tensor cores. WARP_GROUP_LEFT: those of a warp group whose left operand is in registers.
# COPY: asynchronous copies from global into shared memory.
MATRIX = re.compile(r"[HIQOD]MMA\.|[HIQ]GMMA\.|UTC\w*MMA|v_mfma_|v_smfmac_")
WARP_GROUP_LEFT = re.compile(r"[HIQ]GMMA\S*\s+R\d+, R\d+, gdesc")
COPY = re.compile(r"LDGSTS|UTMALDG|UBLKCP|(global|buffer)_load_lds|buffer_load\w* .* lds")
FUSED_MULTIPLY_ADD = re.compile(r"FFMA|v_(pk_)?(fma|fmac)_f32")
SPILL = re.compile(r"STL|LDL|scratch_(load|store)")

_SASS_LABEL = re.compile(r"^(\.L_[\w$.]+):")
_SASS_LINE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]+)([^;]*);")
_SASS_BRANCH = re.compile(r"`\((\.L_[\w$.]+)\)")
_AMD_LABEL = re.compile(r"^(\.LBB\w+):")
_AMD_LINE = re.compile(r"^(\s+)([a-z]\w+)([^;]*)")
_AMD_BRANCH = re.compile(r"(\.LBB\w+)")


class Instruction(NamedTuple):
    """One instruction. Only a branch has a `target`, the label that it jumps to, and may be `conditional`."""

    opcode: str
    target: str | None
    conditional: bool = False
    operands: str = ""


@dataclass(frozen=True)
class Listing:
    """The instructions of a kernel in order. `labels` has the index of the instruction after each label."""

    instructions: list[Instruction]
    labels: dict[str, int]

    def count(self, pattern: re.Pattern[str]) -> int:
        return count(self.instructions, pattern)

    def kinds(self, pattern: re.Pattern[str]) -> list[str]:
        """Return the different opcodes that match `pattern`, sorted."""
        return sorted({one.opcode for one in self.instructions if pattern.match(one.opcode)})

    def left_in_registers(self) -> int:
        """Return how many matrix instructions of a warp group take their left operand from registers.

        There should be none. Triton 3.6 and 3.7 let the next step overwrite these registers while they are still read.
        A loop with such an instruction gives wrong results now and then.
        """
        return sum(bool(WARP_GROUP_LEFT.match(one.opcode + one.operands)) for one in self.instructions)

    def main_loop(self) -> list[Instruction]:
        """Return the smallest loop with all of a step's arithmetic: its matrix instructions, or else its FMAs.

        A loop is what lies between a label and a branch back to it. The loop with the most arithmetic is chosen, and
        among equals the one with the fewest instructions.

        Instructions that a branch jumps over are left out if none of them multiplies. They run in some steps only. For
        example, a persistent kernel has one loop over tiles and steps, and stores a result in a tile's last step.

        The list is empty if no loop multiplies.
        """
        pattern = MATRIX if self.count(MATRIX) else FUSED_MULTIPLY_ADD
        bodies = [
            self.shortest(start, end, pattern)
            for end, branch in enumerate(self.instructions)
            if branch.target is not None and (start := self.labels.get(branch.target, end + 1)) <= end
        ]
        return max(
            (body for body in bodies if count(body, pattern)),
            key=lambda body: (count(body, pattern), -len(body)),
            default=[],
        )

    def shortest(self, start: int, end: int, pattern: re.Pattern[str]) -> list[Instruction]:
        """Return the instructions of the shortest path that jumps over no instruction that matches `pattern`.

        The path starts with the instruction at index `start` and ends with the one at index `end`. It jumps only
        forward, and not past `end`. Where a jump is not allowed, the path goes on to the next instruction, even if the
        jump is unconditional.
        """
        steps, follows = {end: 1}, {}
        for at in range(end - 1, start - 1, -1):
            one = self.instructions[at]
            to = self.labels.get(one.target, -1) if one.target else -1
            ahead = at < to <= end and not count(self.instructions[at:to], pattern)
            choices = [to] * ahead + [at + 1] * (one.conditional or not ahead)
            follows[at] = min(choices, key=lambda place: steps[place])
            steps[at] = 1 + steps[follows[at]]
        path, at = [], start
        while at != end:
            path.append(self.instructions[at])
            at = follows[at]
        return [*path, self.instructions[end]]


def count(instructions: Iterable[Instruction], pattern: re.Pattern[str]) -> int:
    """Return how many of the instructions have an opcode that matches `pattern`."""
    return sum(bool(pattern.match(one.opcode)) for one in instructions)


def products(loop: Iterable[Instruction]) -> int:
    """Return how many products each warp forms in `loop`: those of matrix instructions, or else those of FMAs.

    Zero if the opcodes do not say how much they multiply.
    """
    found = {"matrix": 0, "fma": 0}
    for opcode, *_ in loop:
        if shape := re.match(r"HGMMA\.(\d+)x(\d+)x(\d+)", opcode):
            found["matrix"] += int(shape[1]) * int(shape[2]) * int(shape[3]) // 4  # four warps share it
        elif shape := re.match(r"HMMA\.16(8)(16|8)\.", opcode):
            found["matrix"] += 16 * int(shape[1]) * int(shape[2])
        elif opcode.startswith("FFMA"):
            found["fma"] += 64 if opcode.startswith("FFMA2") else 32
    return found["matrix"] or found["fma"]


def parse_sass(text: str) -> Listing:
    """Return the listing of what `nvdisasm -c` prints."""
    return _parse(text, _SASS_LABEL, _SASS_LINE, lambda opcode: opcode.startswith("BRA"), _SASS_BRANCH)


def parse_amdgcn(text: str) -> Listing:
    """Return the listing of the assembly that LLVM writes for AMD."""
    return _parse(text, _AMD_LABEL, _AMD_LINE, lambda opcode: "branch" in opcode, _AMD_BRANCH)


def _parse(
    text: str,
    label: re.Pattern[str],
    line: re.Pattern[str],
    branches: Callable[[str], bool],
    target: re.Pattern[str],
) -> Listing:
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for each in text.splitlines():
        if found := label.match(each.strip()):
            labels[found[1]] = len(instructions)
        elif found := line.search(each):
            condition, opcode, operands = found.groups()
            to = target.search(operands) if branches(opcode) else None
            conditional = to is not None and ("cbranch" in opcode or bool((condition or "").strip()))
            instructions.append(Instruction(opcode, to[1] if to else None, conditional, operands))
    return Listing(instructions, labels)


class Usage(NamedTuple):
    """The registers and the bytes of local memory (stack) that one thread takes."""

    registers: int
    stack_bytes: int


def spill_bytes(listing: Listing, usage: Usage) -> int:
    """Return the bytes that each thread spills: its stack, or 4 for each spill instruction if that is more."""
    return max(usage.stack_bytes, 4 * listing.count(SPILL))


def read_cubin(cubin: bytes) -> tuple[Listing, Usage]:
    """Return the listing and the resource usage of a cubin. They are read by the tools in Triton's own wheel."""
    from triton import knobs

    tools: Any = knobs.nvidia
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        commands = [[tools.cuobjdump.path, "-res-usage", file.name], [tools.nvdisasm.path, "-c", file.name]]
        usage, code = (subprocess.run(c, capture_output=True, text=True, check=True).stdout for c in commands)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    return parse_sass(code), Usage(int(found[1]), int(found[2]))


def read_amdgcn(text: str) -> tuple[Listing, Usage]:
    """Return the listing of AMD's assembly, and the resource usage that the metadata below it states.

    Registers include the accumulation registers (AGPRs). Scratch memory counts as stack.
    """
    fields = dict(re.findall(r"\.(vgpr_count|agpr_count|private_segment_fixed_size):\s+(\d+)", text))
    registers = int(fields["vgpr_count"])  # includes the accumulation registers (AGPRs)
    return parse_amdgcn(text), Usage(registers, int(fields["private_segment_fixed_size"]))
