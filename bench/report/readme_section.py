"""The generated section of the README, made from the committed records."""

from pathlib import Path

from bench.lowering import table as lowering_table
from bench.report import compare
from bench.report.between_processes import in_short
from bench.report.compare import CPU_CONTENDER, GPU_CONTENDER
from bench.report.machines import at_batch, dtypes, machines, on_gpu, picture, together
from bench.report.numbers import significant
from bench.report.origin import versions
from bench.report.summary import Comparison
from bench.report.summary_tables import headline, in_one_sentence
from bench.results import RESULTS, Results

IN_WORDS = {"forward": "in a forward pass", "step": "in a training step"}


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
        on = f"{about['gpu']}, {versions(about, 'torch', 'triton', 'cudnn')}"
        parts.append(f"{on}; commit {about['commit']}, {about['date'][:10]}.")
        if comparison := first(run, GPU_CONTENDER):
            parts[-1] += f"\n{what(comparison)}"
            parts += [
                headline(comparison),
                in_one_sentence(comparison),
                picture(gpu, comparison.picture, link, "Speed of every layer"),
            ]
        if varying := first(run, GPU_CONTENDER, compare.SUBSTITUTE):
            beside = compare.NAMES[varying.baseline]
            parts.append(f"Layers whose weight varies stand beside {beside}. {in_one_sentence(varying)}")
    last = [on_a_cpu(together(cpu))] if cpu else []
    if found:
        last.append(f"[{page}]({page}) has every layer and how it was measured.")
    return "\n\n".join([*parts, " ".join(last)]) if last else "\n\n".join(parts)


def what(comparison: Comparison) -> str:
    """Return what the table of a GPU shows, from how many processes it is, and whether its layers were tuned."""
    names = f"`{comparison.contender}`", f"{compare.NAMES[comparison.baseline]} (cuDNN)"
    tuned = f"; all {len(comparison.layers())} layers were tuned" if set(comparison.by_tuning) == {True} else ""
    return (
        f"In {comparison.dtype}, **{in_short(comparison)}**{tuned}. Speed of {names[0]} over {names[1]}, **device / "
        f"eager**: above 1 is faster. Host time and peak memory, {names[0]} / torch. Means:"
    )


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
    said = [f"{times(comparison, of)} times {IN_WORDS.get(of, of)}" for of in comparison.passes]
    said[0] = said[0].replace("times", "times as long as torch.nn", 1)
    worst = min(comparison.families, key=lambda family: comparison.mean("eager", None, family) or 1.0)
    at_worst = " and ".join(times(comparison, of, worst) for of in comparison.passes)
    return (
        f"On a CPU the reference takes {', and '.join(said)}. The slowest family is {worst}: {at_worst}."
        f"{peak(comparison)} These are means of {len(comparison.layers())} layers{at_batch(run)} in "
        f"{comparison.dtype}, {in_short(comparison)}."
    )


def peak(comparison: Comparison) -> str:
    """Return a sentence on the peak of memory beside that of the yardstick. Empty if it is not known."""
    ours, theirs = (comparison.peak(name) for name in (comparison.contender, comparison.baseline))
    if ours is None or theirs is None:
        return ""
    return f" Peak memory is {ours:.1f} times operands and results (torch.nn {theirs:.1f})."


def times(comparison: Comparison, of: str, family: str | None = None) -> str:
    """Return how many times as long as its yardstick a contender takes in eager mode, with two digits.

    Return "?" if it has no times.
    """
    mean = comparison.mean("eager", of, family)
    if mean is None:
        return "?"
    longer = comparison.shown(mean)
    return significant(longer, 2) if longer < 99.5 else f"{longer:.0f}"
