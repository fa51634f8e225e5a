"""DPG-Bench (arXiv 2403.05135, github TencentQQGYLab/ELLA, Apache-2.0): 1,065 long prompts, questions with parents.

Ours: a question counts when it and all its ancestors are answered yes; a picture's score is the mean over its
questions, an item's the mean over its pictures, DPG-Bench the mean over items times 100; category scores use the same
counted answers of all pictures. The official script (`compute_dpg_bench.py`) never reads table row 0, zeroes in one
pass in table order, takes category scores from the raw answers of the last cell, and leaves every file out on which it
fails.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import msgspec
import numpy as np

from reca.evaluation.benchmark import Benchmark, Figures, Values
from reca.evaluation.records import BenchmarkError, Item, Record
from reca.evaluation.statistics import OVERALL

SCORE, LEVEL_1, LEVEL_2 = "score", "level 1", "level 2"
"""Measures, 0 to 100: the headline, categories, and categories with their detail."""

MAIN_CATEGORIES = ("global", "entity", "attribute", "relation", "other")
"""Level 1 categories in the order of the paper's table."""

YES, NO = "yes", "no"


class Question(msgspec.Struct, frozen=True):
    """One row of the question table.

    Attributes:
        id: proposition number inside its item.
        text: question put to the judge.
        parents: propositions that must hold for this one to count; 0 is no parent.
        category: `category - detail`, the table's `tuple` column before its first bracket.
        row: row of the table, from 0, heading not counted.
    """

    id: int
    text: str
    parents: tuple[int, ...]
    category: str
    row: int


Asked = tuple[Question, ...]
Seen = tuple[dict[int, str], ...]
"""Answers by question for each cell of the picture: one cell, or the 2 x 2 grid in reading order."""

DPGRecord = Record[Asked, Seen]


class OfficialPicture(msgspec.Struct, frozen=True):
    """What the official script makes of one file.

    Attributes:
        cells: score of each cell, 0 to 1.
        raw: answers of the last cell as 0 or 1, by question.
    """

    cells: tuple[float, ...]
    raw: dict[int, float]

    @property
    def score(self) -> float:
        """Mean over cells."""
        return sum(self.cells) / len(self.cells)


@dataclass(frozen=True)
class DPGBench(Benchmark[Asked, Seen]):
    """Items with their questions.

    Attributes:
        grid: whether each file holds four samples as a 2 x 2 grid (ELLA's layout), otherwise one (RecA's).
    """

    grid: bool = False

    name: ClassVar[str] = "DPG-Bench"
    headline: ClassVar[str] = SCORE
    least: ClassVar[Mapping[str, float]] = {SCORE: 0.0}
    judges: ClassVar[tuple[str, ...]] = ("mplug_visual-question-answering_coco_large_en",)
    published: ClassVar[int] = 1065
    without_overall: ClassVar[frozenset[str]] = frozenset({LEVEL_1, LEVEL_2})

    @property
    def edition(self) -> str:
        """Number of items."""
        return f"{len(self.items):,} of {self.published:,} items"

    def title(self, judge: str, complete: bool) -> str:
        """`DPG-Bench` for the whole set under its own judge, `DPG` with the judge's name otherwise."""
        if complete and len(self.items) == self.published and judge in self.judges:
            return self.name
        return f"DPG with judge {judge}, {self.edition}" + ("" if complete else ", incomplete")

    def groups(self, measure: str) -> tuple[str, ...]:
        """Categories that the question table holds: level 1 in the paper's order, level 2 by name."""
        if measure == SCORE:
            return (OVERALL,)
        categories = {q.category for item in self.items for q in item.asked}
        if measure == LEVEL_2:
            return tuple(sorted(categories))
        broad = {level_1(category) for category in categories}
        return (*(c for c in MAIN_CATEGORIES if c in broad), *sorted(broad - set(MAIN_CATEGORIES)))

    def decide(self, item: Item[Asked], sample: int, seen: Seen) -> DPGRecord:
        """Mean over cells; a missing or unreadable answer leaves the picture unscored."""
        place = item.key, sample, item.group, item.asked, seen
        unread = [
            f"cell {number}, question {q.id}: answer {cell.get(q.id)!r}"
            for number, cell in enumerate(seen)
            for q in item.asked
            if read_answer(cell.get(q.id)) is None
        ]
        if unread or not seen:
            return Record(*place, why=tuple(unread), unscored="an answer is neither yes nor no")
        counted = [counted_answers(item.asked, cell) for cell in seen]
        score = 100 * sum(sum(cell.values()) / len(cell) for cell in counted) / len(counted)
        no = [q for q in item.asked if not all(cell[q.id] for cell in counted)]
        return Record(*place, scores={SCORE: score}, why=tuple(f"no: {q.id} {q.text}" for q in no))

    def unjudged(self, record: DPGRecord) -> bool:
        """Not one answer is yes or no; the published script takes each for no."""
        return bool(record.seen) and all(
            read_answer(answer) is None for cell in record.seen for answer in cell.values()
        )

    def values(self, records: Sequence[DPGRecord]) -> dict[str, Values]:
        """One value for each item, and counted answers by category."""
        scored = [record for record in records if record.unscored is None]
        pictures: dict[str, list[float]] = {}
        for record in scored:
            pictures.setdefault(record.item, []).append(record.scores[SCORE])
        means = {item: [sum(scores) / len(scores)] for item, scores in pictures.items()}
        answers = {measure: {g: {} for g in self.groups(measure)} for measure in (LEVEL_1, LEVEL_2)}
        for record in scored:
            for cell in record.seen or ():
                counted = counted_answers(record.asked, cell)
                for q in record.asked:
                    for measure, group in ((LEVEL_1, level_1(q.category)), (LEVEL_2, q.category)):
                        answers[measure][group].setdefault(record.item, []).append(100 * counted[q.id])
        by_category = {m: {g: items for g, items in table.items() if items} for m, table in answers.items()}
        return {SCORE: {OVERALL: means} if means else {}, **by_category}

    def official(self, records: Sequence[DPGRecord]) -> Figures:
        """ELLA's totals (RecA's are the same rule with one picture a file)."""
        pictures = [(official_questions(r.asked), r.seen) for r in records]
        read = [(asked, picture) for asked, seen in pictures if (picture := official_picture(asked, seen)) is not None]
        return official_totals(read)

    def remarks(self, records: Sequence[DPGRecord]) -> tuple[str, ...]:
        """How many files the official mean leaves out."""
        dropped = sum(official_picture(official_questions(r.asked), r.seen) is None for r in records)
        return (f"the official mean leaves out {dropped} pictures on which its script fails",) if dropped else ()


