"""Equivalent mutants: they compute the same as the original for every legal input, so no test can kill them.

Each has the reason. `stale` finds entries that no longer describe a mutant.
"""

from typing import NamedTuple

from tests.mutants.finder import Mutant


class Equivalent(NamedTuple):
    """One equivalent mutant, named as in `finder.Mutant`, and the reason why it computes the same."""

    file: str
    function: str
    old: str
    new: str
    reason: str
    occurrence: int = 1

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        return self.file, self.function, self.old, self.new, self.occurrence


ANOTHER_ORDER = "only the order of the phases without any tap changes; each still comes once"
ALREADY_WIDE = "the other factor of each of its products is already 64 bits wide"
IDLE_STEPS = "it only changes how many steps programs without a pixel take; these store nothing"
NO_FILTERS = "it only changes sums beyond the last filter, which are not stored"
NEVER_STORED = "it only changes masked elements, which reach no element that is stored"
MASKED_STEPS = "steps beyond the last load masked positions only, and dispatch keeps these within 32 bits"
SAME_SUM = "the programs of the first columns sum the whole bias, and the others none of it: the same but for rounding"
WIDER = "it uses 64-bit offsets where 32 bits are enough"
SAME_MEMORY = "torch.empty_permuted and torch.channels_last give four dimensions the same order in memory"
NO_SKIPPED_ROWS = "a stride of 1 skips no rows: the axis of the skipped rows then has one entry"
ONE_IMAGE = "a block of exactly an image's rows has the same shape either way"
NOTHING_FAILED = "neither failure has a reason as long as there are no reasons"
COUNTED_BEFORE = "N is the channels or filters of a group, which were counted before, or fprop's K in wgrad"

