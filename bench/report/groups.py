"""The groups of layers that have a mean of their own: families, tuned layers and others, and held-out layers."""

from bench.report.summary import Comparison
from bench.report.tuned import elsewhere

# A group: its name with the number of its layers, its comparison, and the family in it, or None for all families.
Group = tuple[str, Comparison, str | None]
TUNED = {True: "tuned", False: "not tuned", None: "not known to be tuned"}


def groups(comparison: Comparison) -> list[Group]:
    """Return the families, and all of them where there are several. Then come tuned layers, others, and held-out ones.

    Tuned layers have no group of their own if all layers are tuned, or none is. Held-out layers are in no other group.
    """
    families: list[str | None] = [*comparison.families, *([None] if len(comparison.families) > 1 else [])]
    found = [group(family or "all", comparison, family) for family in families]
    by_tuning = comparison.by_tuning
    if len(by_tuning) > 1:
        found += [group(TUNED[each], comparison.only(by_tuning[each])) for each in TUNED if each in by_tuning]
    if comparison.held_out:
        found.append(group("held out", comparison.held_out))
    return found


def group(name: str, comparison: Comparison, family: str | None = None) -> Group:
    """Return a group with the number of its layers in its name."""
    return f"{name} ({len(comparison.layers(family))})", comparison, family


def tuning(comparison: Comparison) -> str:
    """Return a sentence that says whether the tiles of these layers were tuned on them. Empty if that is unknown."""
    by_tuning = comparison.by_tuning
    layers = {each: len(comparison.only(places).layers()) for each, places in by_tuning.items()}
    names = elsewhere(comparison.compared_rows)
    on = f", but on another GPU: {names}" if names else ""
    if set(by_tuning) == {True}:
        many = "The only layer was" if layers[True] == 1 else f"All {layers[True]} layers were"
        return f"{many} tuned: their tiles were measured to be fastest on these very layers{on}."
    if set(by_tuning) == {False}:
        return "No layer was tuned: a cost model chose all tiles."
    if set(by_tuning) == {True, False}:
        return f"Tuned layers also have a mean of their own. Their tiles were measured on these very layers{on}."
    return ""
