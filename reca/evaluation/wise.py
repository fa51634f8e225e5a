"""WISE (arXiv 2503.07265, github PKU-YuanGroup/WISE): 1,000 prompts that need world knowledge, one picture each.

First edition: a judge gives consistency, realism and aesthetic quality from 0 to 2, WiScore = (0.7 c + 0.2 r + 0.1 a) /
2, overall = 0.4 culture + 0.167 time + 0.133 space + 0.1 of each science; RecA's script takes the plain mean of the
six. The edition of 2026, WISE_Verified, changed about 200 prompts and the id ranges, and asks for one score, 0 or 1,
with weights 0.4 and 0.12 each. The official scripts take missing scores in three ways (see `official_scores`,
`reca_scores`); here a reply without exactly the asked scores leaves the picture unscored.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import msgspec

from reca.evaluation.benchmark import Benchmark, Figures, Values, by_group
from reca.evaluation.records import Item, Record
from reca.evaluation.statistics import OVERALL

CATEGORIES = ("CULTURE", "TIME", "SPACE", "BIOLOGY", "PHYSICS", "CHEMISTRY")
"""Categories in the official order."""

FIRST_IDS = (400, 567, 700, 800, 900, 1000)
VERIFIED_IDS = (400, 520, 640, 760, 880, 1000)
"""Last prompt id of each category."""

FIRST_WEIGHTS: dict[str, float] = dict(zip(CATEGORIES, (0.4, 0.167, 0.133, 0.1, 0.1, 0.1), strict=True))
VERIFIED_WEIGHTS: dict[str, float] = dict(zip(CATEGORIES, (0.4, 0.12, 0.12, 0.12, 0.12, 0.12), strict=True))

CRITERIA = ("consistency", "realism", "aesthetic quality")
WISCORE, PLAIN, SCORE = "WiScore", "WiScore, plain mean", "score"
"""Measures, 0 to 1: with the official weights, with RecA's, and of the verified edition."""

UNREAD = 9.9
"""What RecA's reader stores for a score that it does not find."""

THOUGHTS = re.compile(r"(?:<think>.*?</think>|</think>)\s*", re.DOTALL)
"""What a thinking judge writes before its answer; `vllm_eval.py` of the verified edition takes it out."""

RECA_FILES = (400, 300, 300)
"""Scores that RecA's script wants in each of its three files: culture, time and space, sciences."""


class Prompt(msgspec.Struct, frozen=True):
    """One prompt.

    Attributes:
        id: published number, 1 to 1000.
        prompt: text given to the model.
        explanation: what should be seen, for the judge.
    """

    id: int
    prompt: str
    explanation: str


WiseRecord = Record[Prompt, str]


@dataclass(frozen=True)
class Wise(Benchmark[Prompt, str]):
    """The first edition.

    Attributes:
        rewritten: whether the prompts say outright what is meant.
    """

    rewritten: bool = False

    name: ClassVar[str] = "WISE"
    headline: ClassVar[str] = WISCORE
    least: ClassVar[Mapping[str, float]] = dict.fromkeys((WISCORE, PLAIN, *CRITERIA), 0.0)
    judges: ClassVar[tuple[str, ...]] = ("gpt-4o-2024-05-13",)
    published: ClassVar[int] = 1000

    @property
    def edition(self) -> str:
        """Original or rewritten prompts."""
        return "first edition, rewritten prompts" if self.rewritten else "first edition"

    def groups(self, measure: str) -> tuple[str, ...]:
        """The six categories."""
        del measure
        return CATEGORIES

    def weights(self, measure: str) -> Mapping[str, float] | None:
        """The official weights, except for RecA's plain mean."""
        return None if measure == PLAIN else FIRST_WEIGHTS

    def decide(self, item: Item[Prompt], sample: int, seen: str) -> WiseRecord:
        """WiScore from the three asked scores."""
        place = item.key, sample, item.group, item.asked, seen
        scores = read_scores(seen, CRITERIA, most=2)
        if isinstance(scores, str):
            return Record(*place, why=(scores,), unscored="the reply does not hold the asked scores")
        value = wiscore(*scores)
        return Record(*place, scores={WISCORE: value, PLAIN: value, **dict(zip(CRITERIA, scores, strict=True))})

    def unjudged(self, record: WiseRecord) -> bool:
        """The reply holds neither the asked scores nor one for a published reader."""
        read = official_scores(record.seen) or set(reca_scores(record.seen).values()) - {UNREAD}
        return record.unscored is not None and not read

    def values(self, records: Sequence[WiseRecord]) -> dict[str, Values]:
        """Scores by category."""
        return {measure: by_group(records, measure, CATEGORIES) for measure in self.least}

    def official(self, records: Sequence[WiseRecord]) -> Figures:
        """`Calculate.py`, which refuses a missing score, and RecA's script, which does not always."""
        read = {r.asked.id: official_scores(r.seen) for r in records}
        whole = {i: tuple(scores[name] for name in CRITERIA) for i, scores in read.items() if len(scores) == 3}
        reca = reca_totals({r.asked.id: tuple(reca_scores(r.seen).values()) for r in records})
        return {
            WISCORE: official_totals(whole) or {OVERALL: None},
            PLAIN: reca or {OVERALL: None},
        }


