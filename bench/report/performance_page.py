"""The generated part of docs/performance.md, made from the committed records."""

from importlib import import_module
from pathlib import Path

from bench import results
from bench.report.cpu_page import cpu_part
from bench.report.gpu_page import gpu_part
from bench.report.machines import machines, on_gpu, refusal
from bench.results import RESULTS


def performance(folder: Path = RESULTS, link: str = "../bench/results/") -> str:
    """Return the generated part of docs/performance.md: every machine, training steps, and links to every time."""
    parts, found = [], machines(folder)
    for machine in found:
        parts += gpu_part(machine, link) if on_gpu(machine) else cpu_part(machine, link)
    parts += training(folder)
    files = [path.with_suffix(".md").name for machine in found for path, _ in machine]
    if files:
        parts += ["## Every layer and time", "\n".join(f"- [{name}]({link}{name})" for name in files)]
    return "\n\n".join(parts) if parts else "Nothing has been timed yet."


def training(folder: Path) -> list[str]:
    """Return a heading and the tables of the records of training steps, oldest first. Empty without such records."""
    records = [results.read(path) for path in sorted(folder.glob("*.json")) if path.name not in results.NO_RUNS]
    found = [each for each in records if each.get("part") == "training" and refusal(each) is None]
    if not found:
        return []
    found.sort(key=lambda record: str(record["environment"]["date"]))
    markdown = import_module("bench.train.table").markdown  # only here: most reports have no training steps
    return ["## Training steps", *(str(markdown(record)) for record in found)]
