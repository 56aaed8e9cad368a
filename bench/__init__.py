"""Throughput, side by side with what a user would pick instead, and the evidence it produced (`results/`).

    layers            the problems: 50 layers of real networks or like theirs, and their families
    contenders, loop  what is timed: each pass, as torch, tritonconv and others compute it
    check             is it right, against float64
    timing, memory    how long does it take, and how much memory
    roof              how long would it take at the ceilings of this machine
    measure, session  all of that for one problem, and for one run: the rows of the record
    test_throughput   `pytest bench`
    results           the record as JSON: rows, ceilings, environment
    report/           tables, pictures, what changed, and the README's section
    device/           the standing work for a GPU that is there only for minutes
    tune/             which tile is best, measured: `tritonconv/gpus/`
    lowering/         what the compiler makes of every kernel, without a GPU

The last four are commands: `python -m bench report|device|tune|lowering`.
"""