@dataclass(frozen=True)
class WiseVerified(Benchmark[Prompt, str]):
    """WISE_Verified, the edition of 2026."""

    name: ClassVar[str] = "WISE_Verified"
    headline: ClassVar[str] = SCORE
    least: ClassVar[Mapping[str, float]] = {SCORE: 0.0}
    judges: ClassVar[tuple[str, ...]] = ("Qwen3.5-35B-A3B",)
    published: ClassVar[int] = 1000

    @property
    def edition(self) -> str:
        """Year of publication."""
        return "2026"

    def groups(self, measure: str) -> tuple[str, ...]:
        """The six categories."""
        del measure
        return CATEGORIES

    def weights(self, measure: str) -> Mapping[str, float]:
        """The official weights."""
        del measure
        return VERIFIED_WEIGHTS

    def decide(self, item: Item[Prompt], sample: int, seen: str) -> WiseRecord:
        """The asked score, 0 or 1."""
        place = item.key, sample, item.group, item.asked, seen
        scores = read_scores(THOUGHTS.sub("", seen), (SCORE,), most=1)
        if isinstance(scores, str):
            return Record(*place, why=(scores,), unscored="the reply does not hold the asked score")
        return Record(*place, scores={SCORE: float(scores[0])})

    def unjudged(self, record: WiseRecord) -> bool:
        """The reply holds no score for either reader."""
        return record.unscored is not None and verified_score(record.seen) is None

    def values(self, records: Sequence[WiseRecord]) -> dict[str, Values]:
        """Scores by category."""
        return {SCORE: by_group(records, SCORE, CATEGORIES)}

    def official(self, records: Sequence[WiseRecord]) -> Figures:
        """`calculate_verified.py`, which goes on without the missing scores."""
        read = {r.asked.id: verified_score(r.seen) for r in records}
        return {SCORE: verified_totals({i: score for i, score in read.items() if score is not None})}


def category(identity: int, last_ids: Sequence[int] = FIRST_IDS) -> str | None:
    """Category of a prompt id; None outside the published range."""
    if identity < 1:
        return None
    return next((name for name, last in zip(CATEGORIES, last_ids, strict=True) if identity <= last), None)


def wiscore(consistency: float, realism: float, aesthetic: float) -> float:
    """(0.7 consistency + 0.2 realism + 0.1 aesthetic quality) / 2 (`Calculate.py`): 0 to 1 for scores of 0 to 2."""
    return (0.7 * consistency + 0.2 * realism + 0.1 * aesthetic) / 2


def read_scores(reply: str, criteria: Sequence[str], most: int) -> tuple[int, ...] | str:
    """The asked scores in the asked order, or why the reply is not readable.

    Each stands on a line of its own, `Name: N`, once, N a whole number from 0 to `most`; asterisks are let pass.

    Args:
        reply: of the judge.
        criteria: names of the scores; case does not matter.
        most: largest score, 1 to 9.
    """
    lines = [line.replace("*", "").strip() for line in reply.splitlines()]
    scores: list[int] = []
    for criterion in criteria:
        found = [match[1] for line in lines if (match := re.fullmatch(rf"{criterion}\s*:\s*(.+)", line, re.IGNORECASE))]
        if len(found) != 1 or not re.fullmatch(rf"[0-{most}]", found[0]):
            return f"asked for one whole number from 0 to {most} under '{criterion}', got {found}"
        scores.append(int(found[0]))
    return tuple(scores)


