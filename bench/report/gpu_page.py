"""The part of docs/performance.md about a GPU."""

from bench import table
from bench.report import above_roof
from bench.report.between_processes import from_processes
from bench.report.compare import GPU_CONTENDER, NAMES
from bench.report.groups import tuning
from bench.report.machines import Machine, dtypes, over_commits, picture, together, where
from bench.report.summary import Comparison
from bench.report.summary_tables import by_family, extremes, faster, headline, memory, roofs, speeds, verdict
from bench.report.tables import compared, left_out
from bench.results import Results
from bench.run.contenders import PASSES


def gpu_part(machine: Machine, link: str) -> list[str]:
    """Return paragraphs and tables about a GPU."""
    run = together(machine)
    parts = [f"## On a GPU: {run['environment']['gpu']}", *where(run)]
    for dtype in dtypes(run):
        for baseline in NAMES:
            if comparison := Comparison.of(run["rows"], GPU_CONTENDER, dtype, baseline):
                parts += [*beside(comparison, run), *others(run, comparison)]
                parts.append(picture(machine, comparison.picture, link, f"Speed of every layer and pass in {dtype}"))
        if dtype in run["ceilings"]:
            parts.append(picture(machine, f"roofline-{dtype}", link, f"Roofline in {dtype}"))
        parts += over_commits(machine, dtype, link)
    wrong = sum(row["status"] in ("wrong", "failed") for row in run["rows"])
    if wrong:
        parts.append(f"{wrong} rows have no time because their result was wrong or missing.")
    return parts


def beside(comparison: Comparison, run: Results) -> list[str]:
    """Return paragraphs and tables about a contender on a GPU beside its yardstick: the headline first."""
    ours, other = f"`{comparison.contender}`", NAMES[comparison.baseline]
    parts = [
        f"### {ours} beside {other} in {comparison.dtype}",
        f"Speed of {ours} over that of {other}: **device time / eager time**. Above 1, {ours} is faster. Each number "
        "is the geometric mean over the layers of a family. Brackets hold the number of layers. Host time of a call "
        f"and peak memory are those of {ours} / {other}: a median, and a mean multiple of operands and results.",
        headline(comparison),
        f"{tuning(comparison)} {from_processes(comparison)}{held_out(comparison)}".strip(),
        " ".join(verdict(comparison, clock) for clock in comparison.ratios),
        *noise(comparison),
    ]
    if "device" in comparison.ratios:
        parts += [
            f"Share of the roofline on the device, **{ours} / {other}**, geometric means:",
            by_family(comparison, roofs),
            *above(comparison, run),
        ]
    parts += memory(comparison)
    parts += ["In how many passes of layers each is faster:", faster(comparison)]
    return [*parts, "The worst and the best passes, by ratio:", extremes(comparison)]


def others(run: Results, comparison: Comparison) -> list[str]:
    """Return a sentence and the table of all contenders beside one yardstick. Empty if there is only one contender."""
    names = [
        name
        for dtype, name, other in compared(run["rows"])
        if (dtype, other) == (comparison.dtype, comparison.baseline)
    ]
    found = [Comparison.of(run["rows"], name, comparison.dtype, comparison.baseline) for name in names]
    timed = [each for each in found if each]
    if len(timed) < 2:
        return []
    passes = [of for of in PASSES if any(of in each.passes for each in timed)]
    body = [
        [f"`{each.contender}` ({len(each.layers())})", *(speeds(each, of, None) for of in passes)] for each in timed
    ]
    return [
        f"All contenders beside {NAMES[comparison.baseline]}, each in the layers that it was timed in:",
        table.markdown(["contender", *passes], body),
    ]


def noise(comparison: Comparison) -> list[str]:
    """Return a sentence on the ratios that are left out as noise, or an empty list if there is none."""
    return [left_out(comparison)] if any(comparison.noise.values()) else []


def held_out(comparison: Comparison) -> str:
    """Return a sentence on the held-out layers of a comparison. Empty if there are none."""
    if comparison.held_out is None:
        return ""
    return " Held-out layers, whose shapes no tile was tuned for and no model fitted to, are in no other mean."


def above(comparison: Comparison, run: Results) -> list[str]:
    """Return a sentence on the times above their roofline, or an empty list if there is none."""
    found = above_roof.reasons(run, comparison)
    if not found:
        return []
    count = len(comparison.compared_rows)
    return [f"{len(found)} of {count} times are above their roofline. The table of every layer says why for each."]