def level_1(category: str) -> str:
    """Category before its first dash."""
    return category.split("-")[0].strip()


def read_answer(answer: str | None) -> float | None:
    """1 for yes, 0 for no, whatever their case and closing period; None for anything else."""
    word = (answer or "").strip().lower().removesuffix(".")
    return {YES: 1.0, NO: 0.0}.get(word)


def counted_answers(questions: Asked, answers: Mapping[int, str]) -> dict[int, float]:
    """1 where a question and all its ancestors are answered yes, 0 elsewhere, by question.

    Args:
        questions: of one item; parents must be among them, and no question its own ancestor.
        answers: by question; every one must be readable.
    """
    parents = {q.id: tuple(p for p in q.parents if p) for q in questions}

    def holds(question: int) -> bool:
        return read_answer(answers[question]) == 1.0 and all(holds(parent) for parent in parents[question])

    return {q.id: float(holds(q.id)) for q in questions}


def official_questions(questions: Asked) -> Asked:
    """The questions that the official reader keeps of an item.

    It never reads row 0, starts an item anew where its rows are not adjacent, and keeps the last of two rows with one
    number in the place of the first.
    """
    rows = sorted(questions, key=lambda q: q.row)
    start = max((i for i, q in enumerate(rows) if i and q.row != rows[i - 1].row + 1), default=0)
    return tuple({q.id: q for q in rows[start:] if q.row}.values())


def official_picture(questions: Asked, seen: Seen) -> OfficialPicture | None:
    """Scores of one file by `compute_dpg_one_sample`; None where the script fails and leaves the file out.

    Only the exact answer `yes` is 1. One pass in table order sets a question to 0 when a parent is 0 by then. An item
    without questions, a missing answer, or a parent that is looked up and not there makes it fail.
    """
    if not questions or not seen:
        return None
    cells: list[float] = []
    raw: dict[int, float] = {}
    try:
        for cell in seen:
            raw = {q.id: float(cell[q.id] == YES) for q in questions}
            scores = dict(raw)
            for q in questions:
                if any(scores[parent] == 0 for parent in q.parents if parent):
                    scores[q.id] = 0.0
            cells.append(sum(scores.values()) / len(scores))
    except KeyError:
        return None
    return OfficialPicture(tuple(cells), raw)


def official_totals(pictures: Iterable[tuple[Asked, OfficialPicture]]) -> Figures:
    """Mean over files, and category means over the raw answers of each file's last cell, all times 100."""
    scores: list[float] = []
    broad: dict[str, list[float]] = {}
    detailed: dict[str, list[float]] = {}
    for questions, picture in pictures:
        scores.append(picture.score)
        for q in questions:
            broad.setdefault(level_1(q.category), []).append(picture.raw[q.id])
            detailed.setdefault(q.category, []).append(picture.raw[q.id])
    return {
        SCORE: {OVERALL: 100 * float(np.mean(scores)) if scores else None},
        LEVEL_1: {category: 100 * float(np.mean(values)) for category, values in broad.items()},
        LEVEL_2: {category: 100 * float(np.mean(detailed[category])) for category in sorted(detailed)},
    }


def question_of(row: Mapping[str, object], number: int) -> Question:
    """One row of the question table, by its published columns.

    Args:
        row: cells by column.
        number: of the row, from 0, heading not counted; messages count from 1.

    Raises:
        BenchmarkError: naming row and column, when a number cannot be read.
    """
    where = f"question table, row {number + 1} (item '{row['item_id']}')"
    try:
        identity = int(str(row["proposition_id"]))
    except ValueError as error:
        raise BenchmarkError(f"{where}: proposition_id is {row['proposition_id']!r}; give a whole number") from error
    parents = [part.strip() for part in str(row["dependency"]).split(",")]
    if not all(re.fullmatch(r"[-+]?\d+", part) for part in parents):
        raise BenchmarkError(f"{where}: dependency is {row['dependency']!r}; give 0 or numbers joined by commas")
    category = str(row["tuple"]).split("(")[0].strip()
    return Question(identity, str(row["question_natural_language"]), tuple(map(int, parents)), category, number)
