"""The generated part of docs/performance.md, made from the committed records."""

from pathlib import Path

from bench import table
from bench.report import tables
from bench.report.compare import CPU_CONTENDER, GPU_CONTENDER
from bench.report.machines import Machine, at_batch, dtypes, machines, on_gpu, picture, together, where
from bench.report.summary import Comparison
from bench.report.summary_tables import NAMED, by_family, extremes, faster, peaks, roofs, slowness, speeds, verdict
from bench.results import RESULTS


def performance(folder: Path = RESULTS, link: str = "../bench/results/") -> str:
    """Return the generated part of docs/performance.md: every machine, and links to every layer and time."""
    parts, found = [], machines(folder)
    for machine in found:
        parts += gpu_part(machine, link) if on_gpu(machine) else cpu_part(machine, link)
    files = [path.with_suffix(".md").name for machine in found for path, _ in machine]
    if files:
        parts += ["## Every layer and time", "\n".join(f"- [{name}]({link}{name})" for name in files)]
    return "\n\n".join(parts) if parts else "Nothing has been timed yet."


def gpu_part(machine: Machine, link: str) -> list[str]:
    """Return paragraphs and tables about a GPU."""
    run = together(machine)
    parts = [f"## On a GPU: {run['environment']['gpu']}", *where(run)]
    for dtype in dtypes(run):
        for baseline in tables.NAMES:
            if comparison := Comparison.of(run["rows"], GPU_CONTENDER, dtype, baseline):
                parts += beside(comparison)
                parts.append(picture(machine, comparison.picture, link, f"Speed of every layer and pass in {dtype}"))
        if dtype in run["ceilings"]:
            parts.append(picture(machine, f"roofline-{dtype}", link, f"Roofline in {dtype}"))
        parts += over_commits(machine, dtype, link)
    wrong = sum(row["status"] in ("wrong", "failed") for row in run["rows"])
    if wrong:
        parts.append(f"{wrong} rows have no time because their result was wrong or missing.")
    return parts


def beside(comparison: Comparison) -> list[str]:
    """Return paragraphs and tables about a contender on a GPU beside its yardstick."""
    other = tables.NAMES[comparison.baseline]
    parts = [
        f"### `{comparison.contender}` beside {other} in {comparison.dtype}",
        f"Speed of `{comparison.contender}` over that of {other}: **device time / eager time**. Above 1, "
        f"`{comparison.contender}` is faster. Each number is the geometric mean over the layers of a family. Brackets "
        "hold the number of layers.",
        by_family(comparison, speeds),
    ]
    if "device" in comparison.ratios:
        parts += [
            f"Share of the roofline on the device, **`{comparison.contender}` / {other}**, geometric means:",
            by_family(comparison, roofs),
        ]
    parts += memory(comparison)
    parts += ["In how many passes of layers each is faster:", faster(comparison)]
    parts.append(" ".join(verdict(comparison, clock) for clock in comparison.ratios))
    ours, theirs = (comparison.host(name) for name in (comparison.contender, comparison.baseline))
    if ours and theirs:
        parts[-1] += (
            f" A call takes the host {ours:.0f} us with `{comparison.contender}` and {theirs:.0f} us with {other} "
            "(medians over all passes)."
        )
    return [*parts, "The worst and the best passes, by ratio:", extremes(comparison)]


def over_commits(machine: Machine, dtype: str, link: str) -> list[str]:
    """Return the picture of throughput over commits, or an empty list if the machine has only one record."""
    return [picture(machine, f"commits-{dtype}", link, f"Throughput over commits in {dtype}")] * (len(machine) > 1)


def memory(comparison: Comparison) -> list[str]:
    """Return a sentence and the table of peaks of memory, or an empty list if no peak was measured."""
    if comparison.peak(comparison.contender) is None:
        return []
    other = tables.NAMES[comparison.baseline]
    return [
        f"Peak of memory as a multiple of operands and results, **`{comparison.contender}` / {other}**:",
        by_family(comparison, peaks),
    ]


def cpu_part(machine: Machine, link: str) -> list[str]:
    """Return paragraphs and tables about a CPU, where the reference runs."""
    run = together(machine)
    parts = [
        f"## On a CPU: {run['environment']['cpu']}",
        *where(run),
        "On a CPU everything runs as the reference, which is plain PyTorch. The tables say **how many times as long as "
        "torch.nn** it takes, in eager mode.",
    ]
    for dtype in dtypes(run):
        comparison = Comparison.of(run["rows"], CPU_CONTENDER, dtype)
        if comparison is None:
            continue
        order = comparison.slowest_first("eager")[:NAMED]
        ratios = comparison.ratios["eager"]
        worst = [[f"{layer} {of}", tables.number(comparison.shown(ratios[layer, of]))] for layer, of in order]
        parts += [
            f"### `{CPU_CONTENDER}` beside torch.nn in {dtype}",
            f"Geometric means over the layers of a family{at_batch(run)}:",
            by_family(comparison, slowness),
            "The layers that are slowest beside torch.nn:",
            table.markdown(["layer and pass", "times as long"], worst),
            *memory(comparison),
            picture(machine, comparison.picture, link, f"Time of every layer and pass on a CPU in {dtype}"),
            picture(machine, f"roofline-{dtype}", link, f"Roofline of a CPU in {dtype}"),
            *over_commits(machine, dtype, link),
        ]
    local = {row["layer"] for row in run["rows"] if row["family"] == "local"}
    if local:
        parts.append(f"torch.nn has none of the {len(local)} locally connected layers, so they have no ratio.")
    others = [row for row in run["rows"] if row["family"] != "local"]
    if reasons := tables.untimed(others, CPU_CONTENDER, dtypes(run)[0]):
        parts += ["These passes have no time and are in none of the means:", reasons]
    return parts
