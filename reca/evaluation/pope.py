"""POPE (arXiv 2305.10355, github AoiDragon/POPE): does a model see objects that are not there?

Three sets of questions about COCO pictures, by how the absent objects were chosen. Ours: accuracy of answers that begin
with yes or no, the mean of the three sets; all else is unscored. The official `evaluate.py` takes every answer for yes
whose first sentence holds none of the words No, no and not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import msgspec

from reca.evaluation.benchmark import Benchmark, Figures, Values
from reca.evaluation.picture_questions import UNREAD, Answers, Asked, PictureQuestion, first_word
from reca.evaluation.records import BenchmarkError, Item, Record
from reca.evaluation.statistics import OVERALL
from reca.evaluation.tables import read_lines, some, unique

SOURCE = "output/coco/coco_pope_{random,popular,adversarial}.json of github AoiDragon/POPE"

SETS = ("random", "popular", "adversarial")
"""In the order of the paper's table."""

ACCURACY, F1, PRECISION, RECALL, YES_SHARE = "accuracy", "F1", "precision", "recall", "share of yes"

POPERecord = Record[Asked, Answers]


class POPERow(msgspec.Struct, frozen=True):
    """One line of a question file.

    Attributes:
        question_id: unique in the file.
        image: file name of the picture.
        text: what is asked.
        label: `yes` or `no`.
    """

    question_id: int
    image: str
    text: str
    label: str


@dataclass(frozen=True)
class POPE(Benchmark[Asked, Answers]):
    """The three sets; an item is one question."""

    name: ClassVar[str] = "POPE"
    headline: ClassVar[str] = ACCURACY
    least: ClassVar[Mapping[str, float]] = {ACCURACY: 0.0}
    judges: ClassVar[tuple[str, ...]] = ("rules alone",)
    published: ClassVar[int] = 9000

    @property
    def edition(self) -> str:
        """Where the pictures come from."""
        return "COCO val2014"

    def groups(self, measure: str) -> tuple[str, ...]:
        """The three sets."""
        del measure
        return SETS

    def decide(self, item: Item[Asked], sample: int, seen: Answers) -> POPERecord:
        """Whether the answer's first word is the label."""
        place = item.key, sample, item.group, item.asked, seen
        (question,), (answer,) = item.asked, seen or ("",)
        said = first_word(answer)
        if said is None:
            return Record(*place, why=(f"answer {answer!r}",), unscored=UNREAD)
        right = said == question.label
        return Record(*place, scores={ACCURACY: float(right)}, why=() if right else (f"expected {question.label}",))

    def values(self, records: Sequence[POPERecord]) -> dict[str, Values]:
        """0 or 1 for each question; the questions about one picture are resampled together."""
        pictures = {item.key: item.source or item.key for item in self.items}
        values: Values = {group: {} for group in SETS}
        for record in records:
            if record.unscored is None:
                values[record.group].setdefault(pictures[record.item], []).append(record.scores[ACCURACY])
        return {ACCURACY: {group: found for group, found in values.items() if found}}

    def official(self, records: Sequence[POPERecord]) -> Figures:
        """`evaluate.py` for each set, and the plain mean of the sets."""
        by_set = {
            group: [
                (official_answer((r.seen or ("",))[0]) == "yes", r.asked[0].label == "yes")
                for r in records
                if r.group == group
            ]
            for group in SETS
        }
        found = {group: official_figures(pairs) for group, pairs in by_set.items() if pairs}
        names = (ACCURACY, F1, PRECISION, RECALL, YES_SHARE)
        return {
            name: {
                OVERALL: sum(f[name] for f in found.values()) / len(SETS) if len(found) == len(SETS) else None,
                **{group: found[group][name] if group in found else None for group in SETS},
            }
            for name in names
        }


def official_answer(text: str) -> str:
    """What `evaluate.py` takes an answer for: no if its first sentence has one of the words No, no, not; else yes."""
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def official_figures(pairs: Sequence[tuple[bool, bool]]) -> dict[str, float]:
    """Figures of one set out of (said yes, is yes); where the script divides by zero, 0."""
    hits = sum(said and true for said, true in pairs)
    said_yes, is_yes = sum(said for said, _ in pairs), sum(true for _, true in pairs)
    precision = hits / said_yes if said_yes else 0.0
    recall = hits / is_yes if is_yes else 0.0
    both = precision + recall
    return {
        ACCURACY: sum(said == true for said, true in pairs) / len(pairs),
        F1: 2 * precision * recall / both if both else 0.0,
        PRECISION: precision,
        RECALL: recall,
        YES_SHARE: said_yes / len(pairs),
    }


def read_pope(folder: str) -> POPE:
    """The three question files `coco_pope_*.json` (JSON lines) of a folder.

    Args:
        folder: path or fsspec URL.

    Raises:
        BenchmarkError: when a file is missing or malformed, holds a question twice, or a label is neither yes nor no.
    """
    items: list[Item[Asked]] = []
    for group in SETS:
        url = f"{folder.rstrip('/')}/coco_pope_{group}.json"
        placed = read_lines(url, POPERow, SOURCE)
        unique([row.question_id for _, row in placed], [f"{p} (question_id {row.question_id})" for p, row in placed])
        for place, row in placed:
            if row.label not in ("yes", "no"):
                raise BenchmarkError(f"{place}: label is '{row.label}', expected yes or no; get {SOURCE}")
            key = f"{group}/{row.question_id}"
            items.append(Item(key, group, row.text, (PictureQuestion(row.text, row.label),), (key,), source=row.image))
    return POPE(some(folder, items, SOURCE))
