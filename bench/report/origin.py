"""Where a run is from: its machine, versions, commit, date and ceilings, and whether it is a sample or a rehearsal."""

from typing import Any

from bench.report.numbers import significant
from bench.results import Results

# What each ceiling is, beside those of the matrix products, which have the names of dtypes.
BANDWIDTHS = {
    "copy": "GB/s in a copy",
    "read": "GB/s in reading",
    "l2": "GB/s in copies within the L2 cache",
    "l2_read": "GB/s in reading within the L2 cache",
}


def describe(run: Results) -> str:
    """Return the machine, the versions and the ceilings, and a warning if the run is a sample or a rehearsal."""
    lines = made_on(run)
    reached = [f"{value} {unit}" for value, unit in ceilings(run)]
    lines.append(f"Ceilings{' of the last of these runs' * (len(lines) > 1)}: {', '.join(reached)}.")
    if "sample" in run:
        lines.insert(0, f"**A sample: {run['sample']}**\n")
    elif "rehearsal" in run:
        lines.insert(0, f"**A rehearsal: {run['rehearsal']}. These are no results.**\n")
    if not run.get("complete", True):
        lines.append(f"Not complete: {run['stopped']}.")
    return "\n".join(lines)


def is_rehearsal(run: Results) -> bool:
    """Whether a run only shows that the benchmark works. Its times are of other problems than the layers it names."""
    return "rehearsal" in run and "sample" not in run


def made_on(run: Results) -> list[str]:
    """Return one line for each run that was merged into this one, or for this one."""
    return [machine(about) for about in run.get("runs", [run["environment"]])]


def ceilings(run: Results) -> list[tuple[str, str]]:
    """Return the value of each ceiling as text, with its unit, how it was measured, and the clock of that moment."""
    return [(significant(value), measured_in(name, run)) for name, value in run["ceilings"].items()]


def measured_in(name: str, run: Results) -> str:
    """Return the unit of a ceiling, the product that reached it, and the SM clock then, as far as they are known."""
    unit = BANDWIDTHS.get(name, f"TFLOP/s in a {name} matrix product")
    if source := (run.get("ceilings_from") or {}).get(name):
        unit += f" ({source})"
    if clock := (run.get("ceiling_clocks") or {}).get(name):
        unit += f" at {clock:.0f} MHz"
    return unit


def machine(about: dict[str, Any]) -> str:
    """Return one line on the machine, versions, commit and date of a run."""
    if about["gpu"]:
        where = f"{about['gpu']}, driver {about['driver']}"
    else:
        where = f"{about['cpu']}, {about['threads']} threads"
        if load := about.get("load"):
            where += f", load average {load['start']} at the start and {load.get('end')} at the end"
    commit = f"commit {about['commit']}{' with changes' if about['changed'] else ''}"
    return f"{where}; {versions(about, 'torch', 'triton', 'cuda', 'cudnn', 'python')}; {commit}; {about['date']}."


def versions(about: dict[str, Any], *names: str) -> str:
    return ", ".join(f"{name} {about[name]}" for name in names if about[name])
