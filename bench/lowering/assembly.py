"""Read machine code: what multiplies, what copies, and how many instructions one step of the loop takes.

Understands the disassembly of NVIDIA's nvdisasm and the assembly that LLVM writes for AMD.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

# Operations by which tensor cores multiply, and those by which global memory is copied into shared memory.
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
    """One instruction, and, if it is a branch, the label that it goes to, and whether it may not go there."""

    opcode: str
    target: str | None
    conditional: bool = False
    operands: str = ""


@dataclass(frozen=True)
class Listing:
    """The instructions of a kernel in order, and before which of them each label stands."""

    instructions: list[Instruction]
    labels: dict[str, int]

    def count(self, pattern: re.Pattern[str]) -> int:
        return count(self.instructions, pattern)

    def kinds(self, pattern: re.Pattern[str]) -> list[str]:
        """The different opcodes that match, sorted."""
        return sorted({one.opcode for one in self.instructions if pattern.match(one.opcode)})

    def left_in_registers(self) -> int:
        """How many matrix instructions of a warp group take their left operand from registers. Triton 3.6 and 3.7 let
        the next step overwrite these while they are still read: what such a loop computes is wrong now and then.
        """
        return sum(bool(WARP_GROUP_LEFT.match(one.opcode + one.operands)) for one in self.instructions)

    def main_loop(self) -> list[Instruction]:
        """The smallest loop that holds all the step's arithmetic: the matrix instructions, or else the FMAs.

        A loop is what lies between a label and a branch back to it. Where loops differ in how much they hold, those
        that hold most count. What a branch jumps over that multiplies nothing does not: it is done in some steps, such
        as the last of a tile, where loops over tiles and steps are one. Empty if there is no loop, or none that
        multiplies.
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
        """The fewest instructions from `start` to `end`, all that match among them."""
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
    return sum(bool(pattern.match(one.opcode)) for one in instructions)


def products(loop: Iterable[Instruction]) -> int:
    """How many products each warp forms in `loop`: those of the matrix instructions, or else of the FMAs.

    Zero where the opcodes do not tell.
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
    """The listing of what `nvdisasm -c` prints."""
    return _parse(text, _SASS_LABEL, _SASS_LINE, lambda opcode: opcode.startswith("BRA"), _SASS_BRANCH)


def parse_amdgcn(text: str) -> Listing:
    """The listing of the assembly that LLVM writes for AMD."""
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
    """What a thread holds: registers, and bytes of local memory."""

    registers: int
    stack_bytes: int


def spill_bytes(listing: Listing, usage: Usage) -> int:
    """Bytes by which registers did not suffice: whichever shows, memory on the stack or instructions that use it."""
    return max(usage.stack_bytes, 4 * listing.count(SPILL))


def read_cubin(cubin: bytes) -> tuple[Listing, Usage]:
    """Listing and resource usage, by the tools in Triton's own wheel."""
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
    """Listing and resource usage, from the metadata below the assembly. Scratch memory is counted as stack."""
    fields = dict(re.findall(r"\.(vgpr_count|agpr_count|private_segment_fixed_size):\s+(\d+)", text))
    registers = int(fields["vgpr_count"])  # those for matrices included
    return parse_amdgcn(text), Usage(registers, int(fields["private_segment_fixed_size"]))
