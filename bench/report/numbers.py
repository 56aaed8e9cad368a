"""Numbers as text: all tables, sentences and pictures show a ratio, a share or a time in one format."""

from collections.abc import Iterable, Mapping

from bench import table


def number(ratio: float) -> str:
    """Return a ratio as all tables and pictures show it: 0.0041, 0.030, 0.41, 5.50, 42.1, 244."""
    if ratio < 0.1:
        return significant(ratio, 2)
    return f"{ratio:.2f}" if ratio < 9.995 else significant(ratio, 3) if ratio < 999.5 else f"{ratio:.0f}"


def percent(share: float) -> str:
    """Return a share in percent: as a whole number, or with two digits if it is below ten: 84 %, 9.0 %, 0.50 %."""
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{significant(100 * share, 2)} %"


def significant(value: float, digits: int = 4) -> str:
    """Return a number with this many significant digits, zeros at the end included."""
    return f"{value:#.{digits}g}".removesuffix(".")


def microseconds(spread: Mapping[str, float] | None, with_spread: bool = False) -> str | None:
    """Return a median time as text, and its p20 and p80 if asked: "47.9 (47.5-48.3)". None if there is no time."""
    if spread is None:
        return None
    return f"{spread['median']:.1f}" + (f" ({spread['p20']:.1f}-{spread['p80']:.1f})" if with_spread else "")


def beside(*pair: str | None) -> str | None:
    """Return two texts with a slash between them, and "-" for one that is missing. None if both are missing."""
    return " / ".join(map(table.text, pair)) if any(pair) else None


def by_reason(places: Iterable[tuple[str, str]], most: int = 3) -> str:
    """Return a list with a line for each reason, from pairs of a reason and a place.

    A line has the number of places and the first `most` of them.
    """
    found: dict[str, list[str]] = {}
    for reason, place in places:
        found.setdefault(reason, []).append(place)
    return "\n".join(
        f"- {len(names)} {reason} ({', '.join(names[:most])}{', ...' if len(names) > most else ''})"
        for reason, names in found.items()
    )
