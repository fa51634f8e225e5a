"""MME (arXiv 2306.13394): two yes-or-no questions about each picture, in ten perception and four cognition tasks.

A task's score is accuracy over questions plus share of pictures with both answers right, in per cent: 0 to 200.
Perception is the sum of ten tasks (at most 2,000), cognition of four (at most 800). Ours: answers that begin with yes
or no; a picture with another answer is unscored. The official `calculation.py` looks for yes, then for no, in the first
four characters, and counts all else as wrong.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from fsspec.core import url_to_fs
from fsspec.spec import AbstractFileSystem

from reca.evaluation.benchmark import Benchmark, Figures, Values, by_group
from reca.evaluation.picture_files import SUFFIXES
from reca.evaluation.picture_questions import UNREAD, Answers, Asked, PictureQuestion, first_word
from reca.evaluation.records import BenchmarkError, Item, Record
from reca.evaluation.statistics import OVERALL
from reca.evaluation.tables import read_text, some

SOURCE = "MME_Benchmark_release_version, which github BradyFU/Awesome-Multimodal-Large-Language-Models gives out"

PERCEPTION, COGNITION = "perception", "cognition"
TASKS: Mapping[str, tuple[str, ...]] = {
    PERCEPTION: (
        *("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"),
    ),
    COGNITION: ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
}
"""Tasks in the official order."""

QUESTION_FOLDER, PICTURE_FOLDER = "questions_answers_YN", "images"
"""Five tasks keep questions and pictures in folders of their own; the others side by side."""

SCORE = "score"
MMERecord = Record[Asked, Answers]


@dataclass(frozen=True)
class MME(Benchmark[Asked, Answers]):
    """Fourteen tasks; an item is a picture with its two questions."""

    name: ClassVar[str] = "MME"
    headline: ClassVar[str] = PERCEPTION
    least: ClassVar[Mapping[str, float]] = {SCORE: 0.0}
    judges: ClassVar[tuple[str, ...]] = ("rules alone",)
    published: ClassVar[int] = 1187

    @property
    def edition(self) -> str:
        """The release."""
        return "release version"

    def groups(self, measure: str) -> tuple[str, ...]:
        """Tasks of perception or of cognition."""
        return TASKS[measure]

    def weights(self, measure: str) -> Mapping[str, float]:
        """Tasks are summed."""
        return dict.fromkeys(TASKS[measure], 1.0)

    def decide(self, item: Item[Asked], sample: int, seen: Answers) -> MMERecord:
        """100 times the share of right answers, and 100 more when all are right."""
        place = item.key, sample, item.group, item.asked, seen
        said = [first_word(answer) for answer in seen]
        if None in said or len(said) != len(item.asked):
            return Record(*place, why=tuple(f"answer {answer!r}" for answer in seen), unscored=UNREAD)
        wrong = [q for q, word in zip(item.asked, said, strict=True) if word != q.label]
        why = tuple(f"expected {q.label}: {q.text}" for q in wrong)
        return Record(*place, scores={SCORE: picture_score(len(item.asked) - len(wrong), len(item.asked))}, why=why)

    def values(self, records: Sequence[MMERecord]) -> dict[str, Values]:
        """One value for each picture, by task."""
        return {
            measure: by_group([r for r in records if r.group in tasks], SCORE, tasks)
            for measure, tasks in TASKS.items()
        }

    def official(self, records: Sequence[MMERecord]) -> Figures:
        """`calculation.py` on the same answers; it fails where a task is missing."""
        figures: Figures = {}
        for measure, tasks in TASKS.items():
            scores: dict[str, float | None] = {}
            for task in tasks:
                found = [official_score(r.asked, r.seen) for r in records if r.group == task]
                scores[task] = sum(found) / len(found) if found else None
            whole = [score for score in scores.values() if score is not None]
            figures[measure] = {OVERALL: sum(whole) if len(whole) == len(tasks) else None, **scores}
        return figures


def picture_score(right: int, asked: int) -> float:
    """A picture's part of accuracy and of accuracy+, in per cent."""
    return 100 * right / asked + 100 * (right == asked)


def official_answer(text: str) -> str:
    """What `calculation.py` takes an answer for."""
    start = text.lower()[:4]
    return next((word for word in ("yes", "no") if word in start), "other")


def official_score(asked: Asked, seen: Answers) -> float:
    """A picture's score by the official reading; an answer that is not there is wrong."""
    right = sum(official_answer(answer) == q.label for q, answer in zip(asked, seen, strict=False))
    return picture_score(right, len(asked))


def read_mme(folder: str) -> MME:
    """The published folder: one folder for each task.

    Args:
        folder: path or fsspec URL; tasks that are not there leave the set incomplete.

    Raises:
        BenchmarkError: when no task is there, a question file has not two lines `question<tab>Yes|No`, or its picture
            is missing.
    """
    files, root = cast("tuple[AbstractFileSystem, str]", url_to_fs(folder))
    root = root.rstrip("/")
    there = {cast("str", path)[len(root) + 1 :] for path in files.find(root)}
    tasks = [task for names in TASKS.values() for task in names]
    items = [item for task in tasks for item in _task_items(folder.rstrip("/"), task, there)]
    return MME(some(folder, items, SOURCE))


def _task_items(folder: str, task: str, there: set[str]) -> Iterator[Item[Asked]]:
    apart = any(path.startswith(f"{task}/{QUESTION_FOLDER}/") for path in there)
    questions, pictures = (f"{task}/{part}" if apart else task for part in (QUESTION_FOLDER, PICTURE_FOLDER))
    names = (path for path in there if path.startswith(f"{questions}/") and path.endswith(".txt"))
    for path in sorted(path for path in names if path.count("/") == questions.count("/") + 1):
        stem = path.rsplit("/", 1)[-1].removesuffix(".txt")
        found = [name for suffix in SUFFIXES if (name := f"{pictures}/{stem}{suffix}") in there]
        if not found:
            raise BenchmarkError(f"{folder}/{path}: its picture {pictures}/{stem} is missing; get {SOURCE}")
        key = f"{task}/{stem}"
        asked = _questions(f"{folder}/{path}")
        yield Item(key, task, "\n".join(question.text for question in asked), asked, (key,), source=found[0])


def _questions(url: str) -> Asked:
    rows = [line.split("\t") for line in read_text(url, SOURCE).splitlines() if line.strip()]
    if len(rows) != 2 or any(len(row) != 2 or row[1].strip().lower() not in ("yes", "no") for row in rows):
        found = "; ".join(" | ".join(row) for row in rows)[:80]
        raise BenchmarkError(f"{url}: expected two lines of question, tab, Yes or No, found '{found}'; get {SOURCE}")
    return tuple(PictureQuestion(text.strip(), label.strip().lower()) for text, label in rows)
