"""Mutation testing: check that the tests notice small bugs in the package.

A mutant is a copy of the package with one small wrong change, for example
`p <= P` for `p < P`. The tests of kernels and faults run on each mutant. It is
killed if a test fails, hangs or crashes, and it survives if all tests pass.
A survivor shows that a test is missing. Equivalent mutants, which compute the
same as the original, are listed in tests/mutants/equivalent.py and not run.

A killed mutant takes seconds, a survivor minutes. All of them, about 2,100, take
about half a day with two processes. Begin with --count 20, with --only, or with
--kind: `conditions` leaves out one condition of a boolean expression at a time.
With --direct a survivor takes seconds, too, because only the direct tests of the
changed file run (`DIRECT` in tests/mutants/runner.py).

Exit status: 0 if no mutant survived, 1 if one did, 2 if the tests fail without
any mutation or the options are not understood. It is 1 with a message, too, if
the lists in tests/mutants/finder.py name missing code or if --resume names a
run on other code.
"""

import argparse
import random
import sys
from pathlib import Path

from tests.mutants.equivalent import reasons
from tests.mutants.finder import ROOT, Mutant, find, gone, left_out
from tests.mutants.kinds import KINDS
from tests.mutants.report import Report, code_of
from tests.mutants.runner import DIRECT


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--count",
        type=int,
        metavar="N",
        help="run a random sample of N mutants, none of them equivalent (default: all)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the sample (default: %(default)s)")
    parser.add_argument(
        "--only",
        default="",
        metavar="TEXT",
        help="only mutants whose name, as --list prints it, contains TEXT: a file or function, say (default: all)",
    )
    parser.add_argument(
        "--kind",
        action="append",
        choices=KINDS,
        help="only mutants of this kind, as --list prints it; may be repeated (default: all)",
    )
    parser.add_argument(
        "--direct",
        action="store_true",
        help="only files that have direct tests, and run only these: a survivor then takes seconds",
    )
    parser.add_argument(
        "--processes", type=int, default=2, metavar="N", help="run N mutants at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="run nothing; list the code that is not mutated, with reasons, and all mutants",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write every outcome to FILE, after each mutant (default: no file)"
    )
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="FILE",
        help="do not run mutants that were killed in the run that wrote FILE by --json, on the same code",
    )
    parser.add_argument("--equivalent", action="store_true", help="run the mutants that are listed as equivalent, too")
    parser.add_argument(
        "--limit",
        type=int,
        default=90,
        metavar="SECONDS",
        help="processor time after which a test counts as hung (default: %(default)s)",
    )
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    return parser.parse_args(given)


def chosen(options: argparse.Namespace) -> list[Mutant]:
    """Return the mutants that the options select."""
    mutants = [
        mutant
        for mutant in find(options.root)
        if options.only in str(mutant)
        and mutant.kind in (options.kind or KINDS)
        and (mutant.file in DIRECT or not options.direct)
    ]
    if options.count is not None:
        candidates = [mutant for mutant in mutants if mutant.key not in reasons()]
        mutants = random.Random(options.seed).sample(candidates, min(options.count, len(candidates)))
    return mutants


def main(given: list[str] | None = None) -> int:
    """Run the command with these arguments, by default those of the command line. Return the exit status."""
    options = arguments(given)
    if options.root == ROOT and gone():
        raise SystemExit(
            "NOT_MUTATED and FUNCTIONS_NOT_MUTATED in tests/mutants/finder.py "
            f"name missing code: {', '.join(gone())}. Correct these entries, or remove them."
        )
    mutants = chosen(options)
    if options.list:
        print("Code that is not mutated, and why:", *left_out(), "", sep="\n")
        print(
            "Mutants, as file:line function: kind: old code -> new code:", *mutants, f"{len(mutants)} mutants", sep="\n"
        )
        return 0
    report = Report(code_of(options.root), options.json)
    if options.resume:
        report.resume(options.resume, mutants)
    if not options.equivalent:
        report.set_aside(mutants, reasons())
    if not report.run(mutants, options.root, options.processes, options.limit, options.direct):
        return 2
    survivors = [mutant for mutant in mutants if report.rows[mutant.key]["status"] == "survived"]
    if survivors:
        print("Survived. For each add a test that fails on it, or, if it computes the same as the original,")
        print("an entry with the reason in tests/mutants/equivalent.py:", *survivors, sep="\n")
    print(report.summary())
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
