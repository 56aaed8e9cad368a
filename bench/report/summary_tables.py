"""Tables and sentences that sum up how a contender compares with its yardstick, for the published documents."""

from collections.abc import Callable

from bench import table
from bench.report.compare import CLOCKS, NAMES, Clock
from bench.report.groups import groups
from bench.report.numbers import beside, number, percent
from bench.report.ratio_tables import cell, without_empty
from bench.report.summary import Comparison
from bench.table import Table

ON: dict[Clock, str] = {"device": "On the device", "eager": "In eager mode"}
# How many of the best and of the worst passes are named.
NAMED = 5


def by_family(comparison: Comparison, cell: Callable[[Comparison, str, str | None], str | None]) -> str:
    """Return a table with a column for each pass, and a row for each group of layers (`groups`).

    `cell` returns the text for a comparison, a pass and a family, or None.
    """
    body = [[name, *(cell(part, of, family) for of in comparison.passes)] for name, part, family in groups(comparison)]
    return table.markdown(["layers", *comparison.passes], body)


def headline(comparison: Comparison) -> str:
    """Return the table of what matters: speed by pass on the device and in eager mode, host time and peak of memory."""
    names = comparison.contender, comparison.baseline
    body = []
    for name, part, family in groups(comparison):
        hosts, peaks = [part.host(each, family) for each in names], [part.peak(each, None, family) for each in names]
        host = beside(*(None if each is None else f"{each:.0f}" for each in hosts))
        body.append([name, *(speeds(part, of, family) for of in comparison.passes), host, beside(*map(cell, peaks))])
    return str(without_empty(Table(["layers", *comparison.passes, "host us", "peak memory"], body)))


def costs(comparison: Comparison) -> list[str]:
    """Return what else contender and yardstick cost, as far as it is known: host time, and peak of memory."""
    names = comparison.contender, comparison.baseline
    hosts, peaks = [comparison.host(name) for name in names], [comparison.peak(name) for name in names]
    found = []
    if all(hosts):
        found.append(f"host time of a call: {hosts[0]:.0f} / {hosts[1]:.0f} us")
    if peaks[0] is not None and peaks[1] is not None:
        found.append(f"peak memory: {number(peaks[0])} / {number(peaks[1])} times operands and results")
    return found


def speeds(comparison: Comparison, of: str, family: str | None) -> str | None:
    """Return the mean ratios on the device and in eager mode as in "0.95 / 0.41", or None if there is neither."""
    return beside(*(cell(comparison.mean(clock, of, family)) for clock in CLOCKS))


def roofs(comparison: Comparison, of: str, family: str | None) -> str | None:
    """Return the mean shares of the roofline of contender and yardstick as in "81 % / 86 %", or None."""
    both = [comparison.roof(name, of, family) for name in (comparison.contender, comparison.baseline)]
    return beside(*(None if roof is None else percent(roof) for roof in both))


def peaks(comparison: Comparison, of: str, family: str | None) -> str | None:
    """Return the mean peaks of memory of contender and yardstick as in "1.33 / 1.07", or None."""
    both = [comparison.peak(name, of, family) for name in (comparison.contender, comparison.baseline)]
    return beside(*(cell(peak) for peak in both))


def slowness(comparison: Comparison, of: str, family: str | None) -> str | None:
    """Return how many times as long as its yardstick the contender takes in eager mode on average, or None."""
    return cell(comparison.mean("eager", of, family), comparison=comparison)


def faster(comparison: Comparison) -> str:
    """Return the table of who is faster in how many layers, by pass and clock."""
    names = (f"`{comparison.contender}`", NAMES[comparison.baseline])
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
    sides = [(wins, f"`{comparison.contender}`"), (losses, NAMES[comparison.baseline])]
    (ahead, leader), (behind, other) = sides if mean >= 1 else sides[::-1]
    often = f"{ahead} of {count} passes ({other} in {behind})"
    if ahead == count:
        often = "the only pass" if count == 1 else f"all {count} passes"
    factor = number(max(mean, 1 / mean))
    on_average = "" if count == 1 else " in the geometric mean"
    return f"{ON[clock]}, {leader} is faster in {often}, and {factor} times as fast{on_average}."


def in_one_sentence(comparison: Comparison) -> str:
    """Return who is faster by each clock, how often, and by how much in the geometric mean, in few words."""
    said, last = [], ""
    for clock in comparison.ratios:
        mean, (wins, losses, count) = comparison.mean(clock), comparison.wins(clock)
        assert mean is not None
        leader, ahead = (f"`{comparison.contender}`", wins) if mean >= 1 else (NAMES[comparison.baseline], losses)
        often = f"{ahead} of {count}" if ahead < count or count == 1 else f"all {count}"
        who = "" if leader == last else f" {leader} is faster"
        factor = number(max(mean, 1 / mean))
        said.append(f"{ON[clock].lower()}{who} in {often} passes, {factor} times as fast on average")
        last = leader
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}."


def extremes(comparison: Comparison) -> str:
    """Return the table of the NAMED worst and the NAMED best layers and passes by each clock, with their ratios."""
    header, columns = [], []
    for clock, ratios in comparison.ratios.items():
        order = comparison.slowest_first(clock)
        for name, places in (("worst", order[:NAMED]), ("best", order[: -NAMED - 1 : -1])):
            header.append(f"{name}, {clock}")
            columns.append([f"{layer} {of} {number(ratios[layer, of])}" for layer, of in places])
    return table.markdown(header, zip(*columns, strict=False))


def memory(comparison: Comparison) -> list[str]:
    """Return a sentence and the table of peaks of memory, or an empty list if no peak was measured."""
    if comparison.peak(comparison.contender) is None:
        return []
    other = NAMES[comparison.baseline]
    return [
        f"Peak of memory as a multiple of operands and results, **`{comparison.contender}` / {other}**:",
        by_family(comparison, peaks),
    ]
