"""The committed records, by the machine that they were made on, with the pictures that show them."""

from pathlib import Path

from bench import results, table
from bench.report import tables
from bench.results import NO_RUNS, RESULTS, WITHOUT_TIMES, Results

# The records of one machine, by file, oldest first.
Machine = list[tuple[Path, Results]]


def records(folder: Path = RESULTS) -> Machine:
    """Return the committed records that are published, by file, oldest first.

    Left out are samples, records without times, and runs of a GPU at another batch than the layers' own. A run on a CPU
    is at another batch, because the layers' own would take too long.
    """
    found = [(path, results.read(path)) for path in sorted(folder.glob("*.json")) if path.name not in NO_RUNS]
    found = [(path, run) for path, run in found if run.get("part") not in WITHOUT_TIMES and refusal(run) is None]
    return sorted(found, key=lambda each: each[1]["environment"]["date"])


def refusal(run: Results) -> str | None:
    """Why a run is not published, or None if it may be."""
    for kind in ("sample", "rehearsal"):
        if kind in run:
            return f"a {kind} can not be published: {run[kind]}"
    if run["environment"]["gpu"] and "batch" in run:
        return f"a run with --batch {run['batch']} can not be published: on a GPU the layers have a batch of their own"
    return None


def machines(folder: Path = RESULTS) -> list[Machine]:
    """Return the records of each machine: GPUs before CPUs, and among them the machine measured last first."""
    found: dict[str, Machine] = {}
    for path, run in records(folder):
        found.setdefault(name(run), []).append((path, run))
    newest_first = sorted(found.values(), key=lambda machine: machine[-1][1]["environment"]["date"], reverse=True)
    return sorted(newest_first, key=lambda machine: not on_gpu(machine))


def name(run: Results) -> str:
    """Return what the times of a run depend on: the GPU, or the CPU with its threads and the batch."""
    about = run["environment"]
    return str(about["gpu"]) if about["gpu"] else f"{about['cpu']}, {about['threads']} threads{at_batch(run)}"


def on_gpu(machine: Machine) -> bool:
    """Whether the machine's records are of a GPU."""
    return machine[-1][1]["environment"]["gpu"] is not None


def together(machine: Machine) -> Results:
    """Return all records of a machine as one."""
    return results.merged([run for _, run in machine])


def dtypes(run: Results) -> list[str]:
    return list(dict.fromkeys(row["dtype"] for row in run["rows"]))


def at_batch(run: Results) -> str:
    """Return the batch in words, if it is not that of the layers."""
    return f" at batch {run['batch']}" if "batch" in run else ""


def where(run: Results) -> list[str]:
    """Return the machine and versions of each run, what is missing, and a table of the ceilings."""
    lines = [f"- {line}" for line in tables.made_on(run)]
    if not run.get("complete", True):
        lines.append(f"- Not everything that was planned was timed: {run['stopped']}.")
    return ["\n".join(lines), table.markdown(["ceilings", ""], [(unit, value) for value, unit in tables.ceilings(run)])]


def picture(machine: Machine, name: str, link: str, what: str) -> str:
    """Return the Markdown of a picture of a machine's runs. A browser takes the light or the dark file by its theme."""
    stem = f"{link}{machine[-1][0].stem}-{name}"
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="{stem}-dark.png">'
    return f'<picture>{dark}<img alt="{what}" src="{stem}.png"></picture>'
