"""Random problems, over every parameter together, until one comes out wrong.

`problems` draws a problem from a seed, `shrink` finds the least of a problem that is still wrong, `replay` computes
what `tritonconv.verify` complained about. `python -m tests.sweep` runs them.
"""
