"""The generated section of the README, made from the committed records."""

from pathlib import Path

from bench.lowering import table as lowering_table
from bench.report import compare, tables
from bench.report.compare import CPU_CONTENDER, GPU_CONTENDER
from bench.report.machines import at_batch, dtypes, machines, on_gpu, picture, together
from bench.report.summary import Comparison
from bench.report.summary_tables import by_family, speeds, verdict
from bench.results import RESULTS, Results

IN_WORDS = {"forward": "a forward pass", "step": "a training step"}


def readme(folder: Path = RESULTS, link: str = "bench/results/", page: str = "docs/performance.md") -> str:
    """Return the README's section: the GPU that was measured last, and two sentences about the CPU.

    Only the first dtype of each machine is shown. Without times on a GPU, the section says what the compiler
    makes of the kernels.
    """
    found = machines(folder)
    gpu = next((machine for machine in found if on_gpu(machine)), None)
    cpu = next((machine for machine in found if not on_gpu(machine)), None)
    parts = []
    if gpu is None:
        missing = (
            "**Nothing has been timed on a GPU yet.** Without one, this is what the compiler makes of the kernels:"
        )
        parts += [missing, lowering_table.summary(folder / "lowering.json")]
    else:
        run = together(gpu)
        about = run["environment"]
        on = f"{about['gpu']}, {tables.versions(about, 'torch', 'triton', 'cuda', 'cudnn')}"
        parts.append(f"{on}; commit {about['commit']}, {about['date'][:10]}.")
        comparison = first(run, GPU_CONTENDER)
        if comparison:
            parts[-1] += (
                f"\nSpeed of `{GPU_CONTENDER}` over that of torch (cuDNN) in {comparison.dtype}, **on the device / in "
                "eager mode**. Above 1 is faster. Geometric means:"
            )
            parts += [
                by_family(comparison, speeds),
                " ".join(verdict(comparison, clock) for clock in comparison.ratios),
                picture(gpu, comparison.picture, link, "Speed beside torch of every layer and pass"),
            ]
        if local := first(run, GPU_CONTENDER, compare.SUBSTITUTE):
            said = " ".join(verdict(local, clock) for clock in local.ratios)
            parts.append(f"Locally connected layers stand beside {tables.NAMES[local.baseline]}. {said}")
    last = [on_a_cpu(together(cpu))] if cpu else []
    if found:
        last.append(f"[{page}]({page}) has every layer and how it was measured.")
    return "\n\n".join([*parts, " ".join(last)]) if last else "\n\n".join(parts)


def first(run: Results, contender: str, baseline: str = compare.BASELINE) -> Comparison | None:
    """Return the comparison in the first dtype of the run that has one, or None if no dtype has one."""
    for dtype in dtypes(run):
        if found := Comparison.of(run["rows"], contender, dtype, baseline):
            return found
    return None


def on_a_cpu(run: Results) -> str:
    """Return in two sentences how many times as long as torch.nn the reference takes on a CPU. Empty without times."""
    comparison = first(run, CPU_CONTENDER)
    if comparison is None:
        return ""
    said = [f"{IN_WORDS.get(of, of)} takes {times(comparison, of)} times" for of in comparison.passes]
    worst = min(comparison.families, key=lambda family: comparison.mean("eager", None, family) or 1.0)
    at_worst = " and ".join(times(comparison, of, worst) for of in comparison.passes)
    return (
        f"On a CPU the reference runs: {' and '.join(said)} as long as with torch.nn. These are geometric means of "
        f"{len(comparison.layers())} layers{at_batch(run)} in {comparison.dtype}. The slowest family, {worst}, takes "
        f"{at_worst} times as long."
    )


def times(comparison: Comparison, of: str, family: str | None = None) -> str:
    """Return how many times as long as its yardstick a contender takes in eager mode, with two digits.

    Return "?" if it has no times.
    """
    mean = comparison.mean("eager", of, family)
    if mean is None:
        return "?"
    longer = comparison.shown(mean)
    return tables.significant(longer, 2) if longer < 99.5 else f"{longer:.0f}"
