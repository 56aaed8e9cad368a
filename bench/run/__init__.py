"""One run of the benchmark: problems, contenders, checks of results, times, peaks of memory and the roofline."""
