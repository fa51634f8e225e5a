"""GEdit-Bench (arXiv 2504.17761, github stepfun-ai/Step1X-Edit, Apache-2.0): edits of 11 types, asked in English and
Chinese.

A judge is asked twice (VIEScore, arXiv 2312.14867): with both pictures and the instruction for semantic consistency,
and with the edited picture alone for perceptual quality; two numbers from 0 to 10 each. SC and PQ are the smaller of
their two, O = sqrt(SC x PQ) for each edit; a type's score is the mean over its edits, the benchmark's the plain mean
over the 11 types. The published tool asks again when a reply cannot be read and then makes a number up; here such an
edit stays unscored, in the official totals too.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import msgspec

from reca.evaluation.benchmark import Benchmark, Figures, Values, by_group
from reca.evaluation.records import BenchmarkError, Item, Record
from reca.evaluation.statistics import OVERALL

TYPES = (
    "background_change",
    "color_alter",
    "material_alter",
    "motion_change",
    "ps_human",
    "style_change",
    "subject-add",
    "subject-remove",
    "subject-replace",
    "text_change",
    "tone_transfer",
)
"""Edit types in the official order."""

LANGUAGES = ("en", "cn")
"""Language flags as the published records have them."""

MEASURES = ("O", "SC", "PQ")
"""Measures, 0 to 10; O is the headline."""

INTERSECTION = "_intersection"
"""Suffix of the measures over the edits that every published model answered (`Intersection_exist`)."""

DELIMITER = "||V^=^V||"
RATE_LIMIT = "rate_limit_exceeded"


class Edit(msgspec.Struct, frozen=True):
    """One edit.

    Attributes:
        instruction: what to change.
        type: one of `TYPES`.
        language: one of `LANGUAGES`.
        intersection: whether it belongs to the intersection subset.
    """

    instruction: str
    type: str
    language: str
    intersection: bool


class Replies(msgspec.Struct, frozen=True):
    """What the judge said.

    Attributes:
        consistency: reply about both pictures and the instruction.
        quality: reply about the edited picture.
    """

    consistency: str
    quality: str


GEditRecord = Record[Edit, Replies]


@dataclass(frozen=True)
class GEdit(Benchmark[Edit, Replies]):
    """The edits of one language.

    Attributes:
        language: one of `LANGUAGES`.
    """

    language: str = "en"

    name: ClassVar[str] = "GEdit-Bench"
    headline: ClassVar[str] = "O"
    least: ClassVar[Mapping[str, float]] = dict.fromkeys(MEASURES, 0.0)
    judges: ClassVar[tuple[str, ...]] = ("gpt-4.1", "gpt-4.1-2025-04-14", "Qwen2.5-VL-72B-Instruct-AWQ")
    published: ClassVar[int] = 606

    @property
    def edition(self) -> str:
        """Language."""
        return self.language.upper()

    def groups(self, measure: str) -> tuple[str, ...]:
        """The 11 types."""
        del measure
        return TYPES

    def decide(self, item: Item[Edit], sample: int, seen: Replies) -> GEditRecord:
        """SC, PQ and O; a reply without exactly two numbers from 0 to 10 leaves the edit unscored."""
        place = item.key, sample, item.group, item.asked, seen
        pairs = {"SC": read_pair(seen.consistency), "PQ": read_pair(seen.quality)}
        why = tuple(f"{name}: {pair}" for name, pair in pairs.items() if isinstance(pair, str))
        if why:
            return Record(*place, why=why, unscored="a reply does not hold two numbers from 0 to 10")
        sc, pq = (float(min(cast("tuple[float, float]", pair))) for pair in pairs.values())
        return Record(*place, scores={"O": math.sqrt(sc * pq), "SC": sc, "PQ": pq})

    def unjudged(self, record: GEditRecord) -> bool:
        """The replies hold neither two pairs of scores nor what the published parser reads at its first attempt."""
        replies = record.seen.consistency, record.seen.quality
        return record.unscored is not None and official_scores(*replies) is None

    def values(self, records: Sequence[GEditRecord]) -> dict[str, Values]:
        """Scores by type, of all edits and of the intersection subset."""
        shared = [record for record in records if record.asked.intersection]
        whole = {measure: by_group(records, measure, TYPES) for measure in MEASURES}
        if not any(item.asked.intersection for item in self.items):
            return whole
        return whole | {measure + INTERSECTION: by_group(shared, measure, TYPES) for measure in MEASURES}

    def official(self, records: Sequence[GEditRecord]) -> Figures:
        """`calculate_statistics.py` over the replies that the published parser reads at its first attempt."""
        rows = [
            (record.group, scores[0], scores[1], record.asked.intersection)
            for record in records
            if (scores := official_scores(record.seen.consistency, record.seen.quality)) is not None
        ]
        return official_statistics(rows)


def check_language(language: str) -> str:
    """The flag, if it is one of the published records.

    Raises:
        BenchmarkError: for any other flag; `zh`, which the official script offers, finds no record.
    """
    if language not in LANGUAGES:
        mend = "the published records say 'cn' for Chinese" if language == "zh" else f"known: {', '.join(LANGUAGES)}"
        raise BenchmarkError(f"GEdit language '{language}' is unknown; {mend}")
    return language


def read_pair(reply: str) -> tuple[float, float] | str:
    """The two scores, or why the reply is not readable.

    A reply is one JSON object with `score`, a list of two numbers from 0 to 10; a code fence or the delimiter pair of
    the judge prompt may stand around it.
    """
    text = reply.strip()
    if text.count(DELIMITER) == 2:
        text = text.split(DELIMITER)[1].strip()
    if fenced := re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text, re.DOTALL):
        text = fenced[1]
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    score = cast("dict[str, Any]", found).get("score") if isinstance(found, dict) else None
    if not isinstance(score, list) or len(cast("list[Any]", score)) != 2 or not all(_in_range(s) for s in score):
        return f"score is {score!r}"
    first, second = cast("list[float]", score)
    return float(first), float(second)


def official_parse(reply: str) -> Any:
    """What the published VIEScore parser makes of a reply at its first attempt.

    Between two delimiters, else from the first `{` to the last `}`, else a list of two integers, else a bare integer
    from 0 to 10; JSON, and if that fails JSON after a repair of its quotes. A single `score` becomes a list, but not
    after a repair of quotes, which leaves `score` as it comes out.

    Returns:
        The parsed object; False when it is not readable; the text itself when it is the rate-limit mark.
    """
    if reply == RATE_LIMIT:
        return RATE_LIMIT
    if reply.count(DELIMITER) == 2:
        text = reply[reply.find(DELIMITER) + len(DELIMITER) : reply.rfind(DELIMITER)]
    elif "{" in reply and "}" in reply:
        text = reply[reply.find("{") : reply.rfind("}") + 1]
    else:
        return _bare_scores(reply)
    if not text:
        return False
    text = text.strip().replace("\n", "")
    try:
        found: Any = json.loads(text)
        if not isinstance(found["score"], list):
            found["score"] = [found["score"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        try:
            return json.loads(_repaired(text))
        except (ValueError, RecursionError):
            return False
    return found


def official_scores(consistency: str, quality: str) -> tuple[float, float, float] | None:
    """SC, PQ and O of two replies by the published parser; None when one is unreadable or holds no numbers."""
    try:
        sc, pq = (min(official_parse(reply)["score"]) for reply in (consistency, quality))
        # Adding 0.0 fails on what no float holds, on which the published means fail.
        return sc, pq, math.sqrt((sc + 0.0) * (pq + 0.0))
    except (TypeError, KeyError, ValueError, OverflowError):
        return None


def official_statistics(rows: Sequence[tuple[str, float, float, bool]]) -> Figures:
    """Means by type and their plain mean, as `calculate_statistics.py` computes them.

    Args:
        rows: type, SC, PQ, and whether the edit is in the intersection subset; of one language.

    Returns:
        A NaN for a type without rows, and then for the overall too.
    """
    figures: Figures = {}
    for suffix, chosen in (("", rows), (INTERSECTION, [row for row in rows if row[3]])):
        columns: dict[str, list[tuple[str, float]]] = {
            "O": [(kind, math.sqrt(sc * pq)) for kind, sc, pq, _ in chosen],
            "SC": [(kind, sc) for kind, sc, _, _ in chosen],
            "PQ": [(kind, pq) for kind, _, pq, _ in chosen],
        }
        for measure, column in columns.items():
            means = {kind: _mean([value for name, value in column if name == kind]) for kind in TYPES}
            figures[measure + suffix] = {OVERALL: _mean(list(means.values())), **means}
    return figures


def _bare_scores(reply: str) -> Any:
    """The parser's reading of a reply without braces."""
    listed = reply[reply.find("[") : reply.rfind("]") + 1]
    if re.fullmatch(r"\[\d+, ?\d+\]", listed):
        # The scores go through JSON once more there, so 06 is not readable.
        try:
            return {"score": json.loads(listed), "reasoning": "System: output is simply a list of scores"}
        except ValueError:
            return False
    try:
        number = int(reply)
    except ValueError:
        return False
    return {"score": [number], "reasoning": "System: output is simply a number"} if 0 <= number <= 10 else False


def _repaired(text: str) -> str:
    """The parser's repair: quotes around bare words before a colon, then around values up to a comma or brace."""

    def value(match: re.Match[str]) -> str:
        inner = match[2].strip()
        if re.match(r"-?\d+(\.\d+)?$", inner):
            inner = f"[{inner}]"
        elif not re.match(r"(true|false|null)$", inner, re.IGNORECASE):
            inner = f'"{inner}"'
        return f"{match[1]}: {inner}{match[3]}"

    return re.sub(r'(".*?"):(.*?)(,|})', value, re.sub(r"(\w+):", r'"\1":', text))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _in_range(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 10
