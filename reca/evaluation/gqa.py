"""GQA (arXiv 1902.09506): questions with one or two words as answer, about pictures of Visual Genome.

Ours: the answer equals the true one after lower-casing, joining blanks and dropping a final period; an empty answer is
unscored. The official `eval.py` compares the texts as they are.

Questions of somebody's own in this format say so: each entry names its set in the field `set`, which published entries
do not have, and the totals are then titled by that name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import msgspec

from reca.evaluation.benchmark import Benchmark, Figures, Values
from reca.evaluation.picture_questions import Answers, Asked, PictureQuestion, same
from reca.evaluation.records import BenchmarkError, Item, Record
from reca.evaluation.statistics import OVERALL
from reca.evaluation.tables import read_entries, some

SOURCE = "testdev_balanced_questions.json of questions1.2.zip from cs.stanford.edu/people/dorarad/gqa"

TYPES = ("verify", "query", "choose", "logical", "compare")
"""Structural types of questions."""

ACCURACY, BY_TYPE = "accuracy", "accuracy by structural type"

GQARecord = Record[Asked, Answers]


class GQATypes(msgspec.Struct, frozen=True):
    """Types of a question; only the structural one is used.

    Attributes:
        structural: one of `TYPES`.
    """

    structural: str


class GQARow(msgspec.Struct, frozen=True):
    """One entry of a question file.

    Attributes:
        image: `imageId` in the file; the picture is `<imageId>.jpg`.
        question: what is asked.
        answer: one or two words.
        types: of the question.
    """

    image: str = msgspec.field(name="imageId")
    question: str
    answer: str
    types: GQATypes
    set: str = ""


@dataclass(frozen=True)
class GQA(Benchmark[Asked, Answers]):
    """One set of questions; an item is one question.

    Attributes:
        own: name of a set that is not GQA but has its format; empty for GQA.
    """

    own: str = ""

    name: ClassVar[str] = "GQA"
    headline: ClassVar[str] = ACCURACY
    least: ClassVar[Mapping[str, float]] = {ACCURACY: 0.0}
    judges: ClassVar[tuple[str, ...]] = ("rules alone",)
    published: ClassVar[int] = 12578
    without_overall: ClassVar[frozenset[str]] = frozenset({BY_TYPE})

    @property
    def edition(self) -> str:
        """The split whose scores are published, or the name of another set."""
        return self.own or "testdev-balanced"

    def title(self, judge: str, complete: bool) -> str:
        """A set of somebody's own does not bear GQA's name, but for its format."""
        if not self.own:
            return super().title(judge, complete)
        count = f"{self.own}, GQA's format, {len(self.items):,} items"
        return count if complete else f"{count}, incomplete"

    def groups(self, measure: str) -> tuple[str, ...]:
        """All questions together, or the structural types."""
        return (OVERALL,) if measure == ACCURACY else TYPES

    def decide(self, item: Item[Asked], sample: int, seen: Answers) -> GQARecord:
        """Whether the answer is the true one."""
        place = item.key, sample, item.group, item.asked, seen
        (question,), (answer,) = item.asked, seen or ("",)
        if not answer.strip():
            return Record(*place, unscored="an empty answer")
        right = same(answer, question.label)
        return Record(*place, scores={ACCURACY: float(right)}, why=() if right else (f"expected {question.label}",))

    def values(self, records: Sequence[GQARecord]) -> dict[str, Values]:
        """0 or 1 for each question; the questions about one picture are resampled together."""
        pictures = {item.key: item.source or item.key for item in self.items}
        types: Values = {}
        everything: dict[str, list[float]] = {}
        for record in records:
            if record.unscored is None:
                picture, value = pictures[record.item], record.scores[ACCURACY]
                everything.setdefault(picture, []).append(value)
                types.setdefault(record.group, {}).setdefault(picture, []).append(value)
        return {ACCURACY: {OVERALL: everything} if everything else {}, BY_TYPE: types}

    def official(self, records: Sequence[GQARecord]) -> Figures:
        """`eval.py`: texts are compared as they are."""
        right = [(record.group, (record.seen or ("",))[0] == record.asked[0].label) for record in records]

        def share(values: Sequence[bool]) -> float | None:
            return sum(values) / len(values) if values else None

        return {
            ACCURACY: {OVERALL: share([value for _, value in right])},
            BY_TYPE: {kind: share([value for group, value in right if group == kind]) for kind in TYPES},
        }


def read_gqa(url: str) -> GQA:
    """A question file: JSON object of entries by question id.

    Args:
        url: path or fsspec URL.

    Raises:
        BenchmarkError: when the file is missing or malformed, an id stands twice, a structural type is unknown, or its
            entries are of several sets.
    """
    rows = read_entries(url, GQARow, SOURCE)
    sets = {row.set.strip(): key for key, row in reversed(rows.items())}
    if len(sets) > 1:
        (one, first), (other, second) = sorted(sets.items())[:2]
        raise BenchmarkError(
            f"{url}: key '{first}' is of the set '{one}', key '{second}' of the set '{other}'; give one set a file (an "
            "entry without the field is GQA's)"
        )
    for key, row in rows.items():
        if row.types.structural not in TYPES:
            known = ", ".join(TYPES)
            raise BenchmarkError(f"{url}, key '{key}': structural type '{row.types.structural}'; known: {known}")
    items = [
        Item(
            key=key,
            group=row.types.structural,
            prompt=row.question,
            asked=(PictureQuestion(row.question, row.answer),),
            pictures=(key,),
            source=f"{row.image}.jpg",
        )
        for key, row in rows.items()
    ]
    return GQA(some(url, items, SOURCE), next(iter(sets), ""))