EQUIVALENT = [
    Equivalent(
        "tritonconv/kernels/stride_phases.py", "phase", "beyond = i - period", "beyond = i + period", ANOTHER_ORDER
    ),
    Equivalent(
        "tritonconv/kernels/gather/dgrad.py",
        "dgrad_kernel",
        "b = (m // (pixels_h * pixels_w)).to(tl.int64)",
        "b = (m // (pixels_h * pixels_w))",
        ALREADY_WIDE,
    ),
    Equivalent(
        "tritonconv/kernels/gather/fprop.py",
        "fprop_kernel",
        "b = (m // (P * Q)).to(tl.int64)",
        "b = (m // (P * Q))",
        ALREADY_WIDE,
    ),
    Equivalent(
        "tritonconv/kernels/gather/wgrad.py",
        "wgrad_kernel",
        "stride_xc = 1 if VECTOR_X > 1 else stride_xc.to(tl.int64)",
        "stride_xc = 1 if VECTOR_X > 1 else stride_xc",
        ALREADY_WIDE,
    ),
    Equivalent(
        "tritonconv/kernels/gather/wgrad.py",
        "wgrad_kernel",
        "stride_yf = 1 if VECTOR_Y > 1 else stride_yf.to(tl.int64)",
        "stride_yf = 1 if VECTOR_Y > 1 else stride_yf",
        ALREADY_WIDE,
    ),
    Equivalent(
        "tritonconv/kernels/gather/dgrad.py",
        "dgrad_kernel",
        "steps=tl.where(tile_m * BLOCK_M < pixels, steps, 0)",
        "steps=steps",
        IDLE_STEPS,
    ),
    Equivalent(
        "tritonconv/kernels/gather/dgrad.py",
        "dgrad_kernel",
        "steps=tl.where(tile_m * BLOCK_M < pixels, steps, 0)",
        "steps=tl.where(tile_m * BLOCK_M <= pixels, steps, 0)",
        IDLE_STEPS,
    ),
    Equivalent(
        "tritonconv/kernels/partial_sums.py",
        "sum_partials_kernel",
        "parts = tl.where(tl.program_id(0) * BLOCK < filters, bias_splits, 0)",
        "parts = bias_splits",
        NO_FILTERS,
    ),
    Equivalent(
        "tritonconv/kernels/partial_sums.py",
        "sum_partials_kernel",
        "parts = tl.where(tl.program_id(0) * BLOCK < filters, bias_splits, 0)",
        "parts = tl.where(tl.program_id(0) * BLOCK <= filters, bias_splits, 0)",
        NO_FILTERS,
    ),
    Equivalent(
        "tritonconv/kernels/store.py",
        "store_result",
        "bias = tl.load(bias_ptr + g * N + n, mask=valid_n, other=0.0)",
        "bias = tl.load(bias_ptr + g * N + n, mask=valid_n, other=1.0)",
        NEVER_STORED,
    ),
    Equivalent(
        "tritonconv/kernels/gather/wgrad.py",
        "wgrad_kernel",
        "tap_h = tl.where(valid_n, n // C // S * dilation_h - pad_h, H)",
        "tap_h = (n // C // S * dilation_h - pad_h)",
        NEVER_STORED,
    ),
    Equivalent(
        "tritonconv/kernels/gather/wgrad.py",
        "wgrad_kernel",
        "tap_h = tl.where(valid_n, n // C // S * dilation_h - pad_h, H)",
        "tap_h = tl.where(valid_n, n // C // S * dilation_h - pad_h, W)",
        NEVER_STORED,
    ),
    Equivalent(
        "tritonconv/kernels/gather/wgrad.py",
        "wgrad_kernel",
        "range(tl.minimum(steps_per_split, steps - first_step))",
        "range(tl.minimum(steps_per_split, steps + first_step))",
        MASKED_STEPS,
    ),
    Equivalent(
        "tritonconv/kernels/partial_sums.py",
        "add_in_turn",
        "turn = tl.where(turn == tiles_n - 1, 0, turn + 1)",
        "pass",
        SAME_SUM,
    ),
    Equivalent(
        "tritonconv/kernels/partial_sums.py",
        "add_in_turn",
        "turn = tl.where(turn == tiles_n - 1, 0, turn + 1)",
        "turn = 0",
        SAME_SUM,
    ),
    Equivalent("tritonconv/kernels/store.py", "store_result", "VECTOR == 1 and WIDE", "WIDE", WIDER),
    Equivalent("tritonconv/kernels/store.py", "store_result", "VECTOR == 1 and WIDE", "(VECTOR == 1)", WIDER),
    Equivalent("tritonconv/kernels/store.py", "store_result", "VECTOR > 1 or WIDE", "VECTOR >= 1 or WIDE", WIDER),
    Equivalent("tritonconv/launch/failures.py", "why_not_again", "not _reasons", "False", NOTHING_FAILED),
    Equivalent(
        "tritonconv/dispatch.py",
        "_why_not_size",
        "max(M, N, K) >= _COUNTED",
        "max(M, K) >= _COUNTED",
        COUNTED_BEFORE,
    ),
    Equivalent(
        "tritonconv/launch/layout.py",
        "allocate",
        "channels_last and dims > 4",
        "channels_last",
        SAME_MEMORY,
    ),
    Equivalent(
        "tritonconv/launch/layout.py",
        "allocate",
        "channels_last and dims > 4",
        "channels_last and dims >= 4",
        SAME_MEMORY,
    ),
    Equivalent(
        "tritonconv/launch/descriptors.py",
        "wgrad_descriptors",
        "folded = max(stride) > 1",
        "folded = max(stride) >= 1",
        NO_SKIPPED_ROWS,
    ),
    Equivalent(
        "tritonconv/launch/descriptors.py",
        "wgrad_descriptors",
        "folded = max(stride) > 1",
        "folded = True",
        NO_SKIPPED_ROWS,
    ),
    Equivalent(
        "tritonconv/tiling/block_shapes.py",
        "whole_rows",
        "[(1, rows, geometry.Q) if rows <= geometry.P else (rows // geometry.P, geometry.P, geometry.Q)]",
        "[(1, rows, geometry.Q) if rows < geometry.P else (rows // geometry.P, geometry.P, geometry.Q)]",
        ONE_IMAGE,
    ),
]


def reasons() -> dict[tuple[str, str, str, str, int], str]:
    """Return the reason of each equivalent mutant, by `Mutant.key`."""
    return {entry.key: entry.reason for entry in EQUIVALENT}


def stale(mutants: list[Mutant]) -> list[Equivalent]:
    """Return the entries that no longer describe a mutant, because the code has changed."""
    keys = {mutant.key for mutant in mutants}
    return [entry for entry in EQUIVALENT if entry.key not in keys]
