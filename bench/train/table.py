"""The rows of `bench train` as tables: speed and memory of steps, and whether loss curves agree."""

from collections.abc import Sequence
from typing import Any

from bench import table
from bench.results import Results, Row
from bench.train.curves import agreements

SPEED = ("model", "way", "batch", "torch, images/s", "ours, images/s", "ours / torch", "torch, GB", "ours, GB")
CURVES = ("model", "loss", "between implementations", "between seeds", "agree")


def speed(rows: Sequence[Row]) -> list[list[Any]]:
    """Return, for each model and way with a time, the images a second, their ratio and the peaks of the memory."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        if row["what"] == "step" and row["status"] == "ok":
            found.setdefault((row["model"], row["how"]), {})[row["implementation"]] = row
    cells = []
    for (model, how), both in found.items():
        pair = [both.get(name) for name in ("torch", "triton")]
        batch = next(row["batch"] for row in both.values())
        rates = [row and row["images_per_second"] for row in pair]
        ratio = f"{rates[1] / rates[0]:.2f}" if rates[0] and rates[1] else None
        peaks = [row and row["peak_bytes"] and f"{row['peak_bytes'] / 1e9:.2f}" for row in pair]
        cells.append([model, how, batch, *(rate and f"{rate:g}" for rate in rates), ratio, *peaks])
    return cells


def losses(rows: Sequence[Row]) -> list[list[Any]]:
    """Return, for each loss curve, how far implementations and seeds lie apart, and whether the first is less."""
    return [
        [each.model, each.curve, f"{each.between_implementations:.2g}", f"{each.between_seeds:.2g}", yes(each.agree)]
        for each in agreements(rows)
    ]


def yes(true: bool) -> str:
    return "yes" if true else "**no**"


def untimed(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each row that was skipped, wrong or failed. Implementations with one reason share it."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for row in rows:
        if row["status"] != "ok":
            names = found.setdefault((row["model"], row["how"], row["status"], row["reason"]), [])
            names += [row["implementation"]] if row["implementation"] not in names else []
    return [
        f"{model}, {how}, {' and '.join(names)}: {status}. {reason}"
        for (model, how, status, reason), names in found.items()
    ]


def markdown(record: Results) -> str:
    """Return the record as Markdown, without a headline: a table of steps, one of loss curves, and what has no time."""
    rows = record["rows"]
    parts = [table.markdown(header, cells) for header, cells in ((SPEED, speed(rows)), (CURVES, losses(rows))) if cells]
    missing = "\n".join(f"- {sentence}" for sentence in untimed(rows))
    return "\n\n".join([*parts, *([missing] if missing else [])])


def text(record: Results) -> str:
    """Return the record as text for a terminal, with what `markdown` has."""
    rows = record["rows"]
    parts = [table.columns(header, cells) for header, cells in ((SPEED, speed(rows)), (CURVES, losses(rows))) if cells]
    return "\n\n".join([*parts, *(["\n".join(untimed(rows))] if untimed(rows) else [])])
