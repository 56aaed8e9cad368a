"""The public tools `explain`, `warmup` and `verify`, and the tolerances that `verify`, tests and benchmarks use."""
