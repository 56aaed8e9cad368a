"""One run of the benchmarks: problems, contenders, checks of results, times, peaks of memory and the roof."""