def official_scores(reply: str) -> dict[str, float]:
    """What the official reader finds: labelled digits, or else the first three lines that hold a bare 0, 1 or 2."""
    labelled = _labelled(reply, ":")
    bare = re.findall(r"^\s*([0-2])\s*$", reply, re.MULTILINE)
    if labelled or len(bare) < len(CRITERIA):
        return labelled
    return dict(zip(CRITERIA, map(float, bare), strict=False))


def reca_scores(reply: str) -> dict[str, float]:
    """What RecA's reader finds: labelled digits, also after a full-width colon, and `UNREAD` for the rest."""
    return dict.fromkeys(CRITERIA, UNREAD) | _labelled(reply, ":\uff1a")


def verified_score(reply: str) -> float | None:
    """What the reader of the verified edition finds: `Score: 0 or 1`, or the only line that holds a bare 0 or 1.

    Thoughts are left out.
    """
    reply = THOUGHTS.sub("", reply)
    if labelled := re.search(r"score\*{0,2}\s*:?\s*([01])\b", reply, re.IGNORECASE):
        return float(labelled[1])
    bare = re.findall(r"^\s*([01])\s*$", reply, re.MULTILINE)
    return float(bare[0]) if len(bare) == 1 else None


def official_totals(scores: Mapping[int, Sequence[float | None]]) -> dict[str, float | None] | None:
    """Category means and weighted overall of the first edition (`Calculate.py`); None where the script gives up.

    Args:
        scores: consistency, realism and aesthetic quality by prompt id. The script wants all of 1 to 1000 and passes
            over those with a score that is no number.
    """
    if not set(range(1, FIRST_IDS[-1] + 1)) <= set(scores):
        return None
    return _weighted(_wiscores(scores), FIRST_IDS, FIRST_WEIGHTS)


def verified_totals(scores: Mapping[int, float]) -> dict[str, float | None]:
    """Category means of the scores that are 0 or 1, and weighted overall; None where a category has none."""
    return _weighted({i: float(s) for i, s in scores.items() if s in (0, 1)}, VERIFIED_IDS, VERIFIED_WEIGHTS)


def reca_totals(scores: Mapping[int, Sequence[float | None]]) -> dict[str, float | None] | None:
    """Category means and their plain mean by RecA's script; None where it fails.

    It reads three files by topic. Too few scores in one make it fail, and so does an unread score in the first two; in
    the third, sciences, unread scores are averaged in as 9.9.
    """
    bounds = (0, FIRST_IDS[0], FIRST_IDS[2], FIRST_IDS[-1])
    files = [[i for i in scores if low < i <= high] for low, high in pairwise(bounds)]
    unread = [any(UNREAD in scores[i] for i in ids) for ids in files]
    short = any(len(ids) < least for ids, least in zip(files, RECA_FILES, strict=True))
    values = _wiscores(scores)
    if short or unread[0] or unread[1] or len(values) < len(scores):
        return None
    means = _means(values, FIRST_IDS)
    return {OVERALL: sum(means.values()) / len(means), **means}


def _wiscores(scores: Mapping[int, Sequence[float | None]]) -> dict[int, float]:
    numbers = {i: [value for value in three if value is not None] for i, three in scores.items()}
    return {i: wiscore(*three) for i, three in numbers.items() if len(three) == len(CRITERIA)}


def _labelled(reply: str, colons: str) -> dict[str, float]:
    """First digit after each name, the last mention counting; names may be in asterisks and any case."""
    pattern = rf"(consistency|realism|aesthetic quality)\*{{0,2}}\s*[{colons}]?\s*(\d)"
    return {name.lower(): float(digit) for name, digit in re.findall(pattern, reply, re.IGNORECASE)}


def _means(values: Mapping[int, float], last_ids: Sequence[int]) -> dict[str, float]:
    columns: dict[str, list[float]] = {name: [] for name in CATEGORIES}
    for identity, value in values.items():
        if (name := category(identity, last_ids)) is not None:
            columns[name].append(value)
    return {name: sum(column) / len(column) for name, column in columns.items() if column}


def _weighted(
    values: Mapping[int, float], last_ids: Sequence[int], weights: Mapping[str, float]
) -> dict[str, float | None]:
    means = _means(values, last_ids)
    whole = sum(weights[name] * means[name] for name in CATEGORIES) if len(means) == len(CATEGORIES) else None
    return {OVERALL: whole, **{name: means.get(name) for name in CATEGORIES}}
