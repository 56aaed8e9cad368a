"""The generated parts of README.md and docs/performance.md, made from the committed evidence."""

from collections.abc import Callable, Sequence
from pathlib import Path

from bench import results, table
from bench.lowering import table as lowering_table
from bench.report import compare, tables
from bench.report.compare import CLOCKS, Clock
from bench.report.summary import Comparison
from bench.results import RESULTS, Results

OURS, ON_CPU = "triton", "reference"
ON: dict[Clock, str] = {"device": "On the device", "eager": "In eager mode"}
IN_WORDS = {"forward": "a forward pass", "step": "a step"}
# How many of the best and of the worst passes are named.
NAMED = 5

Machine = list[tuple[Path, Results]]


def machines(folder: Path = RESULTS) -> list[Machine]:
    """Return the records of each machine, oldest first: GPUs before CPUs, and the machine measured last first."""
    found: dict[str, Machine] = {}
    for path, run in results.records(folder).items():
        found.setdefault(results.machine(run), []).append((path, run))
    last = {machine: runs[-1][1]["environment"] for machine, runs in found.items()}
    newest_first = sorted(found, key=lambda machine: last[machine]["date"], reverse=True)
    return [found[machine] for machine in sorted(newest_first, key=lambda machine: last[machine]["gpu"] is None)]


def on_gpu(machine: Machine) -> bool:
    return machine[-1][1]["environment"]["gpu"] is not None


def together(machine: Machine) -> Results:
    return results.merged([run for _, run in machine])


def dtypes(run: Results) -> list[str]:
    return list(dict.fromkeys(row["dtype"] for row in run["rows"]))


