"""ImgEdit-Bench (arXiv 2505.20275, github PKU-YuanGroup/ImgEdit): 737 basic edits of nine types, and the hard UGE
suite.

A judge that sees both pictures gives three scores from 1 to 5 for a basic edit, one for a UGE edit. The published
scripts count every line `...: digits` as a score, whatever it is called and however large, and drop replies without
one. Ours reads the asked scores only, each once and in its range; anything else leaves the edit unscored.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import msgspec

from reca.evaluation.benchmark import Benchmark, Figures, Values, by_group
from reca.evaluation.records import Item, Record
from reca.evaluation.statistics import OVERALL

TYPES = ("add", "adjust", "extract", "replace", "remove", "background", "style", "compose", "action")
"""Edit types in the order of the paper's table."""

SCORE, ITEMS = "score", "score over edits"
"""Measures, 1 to 5: by type, with the mean of the types as overall; and the mean over all edits (RecA's overall)."""

UGE = "uge"
"""Group of the hard suite, which has no types."""

LINE = re.compile(r"\s*(?:(?:[-*•]|\d+[.)])\s+)?([^:]*[^:\s])\s*:\s*(.*?)\s*")
"""`name: value`, perhaps as a list entry; the value is all that follows the first colon."""

MOST_DIGITS = 300
"""Of a number that a float holds, however many are added up."""

SCORE_LIKE = re.compile(r"[-+]?\d+(?:\.\d+)?(?:\s*/\s*\d+)?\.?").fullmatch
"""Whether a value is meant as a score, readable or not: `4`, `4.5`, `4/5`, `4.`"""


class Edit(msgspec.Struct, frozen=True):
    """One edit.

    Attributes:
        instruction: what to change.
        type: one of `TYPES`, or `UGE`.
        criteria: names of the scores that the judge is asked for; one empty name when the prompt does not name it.
    """

    instruction: str
    type: str
    criteria: tuple[str, ...]


ImgEditRecord = Record[Edit, str]


@dataclass(frozen=True)
class ImgEdit(Benchmark[Edit, str]):
    """The basic suite: nine types."""

    name: ClassVar[str] = "ImgEdit-Bench"
    headline: ClassVar[str] = SCORE
    least: ClassVar[Mapping[str, float]] = {SCORE: 1.0}
    judges: ClassVar[tuple[str, ...]] = ("gpt-4o", "gpt-4o-2024-08-06")
    published: ClassVar[int] = 737

    @property
    def edition(self) -> str:
        """The suite."""
        return "Basic"

    def groups(self, measure: str) -> tuple[str, ...]:
        """Edit types in the paper's order; all edits together for the mean over edits."""
        return TYPES if measure == SCORE else (OVERALL,)

    def decide(self, item: Item[Edit], sample: int, seen: str) -> ImgEditRecord:
        """Mean of the asked scores; a reply without exactly those leaves the edit unscored."""
        place = item.key, sample, item.group, item.asked, seen
        scores = read_scores(seen, item.asked.criteria)
        if isinstance(scores, str):
            return Record(*place, why=(scores,), unscored="the reply does not hold the asked scores")
        # The judge is told so; the published scripts do not check it, and no number is changed here either.
        over = any(score > scores[0] for score in scores[1:])
        why = ("a later score exceeds the first, against the judge's instructions",) if over else ()
        return Record(*place, scores={SCORE: sum(scores) / len(scores)}, why=why)

    def unjudged(self, record: ImgEditRecord) -> bool:
        """The reply holds neither the asked scores nor a score for the published scripts."""
        return record.unscored is not None and official_mean(record.seen) is None

    def values(self, records: Sequence[ImgEditRecord]) -> dict[str, Values]:
        """Scores by type, and all together."""
        types = by_group(records, SCORE, self.groups(SCORE))
        everything = {item: values for items in types.values() for item, values in items.items()}
        return {SCORE: types, ITEMS: {OVERALL: everything} if everything else {}}

    def official(self, records: Sequence[ImgEditRecord]) -> Figures:
        """`step1_get_avgscore.py` and `step2_typescore.py`, or `get_average_score.py` of UGE.

        The published basic suite has no overall; the mean of the types is the leaderboards', the mean over edits
        RecA's.
        """
        means = [(record.group, official_mean(record.seen)) for record in records]
        by_type = official_by_type(means)
        found = {kind: by_type.get(kind) for kind in self.groups(SCORE)}
        filled = [value for value in found.values() if value is not None]
        whole = sum(filled) / len(filled) if filled and len(filled) == len(found) else None
        return {SCORE: {OVERALL: whole, **found}, ITEMS: {OVERALL: official_overall([mean for _, mean in means])}}


@dataclass(frozen=True)
class ImgEditUGE(ImgEdit):
    """The hard suite (understanding, grounding, editing), which has no types."""

    published: ClassVar[int] = 47

    @property
    def edition(self) -> str:
        """The suite."""
        return "UGE"

    def groups(self, measure: str) -> tuple[str, ...]:
        """One group."""
        return (UGE,) if measure == SCORE else (OVERALL,)


def read_scores(reply: str, criteria: Sequence[str]) -> tuple[int, ...] | str:
    """The asked scores in the asked order, or why the reply is not readable.

    A score stands on a line of its own, `Name: N`, N a whole number from 1 to 5; emphasis by asterisks and list marks
    are let pass. With one empty criterion any name does, but there must be one such line only.
    """
    matches = [match for line in reply.splitlines() if (match := LINE.fullmatch(line.replace("**", "")))]
    lines = [(match[1].strip("*_` ").lower(), match[2].strip("*_` ")) for match in matches]
    scores: list[int] = []
    for criterion in criteria:
        found = [value for name, value in lines if (name == criterion.lower() if criterion else SCORE_LIKE(value))]
        if len(found) != 1 or not re.fullmatch(r"[1-5]", found[0]):
            return f"asked for one whole number from 1 to 5 under '{criterion or 'any name'}', got {found}"
        scores.append(int(found[0]))
    return tuple(scores)


def criteria_of(prompt: str) -> tuple[str, ...]:
    """Names of the scores that a judge prompt asks for, from its example reply (`Name: A number from 1 to 5.`)."""
    return tuple(re.findall(r"^(.+?):\s*A number from 1 to 5\.?\s*$", prompt, re.MULTILINE))


def official_mean(reply: str) -> float | None:
    """Mean of all lines `...: digits`, two decimals, as the published scripts read a reply; None without one."""
    parts = [line.strip().split(": ") for line in reply.splitlines()]
    # The scripts ask isdigit, and end on digits such as a superscript two, which no number can be made of, and on
    # numbers whose mean no float holds.
    values = [part[1] for part in parts if len(part) == 2 and len(part[1]) <= MOST_DIGITS]
    scores = [int(value) for value in values if value.isdecimal()]
    return round(sum(scores) / len(scores), 2) if scores else None


def official_by_type(means: Sequence[tuple[str, float | None]]) -> dict[str, float]:
    """Mean over the readable edits of each type, two decimals, types in the order of meeting."""
    types: dict[str, list[float]] = {}
    for kind, mean in means:
        if mean is not None:
            types.setdefault(kind, []).append(mean)
    return {kind: round(sum(values) / len(values), 2) for kind, values in types.items()}


def official_overall(means: Sequence[float | None]) -> float | None:
    """Mean over all readable edits, two decimals; None without one."""
    readable = [mean for mean in means if mean is not None]
    return round(sum(readable) / len(readable), 2) if readable else None
