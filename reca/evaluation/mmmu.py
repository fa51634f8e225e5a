"""MMMU (arXiv 2311.16502): college questions of 30 subjects about pictures, with options or a short open answer.

Ours: the letter of an option must be readable (`strict_letter`), open answers are compared as published, an empty
answer is unscored, and so is a question about several pictures: models here look at one. The official `eval_utils.py`
gives a reply without a readable letter a random one; `official` takes that draw's expectation, 1 / number of options.
"""

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import msgspec
from fsspec.core import url_to_fs
from fsspec.spec import AbstractFileSystem

from reca.evaluation.benchmark import Benchmark, Figures, Values
from reca.evaluation.files import put
from reca.evaluation.mmmu_rules import letters_of, official_letter, official_open, strict_letter
from reca.evaluation.picture_questions import Answers, PictureQuestion
from reca.evaluation.records import BenchmarkError, Item, Record
from reca.evaluation.statistics import OVERALL
from reca.evaluation.tables import parquet_files, read_records, some, unique

SOURCE = "the data set MMMU/MMMU on the Hugging Face hub, a folder of parquet files for each subject"

DOMAINS: Mapping[str, tuple[str, ...]] = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        *("Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine"),
        *("Pharmacy", "Public_Health"),
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        *("Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics"),
        *("Energy_and_Power", "Materials", "Mechanical_Engineering"),
    ),
}
"""Subjects by domain, both in the order of the official `data_utils.py`."""

SUBJECTS = tuple(subject for subjects in DOMAINS.values() for subject in subjects)
SPLIT = "validation"
"""The split with published answers whose scores are reported."""

CHOICE, OPEN = "multiple-choice", ("open", "short-answer")
"""Types of questions; the data set says open where the official answer file says short-answer."""

ACCURACY, BY_DOMAIN, BY_SUBJECT = "accuracy", "accuracy by domain", "accuracy by subject"
SEVERAL = "the question has several pictures, and the model was shown the first alone"

ASK_LETTER = "Answer with the option's letter from the given choices directly."
ASK_WORD = "Answer the question using a single word or phrase."
"""Last lines of the official prompts (`configs/llava1.5.yaml`)."""


class MMMUQuestion(PictureQuestion, frozen=True):
    """A question with what its rules need; `label` is the published answer: a letter, a text, or a list of texts.

    Attributes:
        options: texts of the options A, B, ...; empty for an open question.
        pictures: how many pictures question and options name.
    """

    options: tuple[str, ...] = ()
    pictures: int = 1


Asked = tuple[MMMUQuestion, ...]
MMMURecord = Record[Asked, Answers]


class MMMURow(msgspec.Struct, frozen=True):
    """One row of a parquet file, without its pictures.

    Attributes:
        id: unique in the data set.
        question: with `<image N>` where a picture belongs.
        options: a Python list of texts, written as text; `[]` for an open question.
        answer: letter of an option, a text, or a list of texts, written as text.
        question_type: `CHOICE` or one of `OPEN`.
    """

    id: str
    question: str
    options: str
    answer: str
    question_type: str


@dataclass(frozen=True)
class MMMU(Benchmark[Asked, Answers]):
    """The validation split; an item is one question."""

    name: ClassVar[str] = "MMMU"
    headline: ClassVar[str] = ACCURACY
    least: ClassVar[Mapping[str, float]] = {ACCURACY: 0.0}
    judges: ClassVar[tuple[str, ...]] = ("rules alone",)
    published: ClassVar[int] = 900
    without_overall: ClassVar[frozenset[str]] = frozenset({BY_DOMAIN, BY_SUBJECT})

    @property
    def edition(self) -> str:
        """The split."""
        return SPLIT

    def groups(self, measure: str) -> tuple[str, ...]:
        """All questions together, the domains, or the subjects."""
        return {ACCURACY: (OVERALL,), BY_DOMAIN: tuple(DOMAINS), BY_SUBJECT: SUBJECTS}[measure]

    def decide(self, item: Item[Asked], sample: int, seen: Answers) -> MMMURecord:
        """Whether the reply's letter, or its open answer, is a published one."""
        place = item.key, sample, item.group, item.asked, seen
        (question,), (reply,) = item.asked, seen or ("",)
        if question.pictures > 1:
            return Record(*place, unscored=SEVERAL)
        if not reply.strip():
            return Record(*place, unscored="an empty answer")
        if not question.options:
            right = official_open(reply, answers_of(question))
        elif (letter := strict_letter(reply, question.options)) is not None:
            right = letter in answers_of(question)
        else:
            return Record(*place, why=(f"answer {reply!r}",), unscored="no letter of an option can be read")
        return Record(*place, scores={ACCURACY: float(right)}, why=() if right else (f"expected {question.label}",))

    def values(self, records: Sequence[MMMURecord]) -> dict[str, Values]:
        """0 or 1 for each question; figures weigh questions alike, whatever their subject."""
        scored = [record for record in records if record.unscored is None]
        return {
            measure: {
                group: {r.item: [r.scores[ACCURACY]] for r in scored if r.group in subjects}
                for group, subjects in grouped(measure).items()
                if any(r.group in subjects for r in scored)
            }
            for measure in (ACCURACY, BY_DOMAIN, BY_SUBJECT)
        }

    def official(self, records: Sequence[MMMURecord]) -> Figures:
        """`main_eval_only.py` on the same replies, with the expectation of its random letters."""
        scores = [(record.group, official_score(record.asked[0], record.seen)) for record in records]

        def mean(subjects: Sequence[str]) -> float | None:
            found = [score for group, score in scores if group in subjects]
            return sum(found) / len(found) if found else None

        return {
            measure: {group: mean(subjects) for group, subjects in grouped(measure).items()}
            for measure in (ACCURACY, BY_DOMAIN, BY_SUBJECT)
        }


