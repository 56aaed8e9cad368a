"""Fuzzing: random problems that vary every parameter at once, and shrinking of those that come out wrong.

- `problems` draws a problem from a seed.
- `check` runs it and compares it with the oracle.
- `shrink` finds the simplest problem that is still wrong.
- `replay` repeats a call that `tritonconv.verify` reported.

`python -m tests.sweep` runs them.
"""
