"""Mutation testing: make small wrong changes (mutants) in the package, and check that a test fails on each.

- `kinds` defines the changes (mutation operators), on syntax trees that `text` reads.
- `finder` finds every mutant, and lists the code that is not mutated.
- `equivalent` lists the equivalent mutants, which no test can kill because they compute the same, with the reasons.
- `runner` runs the tests on one mutant; `watch` is its pytest plugin with the time limits.
- `report` runs many mutants and collects the outcomes.

`python -m tests.mutants` runs them all.
"""