def grouped(measure: str) -> Mapping[str, Sequence[str]]:
    """Subjects of each group of a measure."""
    return {ACCURACY: {OVERALL: SUBJECTS}, BY_DOMAIN: DOMAINS, BY_SUBJECT: {s: (s,) for s in SUBJECTS}}[measure]


def answers_of(question: MMMUQuestion) -> tuple[str, ...]:
    """The accepted answers: some open questions publish a list of them as text."""
    if question.label.startswith("[") and not question.options:
        return texts_of(question.label) or (question.label,)
    return (question.label,)


def official_score(question: MMMUQuestion, seen: Answers) -> float:
    """1 or 0, or the chance of a random letter where the official script draws one."""
    (reply,) = seen or ("",)
    if not question.options:
        return float(official_open(reply, answers_of(question)))
    letter = official_letter(reply, question.options)
    return 1 / len(question.options) if letter is None else float(letter in answers_of(question))


def texts_of(text: str) -> tuple[str, ...] | None:
    """The texts of a Python list written as text, as the data set keeps lists; None for anything else."""
    try:
        found: object = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    return tuple(map(str, cast("list[object]", found))) if isinstance(found, list) else None


def read_mmmu(folder: str) -> MMMU:
    """The validation split of the data set: `SUBJECT/validation-*.parquet` in a folder.

    Args:
        folder: path or fsspec URL; subjects that are not there leave the set incomplete.

    Raises:
        BenchmarkError: when no subject is there, a column is missing, an id stands twice, options or answer cannot be
            read, or a type of question is unknown.
    """
    items: list[Item[Asked]] = []
    places: list[str] = []
    for url, subject in subject_files(folder):
        for place, row in read_records(url, MMMURow, SOURCE):
            items.append(_item(row, subject, f"{place}, question {row.id}"))
            places.append(f"{place} (id '{row.id}')")
    unique([item.key for item in items], places)
    return MMMU(some(folder, items, SOURCE))


def subject_files(folder: str) -> list[tuple[str, str]]:
    """URL and subject of every file of the split, subjects in the official order."""
    there = parquet_files(folder)
    start = folder.rstrip("/")
    return [(url, s) for s in SUBJECTS for url in there if url.startswith(f"{start}/{s}/{SPLIT}-")]


def save_pictures(folder: str, place: str, progress: Callable[[str], None] | None = None) -> None:
    """Take the first picture of every question out of the parquet files: `ID.png` in a folder, bytes unchanged.

    Args:
        folder: as for `read_mmmu`.
        place: path or fsspec URL; pictures that are there already stay.
        progress: called with one line for each subject.

    Raises:
        BenchmarkError: when a file lacks its pictures.
    """
    files, root = cast("tuple[AbstractFileSystem, str]", url_to_fs(place))
    there = {cast("str", path).rsplit("/", 1)[-1] for path in files.find(root)} if files.isdir(root) else set[str]()
    for url, subject in subject_files(folder):
        if progress:
            progress(f"pictures of {subject}")
        for place, row in read_records(url, _Pictured, SOURCE):
            name = f"{row.id}.png"
            if row.image_1 is None or row.image_1.encoded is None:
                raise BenchmarkError(f"{place}, question {row.id}: holds no picture image_1; get {SOURCE}")
            if name not in there:
                put(files, f"{root.rstrip('/')}/{name}", row.image_1.encoded)


class _Encoded(msgspec.Struct, frozen=True):
    encoded: bytes | None = msgspec.field(name="bytes")


class _Pictured(msgspec.Struct, frozen=True):
    id: str
    image_1: _Encoded | None


def _item(row: MMMURow, subject: str, where: str) -> Item[Asked]:
    options = texts_of(row.options)
    if options is None:
        raise BenchmarkError(f"{where}: options are not a list: {row.options}; get {SOURCE}")
    letters = letters_of(options)
    if row.question_type == CHOICE:
        if row.answer not in letters:
            raise BenchmarkError(
                f"{where}: answer is '{row.answer}', expected a letter of its {len(options)} options; the test split "
                f"holds no answers; get {SOURCE}"
            )
        # The official template ends every option with a line feed and puts one more before the request.
        lines = "".join(f"({letter}) {text}\n" for letter, text in zip(letters, options, strict=True))
        text = f"{row.question}\n{lines}\n{ASK_LETTER}"
    elif row.question_type in OPEN:
        options, text = (), f"{row.question}\n{ASK_WORD}"
    else:
        known = ", ".join((CHOICE, *OPEN))
        raise BenchmarkError(f"{where}: question_type is '{row.question_type}'; known: {known}; get {SOURCE}")
    pictures = len(set(re.findall(r"<image (\d)>", row.question + row.options)))
    question = MMMUQuestion(text, row.answer, options, max(pictures, 1))
    return Item(row.id, subject, text, (question,), (row.id,), source=f"{row.id}.png")
