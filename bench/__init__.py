"""Throughput, side by side with what a user would pick instead, and the evidence it produced (`results/`).

    layers            the problems: 50 layers of real networks or like theirs, and their families
    run/              contenders, checks against float64, times, peaks of memory, the roof; a problem, and a whole run
    test_throughput   `pytest bench`
    results           the record as JSON: rows, ceilings, environment
    kernel_identity   which committed results were measured with the kernels as they are
    report/           tables, pictures, what changed, and the README's section
    device/           the standing work for a GPU that is there only for minutes
    tune/             which tile is best, measured: `tritonconv/tiling/measured_tiles/`
    lowering/         what the compiler makes of every kernel, without a GPU

The last four are commands: `python -m bench report|device|tune|lowering`.
"""
