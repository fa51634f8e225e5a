"""Totals as a text table: ours and the official ones side by side, groups in the official order, by name."""

import math

from reca.evaluation.benchmark import Totals
from reca.evaluation.statistics import Estimate

NONE = "-"
"""Shown where there is no number."""


def scoreboard(totals: Totals, official: bool = False) -> str:
    """What a reader needs to judge a number: the number, its interval, everything it was made with, and the notes.

    Args:
        totals: of one benchmark.
        official: which number stands in the first line; the table shows both.
    """
    rule = "official script" if official else "strict"
    settings = "".join(f", {name} {value}" for name, value in totals.settings.items())
    lines = [
        f"{totals.benchmark}: {_number(totals.score(official))} ({rule}, judge {totals.judge})",
        f"{totals.pictures} pictures of {totals.items} items, {totals.unscored} unscored, {totals.missing} missing"
        + settings,
    ]
    if not totals.complete and totals.floor is not None:
        lines.append(f"{_number(totals.floor)} if every unscored or missing picture had the least score")
    for measure in totals.strict | totals.official:
        ours, theirs = totals.strict.get(measure, {}), totals.official.get(measure, {})
        lines += ["", f"{measure:<24}{'strict':>9}  {'95 % interval':<18}{'prompts':>8}{'official':>10}"]
        lines += [f"  {group:<22}{_row(ours.get(group))}{_number(theirs.get(group)):>10}" for group in ours | theirs]
    return "\n".join([*lines, *(f"note: {note}" for note in totals.notes)]) + "\n"


def _row(estimate: Estimate | None) -> str:
    if estimate is None:
        return f"{NONE:>9}  {NONE:<18}{NONE:>8}"
    interval = f"[{_number(estimate.low)}, {_number(estimate.high)}]"
    return f"{_number(estimate.value):>9}  {interval:<18}{estimate.prompts:>8}"


def _number(value: float | None) -> str:
    """Four digits, as published tables have at most."""
    return NONE if value is None or math.isnan(value) else f"{value:.4g}"
