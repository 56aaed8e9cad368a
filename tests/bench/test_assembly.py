"""Reading machine code: the main loop, its instructions, and how much they multiply."""

import pytest

from bench.lowering import assembly
from bench.lowering.assembly import FUSED_MULTIPLY_ADD, MATRIX, parse_amdgcn, parse_sass

pytest.importorskip("triton")


SASS = """
.text.kernel:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   LDGSTS.E.BYPASS.128 [R2], desc[UR4][R4.64] ;
.L_x_1:
        /*0020*/              @!P0 HMMA.16816.F32.BF16 R4, R8, R10, R4 ;
        /*0030*/                   HMMA.16816.F32.BF16 R4, R8, R10, R4 ;
        /*0040*/              @P1  BRA `(.L_x_1) ;
        /*0050*/                   IADD3 R2, R2, 0x1, RZ ;
        /*0060*/                   HMMA.16816.F32.BF16 R4, R8, R10, R4 ;
        /*0070*/               @P2 BRA `(.L_x_0) ;
        /*0080*/                   STL [R1], R2 ;
.L_x_2:
        /*0090*/                   IADD3 R2, R2, 0x1, RZ ;
        /*00a0*/               @P3 BRA `(.L_x_2) ;
        /*00b0*/                   BRA `(.L_x_3) ;
.L_x_3:
        /*00c0*/                   EXIT ;
"""


def test_the_main_loop_is_the_smallest_that_holds_all_matrix_instructions() -> None:
    listing = parse_sass(SASS)
    assert len(listing.instructions) == 13
    loop = listing.main_loop()
    assert [one.opcode.split(".")[0] for one in loop] == ["LDGSTS", "HMMA", "HMMA", "BRA", "IADD3", "HMMA", "BRA"]
    assert assembly.count(loop, MATRIX) == 3
    assert assembly.products(loop) == 3 * 16 * 8 * 16
    assert assembly.spill_bytes(listing, assembly.Usage(registers=255, stack_bytes=0)) == 4
    assert assembly.spill_bytes(listing, assembly.Usage(registers=255, stack_bytes=16)) == 16
    assert assembly.spill_bytes(parse_sass(""), assembly.Usage(registers=255, stack_bytes=0)) == 0
    assert listing.kinds(assembly.COPY) == ["LDGSTS.E.BYPASS.128"]


def test_of_equal_loops_the_smallest() -> None:
    """A loop around the main loop has the same matrix instructions, and more others."""
    inner = [assembly.Instruction("HMMA.16816.F32", None), assembly.Instruction("BRA", "inner")]
    outer = [assembly.Instruction("MOV", None), *inner, assembly.Instruction("BRA", "outer")]
    assert assembly.Listing(outer, {"outer": 0, "inner": 1}).main_loop() == inner


def test_what_a_branch_jumps_over_is_no_part_of_a_step() -> None:
    """Code that a branch may jump over counts only if it multiplies. Of two alternatives, the shorter one counts."""
    one = assembly.Instruction
    multiply, rare = one("HMMA.16816.F32", None), [one("STG", None), one("MOV", None)]
    skips, goes = one("BRA", "after", conditional=True), one("BRA", "top", conditional=True)
    listing = assembly.Listing([multiply, skips, *rare, one("ADD", None), goes], {"top": 0, "after": 4})
    assert [each.opcode for each in listing.main_loop()] == ["HMMA.16816.F32", "BRA", "ADD", "BRA"]
    always = assembly.Listing([skips, *rare, multiply, one("ADD", None), goes], {"top": 0, "after": 4})
    assert len(always.main_loop()) == 6
    else_branch = [skips, *rare, one("BRA", "end"), one("ADD", None), one("SUB", None), multiply, goes]
    either = assembly.Listing(else_branch, {"top": 0, "after": 4, "end": 6})
    assert [each.opcode for each in either.main_loop()] == ["BRA", "ADD", "SUB", "HMMA.16816.F32", "BRA"]


def test_left_operands_in_registers() -> None:
    """A warp group's tensor cores read them while the next step may overwrite them."""
    lines = ["R24, R100, gdesc[UR24].tnspB, R24, gsb0", "R24, gdesc[UR8], R24, !UPT", "R24, R88, gdesc[UR24], R24"]
    text = "\n".join(f"/*{at:04x}*/ HGMMA.64x128x16.F32.BF16 {line} ;" for at, line in enumerate(lines))
    assert parse_sass(text).left_in_registers() == 2
    assert parse_sass(SASS).left_in_registers() == 0


def test_a_loop_of_fmas() -> None:
    text = SASS.replace("HMMA.16816.F32.BF16", "FFMA")
    assert assembly.products(parse_sass(text).main_loop()) == 3 * 32
    assert assembly.count(parse_sass(text).main_loop(), FUSED_MULTIPLY_ADD) == 3
    assert parse_sass(SASS.replace("HMMA", "IMAD")).main_loop() == []


def test_products_of_warpgroups() -> None:
    """Four warps share one wgmma of 64x128x16. An FFMA2 forms two products in each lane."""
    lines = "        /*0010*/  {} R4, R8 ;\n"
    assert assembly.products(parse_sass(lines.format("HGMMA.64x128x16.F32.BF16")).instructions) == 64 * 128 * 16 // 4
    assert assembly.products(parse_sass(lines.format("HMMA.1688.F32.TF32")).instructions) == 16 * 8 * 8
    assert assembly.products(parse_sass(lines.format("FFMA2")).instructions) == 64


def test_amd() -> None:
    text = ".LBB0_1:\n\tv_mfma_f32_32x32x8_bf16 a[0:15], v[0:1]\n\ts_cbranch_scc1 .LBB0_1\n\ts_endpgm\n"
    listing = parse_amdgcn(text)
    assert [one.opcode for one in listing.main_loop()] == ["v_mfma_f32_32x32x8_bf16", "s_cbranch_scc1"]
