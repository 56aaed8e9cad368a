"""Run many mutants, print each outcome as it comes, write them to a JSON file, and count them."""

import json
import os
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Any

from tests.mutants.finder import Mutant
from tests.mutants.runner import Outcome, run
from tests.support.processes import ForkServer

Key = tuple[str, str, str, str, int]


def code_of(root: Path) -> str:
    """Return a digest of the package's source, because outcomes are valid for the same code only."""
    files = sorted((root / "tritonconv").glob("**/*.py"))
    return sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


class Report:
    """The outcomes so far, a row for each mutant. They are written to the file `path`, unless that is None."""

    def __init__(self, code: str, path: Path | None) -> None:
        self.code = code
        self.path = path
        self.rows: dict[Key, dict[str, Any]] = {}
        self.seconds = 0.0

    def resume(self, path: Path, mutants: list[Mutant]) -> None:
        """Take over the outcomes of those `mutants` that an earlier run killed, from its JSON file `path`.

        Mutants that hung or crashed count as killed. Tests added since only kill more. Raise SystemExit if the earlier
        run was on other code.
        """
        earlier = json.loads(path.read_text())
        if earlier["code"] != self.code:
            raise SystemExit(
                f"{path} has the outcomes of other code: tritonconv has changed since. Run without --resume."
            )
        self.seconds = earlier["seconds"]
        known = {mutant.key: mutant for mutant in mutants}
        for row in earlier["mutants"]:
            key = (row["file"], row["function"], row["old"], row["new"], row["occurrence"])
            if key in known and row["status"] in ("killed", "hung", "crashed"):
                self.rows[key] = row | {"line": known[key].line}

    def set_aside(self, mutants: list[Mutant], reasons: dict[Key, str]) -> None:
        """Give each of `mutants` that has one of the `reasons` the outcome "equivalent", so that `run` skips it."""
        for mutant in mutants:
            if mutant.key in reasons:
                self.add(mutant, Outcome("equivalent", "", 0.0, reasons[mutant.key]))

    def run(self, mutants: list[Mutant], root: Path, processes: int, limit: int, direct_only: bool = False) -> bool:
        """Run the tests on each of `mutants` that has no outcome yet, and once without a mutation.

        Print and write each outcome as it comes. Return False if the tests fail without a mutation. Then no further
        mutant is started. Otherwise return True. `limit` and `direct_only` are those of `runner.run`.
        """
        started, before = perf_counter(), self.seconds
        waiting = [mutant for mutant in mutants if mutant.key not in self.rows]
        free: SimpleQueue[ForkServer] = SimpleQueue()

        def outcome_of(mutant: Mutant | None) -> Outcome:
            one = free.get()
            try:
                return run(mutant, root, one, limit, direct_only)
            finally:
                free.put(one)

        with ExitStack() as stack, ThreadPoolExecutor(processes) as pool:
            for _ in range(processes):
                free.put(stack.enter_context(closing(ForkServer(os.environ))))
            futures: dict[Future[Outcome], Mutant | None] = {pool.submit(outcome_of, m): m for m in (None, *waiting)}
            for future in as_completed(futures):
                mutant, outcome = futures[future], future.result()
                self.seconds = before + perf_counter() - started
                if mutant is not None:
                    self.add(mutant, outcome)
                    print(f"{mutant}\n    {outcome}", flush=True)
                elif outcome.status != "survived":
                    pool.shutdown(cancel_futures=True)
                    print(f"Without any mutation {outcome.test} fails: {outcome.message}")
                    print("The outcomes mean nothing until the tests pass on the unchanged code.")
                    return False
                self.write()
        return True

    def add(self, mutant: Mutant, outcome: Outcome) -> None:
        place = {"file": mutant.file, "line": mutant.line, "function": mutant.function, "kind": mutant.kind}
        change = {"old": mutant.old, "new": mutant.new, "occurrence": mutant.occurrence}
        self.rows[mutant.key] = place | change | asdict(outcome)

    def write(self) -> None:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            rows = sorted(self.rows.values(), key=lambda row: (row["file"], row["line"]))
            whole = {"code": self.code, "seconds": round(self.seconds), "summary": self.summary(), "mutants": rows}
            self.path.write_text(json.dumps(whole, indent=1) + "\n")

    def count(self, *statuses: str) -> int:
        return sum(row["status"] in statuses for row in self.rows.values())

    def summary(self) -> str:
        """Return in words how many mutants have which outcome. Those that hung or crashed count as killed."""
        killed, survived = self.count("killed", "hung", "crashed"), self.count("survived")
        equivalent = self.count("equivalent")
        return f"{len(self.rows)} mutants: {killed} killed, {survived} survived, {equivalent} equivalent (not run)"