def readme(folder: Path = RESULTS, link: str = "bench/results/", page: str = "docs/performance.md") -> str:
    """Return the README's section: the GPU that was measured last, and one sentence about the CPU.

    Only the first dtype is shown. Without times on a GPU it says what the compiler makes of the kernels.
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
        comparison = first(run, OURS)
        if comparison:
            parts[-1] += (
                f"\nSpeed of `{OURS}` over that of torch in {comparison.dtype}, **on the device / in eager mode**. "
                "Above 1 is faster. Geometric means:"
            )
            parts += [
                by_family(comparison, speeds),
                " ".join(verdict(comparison, clock) for clock in comparison.ratios),
                picture(gpu, f"{OURS}-{comparison.dtype}", link, "Speed beside torch of every layer and pass"),
            ]
        if local := first(run, OURS, compare.SUBSTITUTE):
            said = " ".join(verdict(local, clock) for clock in local.ratios)
            parts.append(f"Locally connected layers stand beside {tables.NAMES[local.baseline]}. {said}")
    last = [in_one_sentence(together(cpu))] if cpu else []
    if found:
        last.append(f"[{page}]({page}) has every layer and how it was measured.")
    return "\n\n".join([*parts, " ".join(last)]) if last else "\n\n".join(parts)


def first(run: Results, contender: str, baseline: str = compare.BASELINE) -> Comparison | None:
    """Return the comparison in the first dtype that has one."""
    for dtype in dtypes(run):
        if found := Comparison.of(run["rows"], contender, dtype, baseline):
            return found
    return None


def performance(folder: Path = RESULTS, link: str = "../bench/results/") -> str:
    """Return the generated part of docs/performance.md: every machine, and links to every layer and time."""
    parts = []
    for machine in machines(folder):
        parts += gpu_part(machine, link) if on_gpu(machine) else cpu_part(machine, link)
    files = [path.with_suffix(".md").name for machine in machines(folder) for path, _ in machine]
    if files:
        parts += ["## Every layer and time", "\n".join(f"- [{name}]({link}{name})" for name in files)]
    return "\n\n".join(parts) if parts else "Nothing has been timed yet."


def gpu_part(machine: Machine, link: str) -> list[str]:
    """Return paragraphs and tables about a GPU."""
    run = together(machine)
    parts = [f"## On a GPU: {run['environment']['gpu']}", *where(run)]
    for dtype in dtypes(run):
        for baseline in tables.NAMES:
            if comparison := Comparison.of(run["rows"], OURS, dtype, baseline):
                parts += beside(comparison)
                stem = f"{OURS}{'-local' * (baseline == compare.SUBSTITUTE)}-{dtype}"
                parts.append(picture(machine, stem, link, f"Speed of every layer and pass in {dtype}"))
        if dtype in run["ceilings"]:
            parts.append(picture(machine, f"roofline-{dtype}", link, f"Roofline in {dtype}"))
    wrong = sum(row["status"] in ("wrong", "failed") for row in run["rows"])
    if wrong:
        parts.append(f"{wrong} rows have no time because their result was wrong or missing.")
    return parts


def where(run: Results) -> list[str]:
    """Return the machine and versions of each run, what is missing, and a table of the ceilings."""
    lines = [f"- {line}" for line in tables.machines(run)]
    if not run.get("complete", True):
        lines.append(f"- Not everything that was planned was timed: {run['stopped']}.")
    return ["\n".join(lines), table.markdown(["ceilings", ""], [(unit, value) for value, unit in tables.ceilings(run)])]


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
    parts += ["In how many passes of layers each is faster:", faster(comparison)]
    parts.append(" ".join(verdict(comparison, clock) for clock in comparison.ratios))
    ours, theirs = (comparison.host(name) for name in (comparison.contender, comparison.baseline))
    if ours and theirs:
        parts[-1] += (
            f" A call takes the host {ours:.0f} us with `{comparison.contender}` and {theirs:.0f} us with {other} "
            "(medians over all passes)."
        )
    return [*parts, "The worst and the best passes, by ratio:", extremes(comparison)]


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
        comparison = Comparison.of(run["rows"], ON_CPU, dtype)
        if comparison is None:
            continue
        order = comparison.slowest_first("eager")[:NAMED]
        ratios = comparison.ratios["eager"]
        worst = [[f"{layer} {of}", f"{1 / ratios[layer, of]:.2f}"] for layer, of in order]
        parts += [
            f"### `{ON_CPU}` beside torch.nn in {dtype}",
            f"Geometric means over the layers of a family{at_batch(run)}:",
            by_family(comparison, slowness),
            "The layers that are slowest beside torch.nn:",
            table.markdown(["layer and pass", "times as long"], worst),
            picture(machine, f"{ON_CPU}-{dtype}", link, f"Speed of every layer and pass on a CPU in {dtype}"),
            picture(machine, f"roofline-{dtype}", link, f"Roofline of a CPU in {dtype}"),
        ]
    local = {row["layer"] for row in run["rows"] if row["family"] == "local"}
    if local:
        parts.append(f"torch.nn has none of the {len(local)} locally connected layers, so they have no ratio.")
    if reasons := tables.untimed([row for row in run["rows"] if row["family"] != "local"], ON_CPU, dtypes(run)[0]):
        parts += ["Without a time:", reasons]
    return parts


def in_one_sentence(run: Results) -> str:
    """Return how much longer than torch.nn the reference takes on a CPU, for the README."""
    comparison = first(run, ON_CPU)
    if comparison is None:
        return ""
    said = [
        f"{IN_WORDS.get(of, of)} takes {1 / mean:.1f} times"
        for of in comparison.passes
        if (mean := comparison.mean("eager", of))
    ]
    count = len(comparison.layers())
    return (
        f"On a CPU the reference runs: {', '.join(said)} as long as with torch.nn "
        f"({count} layers{at_batch(run)} in {comparison.dtype}, geometric mean)."
    )


def at_batch(run: Results) -> str:
    """Return the batch size in words, if all layers have the same."""
    batches = {row.get("batch", row["image"][0]) for row in run["rows"] if "image" in row}
    return f" at batch {batches.pop()}" if len(batches) == 1 else ""


def by_family(comparison: Comparison, cell: Callable[[Comparison, str, str | None], str | None]) -> str:
    """Return a table with a row for each family, and for all where there are several, and a column for each pass."""
    body = [
        [tables.counted(comparison, family), *(cell(comparison, of, family) for of in comparison.passes)]
        for family in tables.grouped(comparison)
    ]
    return table.markdown(["layers", *comparison.passes], body)


def speeds(comparison: Comparison, of: str, family: str | None) -> str | None:
    """Return the ratios on the device and in eager mode as in "0.95 / 0.41"."""
    return joined([tables.cell(comparison.mean(clock, of, family)) for clock in CLOCKS])


def roofs(comparison: Comparison, of: str, family: str | None) -> str | None:
    """Return the shares of the roofline of contender and yardstick as in "81 % / 86 %"."""
    both = [comparison.roof(name, of, family) for name in (comparison.contender, comparison.baseline)]
    return joined([None if roof is None else tables.percent(roof) for roof in both])


def slowness(comparison: Comparison, of: str, family: str | None) -> str | None:
    """Return how many times as long as its yardstick the contender takes in eager mode."""
    mean = comparison.mean("eager", of, family)
    return None if mean is None else f"{1 / mean:.2f}"


def joined(pair: Sequence[str | None]) -> str | None:
    return " / ".join(map(table.text, pair)) if any(pair) else None


def faster(comparison: Comparison) -> str:
    """Return the table of who is faster in how many layers, by pass and clock."""
    names = (f"`{comparison.contender}`", tables.NAMES[comparison.baseline])
    body = []
    for clock in comparison.ratios:
        for who, name in enumerate(names):
            counts = [comparison.wins(clock, of) for of in (*comparison.passes, None)]
            body.append(
                [f"{name}, {clock}", *(f"{count[who]} of {count[2]}" if count[2] else None for count in counts)]
            )
    return table.markdown(["faster", *comparison.passes, "all passes"], body)


def verdict(comparison: Comparison, clock: Clock) -> str:
    """Return a sentence that says who is faster, how often, and by how much."""
    mean = comparison.mean(clock)
    assert mean is not None
    wins, losses, count = comparison.wins(clock)
    sides = [(wins, f"`{comparison.contender}`"), (losses, theirs_by(comparison, clock))]
    (ahead, leader), (behind, other) = sides if mean >= 1 else sides[::-1]
    often = f"all {count} passes" if ahead == count else f"{ahead} of {count} passes, {other} in {behind}"
    factor = max(mean, 1 / mean)
    return f"{ON[clock]}, {leader} is faster in {often}; in the geometric mean by a factor of {factor:.2f}."


def theirs_by(comparison: Comparison, clock: Clock) -> str:
    """Return what runs as the yardstick: on the device it is cuDNN that torch calls."""
    if comparison.baseline == compare.BASELINE:
        return "cuDNN" if clock == "device" else "torch"
    return tables.NAMES[comparison.baseline]


def extremes(comparison: Comparison) -> str:
    """Return the table of the worst and best passes by each clock."""
    header, columns = [], []
    for clock, ratios in comparison.ratios.items():
        order = comparison.slowest_first(clock)
        for name, places in (("worst", order[:NAMED]), ("best", order[: -NAMED - 1 : -1])):
            header.append(f"{name}, {clock}")
            columns.append([f"{layer} {of} {ratios[layer, of]:.2f}" for layer, of in places])
    return table.markdown(header, zip(*columns, strict=False))


def picture(machine: Machine, name: str, link: str, what: str) -> str:
    """Return the Markdown of a picture of a machine's runs. A browser takes the light or the dark file by its theme."""
    stem = f"{link}{machine[-1][0].stem}-{name}"
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="{stem}-dark.png">'
    return f'<picture>\n  {dark}\n  <img alt="{what}" src="{stem}.png">\n</picture>'


def replaced(text: str, section: str, markers: Sequence[str]) -> str:
    """Return a text whose part between the two markers is the section."""
    begin, end = markers
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{section}\n{end}{after}"


def between(text: str, markers: Sequence[str]) -> str:
    """Return the part of a text between the two markers."""
    begin, end = markers
    return text.split(begin)[1].split(end)[0].strip()
