"""python -m tests.mutants: run the tests on every mutant. Exit status 1 if one survives, 2 if the tests fail anyway."""

import argparse
import random
import sys
from pathlib import Path

from tests.mutants.equivalent import reasons
from tests.mutants.finder import ROOT, Mutant, find, gone, left_out
from tests.mutants.report import Report, code_of


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--count", type=int, help="a random sample of so many mutants")
    parser.add_argument("--seed", type=int, default=0, help="which sample")
    parser.add_argument("--only", default="", metavar="TEXT", help="mutants whose name contains this")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="run nothing: name the mutants, and what is not mutated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write every outcome")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="take kills from an earlier run on the same code")
    parser.add_argument("--equivalent", action="store_true", help="run those that are listed as equivalent too")
    parser.add_argument("--limit", type=int, default=90, help="seconds of processor time that one test may take")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    return parser.parse_args(given)


def chosen(options: argparse.Namespace) -> list[Mutant]:
    mutants = [mutant for mutant in find(options.root) if options.only in str(mutant)]
    if options.count is not None:
        candidates = [mutant for mutant in mutants if mutant.key not in reasons()]
        mutants = random.Random(options.seed).sample(candidates, min(options.count, len(candidates)))
    return mutants


def main(given: list[str] | None = None) -> int:
    options = arguments(given)
    if options.root == ROOT and gone():
        raise SystemExit(f"tests/mutants/finder.py names what is gone: {', '.join(gone())}")
    mutants = chosen(options)
    if options.list:
        print("Not mutated:", *left_out(), "", *mutants, f"{len(mutants)} mutants", sep="\n")
        return 0
    report = Report(code_of(options.root), options.json)
    if options.resume:
        report.resume(options.resume, mutants)
    if not options.equivalent:
        report.set_aside(mutants, reasons())
    if not report.run(mutants, options.root, options.processes, options.limit):
        return 2
    print(report.summary())
    return int(report.count("survived") > 0)


if __name__ == "__main__":
    sys.exit(main())
