"""Understanding in the built-in world: accuracy on held-out questions about held-out pictures, by kind of question.

Pictures come from the `held-out` stream, which no training set draws from. The world is small: a held-out scene of one
object (1,152 exist) may equal a training picture by chance, scenes of two or more hardly ever do.
"""

from collections.abc import Sequence
from itertools import groupby

import msgspec
import torch

from reca.config import EvaluationConfig
from reca.data.scenes import QUESTION_KINDS, Scene, ask, render
from reca.data.sets import generator, scene_at
from reca.evaluation.picture_questions import PictureQuestion, same
from reca.evaluation.pictures import fitted
from reca.evaluation.records import Record
from reca.evaluation.refusals import after_encoding, tried, without
from reca.evaluation.results import CORRECT, correctness
from reca.evaluation.statistics import OVERALL, Estimate, estimates
from reca.evaluation.tally import Tally, spaced
from reca.models.base import UnifiedModel
from reca.models.finite import MEND

HELD_OUT = "held-out"
"""Stream of the evaluation pictures."""

HELD_OUT_SEED = 0

ANSWER_TOKENS = {"list": 40}
"""Most new tokens by kind; a list names up to four objects in 31 words. Other answers have one or two words."""

SHORT_ANSWER_TOKENS = 8


Answer = Record[PictureQuestion, str]
"""One question. Item: number of the held-out picture. Group: presence, count, color, place, relation or list. Seen: the
model's answer. Scores: `correct`, 1 where it equals the label up to case, blanks and a final period."""


class UnderstandingResult(msgspec.Struct, frozen=True):
    """Accuracy with 95 % intervals over questions.

    Attributes:
        accuracy: over all questions; a refused answer is wrong.
        kinds: by kind; a question that its picture cannot answer falls back to counting and counts there.
        answers: one per question.
        refused: answers that the model refused, because its numbers are not finite.
    """

    accuracy: Estimate
    kinds: dict[str, Estimate]
    answers: tuple[Answer, ...]
    refused: int = 0


def held_out_scenes(count: int) -> list[Scene]:
    """The first `count` held-out scenes."""
    return [scene_at(HELD_OUT, HELD_OUT_SEED, index) for index in range(count)]


def questions(count: int) -> list[tuple[int, str, str, str]]:
    """Picture number, kind, question and answer of the first `count` held-out questions; kinds take turns."""
    rows: list[tuple[int, str, str, str]] = []
    for index, scene in enumerate(held_out_scenes(count)):
        kind = QUESTION_KINDS[index % len(QUESTION_KINDS)]
        asked, answer = ask(scene, kind, generator("question/held-out", HELD_OUT_SEED, index))
        rows.append((index, "count" if asked.startswith("how many") else kind, asked, answer))
    return rows


def understanding(model: UnifiedModel, config: EvaluationConfig, batch_size: int = 50) -> UnderstandingResult:
    """Ask a model the held-out questions, greedily.

    Args:
        model: any family; it is put into evaluation mode.
        config: number of questions and of resamples.
        batch_size: questions in a batch; a batch holds one kind, so that short answers do not wait for lists.

    Raises:
        AllRefusedError: the model refused all answers; see `Tally` for when this is said.
    """
    model.eval()
    rows = sorted(questions(config.understanding_questions), key=lambda row: row[1])
    groups = [list(group) for _, group in groupby(rows, key=lambda row: row[1])]
    batches = [group[start : start + batch_size] for group in groups for start in range(0, len(group), batch_size)]
    tally, answers = Tally(len(rows), "answers", MEND), list[Answer]()
    for batch in spaced(batches, batch_size):
        found = _ask(model, batch)
        tally.add(len(found), [answer.why[0] for answer in found if answer.unscored])
        answers += found
    tally.close()
    return summarize(sorted(answers, key=lambda answer: int(answer.item)), config.bootstrap)


def summarize(answers: Sequence[Answer], resamples: int) -> UnderstandingResult:
    """Accuracies from the answers alone."""
    correct = {OVERALL: [correctness(a) for a in answers]}
    kinds = {kind: [correctness(a) for a in answers if a.group == kind] for kind in QUESTION_KINDS}
    table = estimates({kind: column for kind, column in kinds.items() if column}, resamples)
    del table[OVERALL]
    refused = sum(a.unscored is not None for a in answers)
    return UnderstandingResult(estimates(correct, resamples)[OVERALL], table, tuple(answers), refused)


def _ask(model: UnifiedModel, rows: Sequence[tuple[int, str, str, str]]) -> list[Answer]:
    kind = rows[0][1]
    pictures = [render(scene_at(HELD_OUT, HELD_OUT_SEED, index)) for index, *_ in rows]
    device = next(model.parameters()).device
    with torch.no_grad():
        words, tokens = [asked for _, _, asked, _ in rows], ANSWER_TOKENS.get(kind, SHORT_ANSWER_TOKENS)
        given, refused = tried(
            lambda: after_encoding(
                lambda: model.encode(fitted(pictures, model.geometry.size).to(device)),
                lambda encoded: model.answer(encoded, words, tokens),
            )
        )
    answers = [
        Record(f"{index}", 0, kind, PictureQuestion(asked, expected), text, {CORRECT: float(same(text, expected))})
        for (index, _, asked, expected), text in zip(rows, given, strict=True)
    ]
    return without(answers, refused, "")
