"""Mutants of the package: small wrong changes, each of which some test must notice.

`kinds` says what may be changed, `finder` finds every place for it, `runner` runs the tests on one mutant, with
`watch` inside pytest, and `equivalent` lists the mutants that compute the same, with the reasons.
`python -m tests.mutants` runs them all.
"""
