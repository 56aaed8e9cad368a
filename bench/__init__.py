"""The benchmark: times of convolution layers beside what a user would run instead, and the committed results.

    layers            the problems: 56 layers, nearly all of real networks, each in one family; and 12 that are held out
    run/              measures: contenders, checks against float64, times, peaks of memory, the roofline
    own_layer         reads a layer of one's own from text
    test_throughput   `pytest bench`, the benchmark itself
    results           reads and writes the records of runs as JSON
    progress          shows which layer `pytest bench` measures, and the time left
    noise             says whether the machine was busy
    processes         combines rows that several processes measured of the same code
    kernel_identity   says which committed results were measured with the kernels as they are now
    report/           makes tables and pictures, compares runs, writes the README's section on performance
    device/           checks the kernels and times layers on a GPU that is there only for minutes
    train/            times training steps of whole models, and compares loss curves
    tune/             measures which tile is best, for `tritonconv/tiling/measured_tiles/`
    lowering/         compiles kernels without a GPU and reads their machine code
    host/             compares the host's time of a call with torch's, without a GPU

The last six are commands: `python -m bench report|device|train|tune|lowering|host`.

The benchmark's words:

    family       a kind of layer, for example "depthwise" or "strided". Each layer is in one.
    smoke        a set of fourteen layers in which every family has one.
    held out     a layer that no tile is ever tuned for. Its times show what the cost model is worth.
    pass         what is timed of a layer. `fprop`, `dgrad` and `wgrad` are the three operators; `forward` is the layer
                 as users call it, with a bias; `step` is forward and backward through autograd, without a bias.
    contender    an implementation that computes a pass: torch, ours (`triton`), the reference, and some others.
    device time  how long the GPU takes: replays of a CUDA graph, with a cold L2 cache. Warm times are those of a second
                 replay directly after the first.
    eager time   how long a user waits: from the call until its result is there. Also called wall time.
    host time    how long the call keeps the CPU: from the call until it returns.
    spread       the times from the 20th to the 80th percentile (p20 to p80). Two runs differ if their spreads
                 do not overlap.
    ceiling      a rate that the machine reached in the same run: in the fastest of several large matrix products, in
                 kernels that copy or read, or in such kernels within the L2 cache.
    roofline     the least time that a pass can take at the ceilings. The field `roof` is the share of the
                 roofline: this time over the measured time.
    yardstick    the baseline that a contender is compared with: torch, or unfold + einsum where torch has no layer.
    peak         the most memory in use during a call, over the memory of its operands and results.
    record       the JSON file of a run: one row for each layer, pass, contender and dtype.
    process      a run of Python. What is published is from several, because two may differ by more than their spreads.
    slice        a part of the standing run, `bench device`, with a budget in seconds.
    pretended    a stand-in for a GPU whose clock goes by committed times and by estimates.
    rehearsal    a run that shows that the benchmark works, and nothing about speed: on small problems without a GPU, or
                 on a pretended one.
    evidence     committed results of a GPU (`results/`). Neither a rehearsal nor the sample in `sample/` is evidence.
"""
