"""The committed records, by the machine that they were made on, with the pictures that show them."""

from pathlib import Path

from bench import results, table
from bench.report import origin, tuned
from bench.results import RESULTS, Results

# The records of one machine, by file, oldest first.
Machine = list[tuple[Path, Results]]


def records(folder: Path = RESULTS) -> Machine:
    """Return the committed records that are published, by file, oldest first.

    Left out are samples, records without times, and runs of a GPU at another batch than the layers' own. A run on a CPU
    is at another batch, because the layers' own would take too long. Older rows also say which tiles were tuned.
    """
    return [(path, tuned.completed(run)) for path, run in results.with_times(folder) if refusal(run) is None]


def refusal(run: Results) -> str | None:
    """Return why a run may not be published: a sample, a rehearsal, or a GPU at another batch. None if it may be."""
    for kind in ("sample", "rehearsal"):
        if kind in run:
            return f"a {kind} can not be published: {run[kind]}"
    if run["environment"]["gpu"] and "batch" in run:
        return f"a run with --batch {run['batch']} can not be published: on a GPU the layers have a batch of their own"
    return None


def machines(folder: Path = RESULTS) -> list[Machine]:
    """Return the records of each machine: GPUs before CPUs, and among each of these the one measured last first."""
    found: dict[str, Machine] = {}
    for path, run in records(folder):
        found.setdefault(name(run), []).append((path, run))
    newest_first = sorted(found.values(), key=lambda machine: machine[-1][1]["environment"]["date"], reverse=True)
    return sorted(newest_first, key=lambda machine: not on_gpu(machine))


def name(run: Results) -> str:
    """Return the name of a run's machine: the GPU, or the CPU with its threads and the batch, on which times depend."""
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
    """Return the batch in words, or an empty text if it is that of the layers."""
    return f" at batch {run['batch']}" if "batch" in run else ""


def where(run: Results) -> list[str]:
    """Return two Markdown texts: a list of each run's machine and versions and of what is missing, and the ceilings."""
    lines = [f"- {line}" for line in origin.made_on(run)]
    if not run.get("complete", True):
        lines.append(f"- Not everything that was planned was timed: {run['stopped']}.")
    return ["\n".join(lines), table.markdown(["ceilings", ""], [(unit, value) for value, unit in origin.ceilings(run)])]


def picture(machine: Machine, name: str, link: str, what: str) -> str:
    """Return HTML that shows the picture `name` of a machine's runs.

    A browser takes the light or the dark file by its theme. `link` is the path to the pictures'
    folder, with a slash at its end. `what` is the alternative text.
    """
    stem = f"{link}{machine[-1][0].stem}-{name}"
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="{stem}-dark.png">'
    return f'<picture>{dark}<img alt="{what}" src="{stem}.png"></picture>'


def over_commits(machine: Machine, dtype: str, link: str) -> list[str]:
    """Return the picture of throughput over commits, or an empty list if the records are all of one commit."""
    commits = {run["environment"]["commit"] for _, run in machine}
    return [picture(machine, f"commits-{dtype}", link, f"Throughput over commits in {dtype}")] * (len(commits) > 1)
