"""The part of docs/performance.md about a CPU."""

from bench import table
from bench.layers import VARYING
from bench.report import tables
from bench.report.between_processes import from_processes
from bench.report.compare import CPU_CONTENDER
from bench.report.gpu_page import noise
from bench.report.machines import Machine, at_batch, dtypes, over_commits, picture, together, where
from bench.report.numbers import number
from bench.report.summary import Comparison
from bench.report.summary_tables import NAMED, by_family, memory, slowness


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
        worst = [[f"{layer} {of}", number(comparison.shown(ratios[layer, of]))] for layer, of in order]
        parts += [
            f"### `{CPU_CONTENDER}` beside torch.nn in {dtype}",
            f"Geometric means over the layers of a family{at_batch(run)}:",
            by_family(comparison, slowness),
            from_processes(comparison),
            *noise(comparison),
            "The layers that are slowest beside torch.nn:",
            table.markdown(["layer and pass", "times as long"], worst),
            *memory(comparison),
            picture(machine, comparison.picture, link, f"Time of every layer and pass on a CPU in {dtype}"),
            picture(machine, f"roofline-{dtype}", link, f"Roofline of a CPU in {dtype}"),
            *over_commits(machine, dtype, link),
        ]
    local = {row["layer"] for row in run["rows"] if row["family"] in VARYING.values()}
    if local:
        parts.append(f"torch.nn has none of the {len(local)} layers whose weight varies, so they have no ratio.")
    others = [row for row in run["rows"] if row["family"] not in VARYING.values()]
    if reasons := tables.untimed(others, CPU_CONTENDER, dtypes(run)[0]):
        parts += ["These passes have no time and are in none of the means:", reasons]
    return parts
