"""Everything that is scored before and after RecA, as one folder: MiniGenEval, understanding, reconstruction."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reca.config import EvaluationConfig
from reca.evaluation.minigeneval import evaluate as minigeneval
from reca.evaluation.minigeneval.evaluate import MiniGenEvalDifference, MiniGenEvalResult
from reca.evaluation.pictures import png, unpng
from reca.evaluation.reconstruction import MEASURES, ReconstructionResult, reconstruction
from reca.evaluation.records import BenchmarkError
from reca.evaluation.results import correctness
from reca.evaluation.statistics import Estimate, differences
from reca.evaluation.understanding import UnderstandingResult, understanding
from reca.models.base import UnifiedModel

UNDERSTANDING, RECONSTRUCTION, REDRAWN = "understanding.json", "reconstruction.json", "reconstruction.parquet"


class Evaluation(msgspec.Struct, frozen=True):
    """All scores of one model.

    Attributes:
        minigeneval: what it draws.
        understanding: what it answers.
        reconstruction: what it redraws.
    """

    minigeneval: MiniGenEvalResult
    understanding: UnderstandingResult
    reconstruction: ReconstructionResult


class Comparison(msgspec.Struct, frozen=True):
    """Paired differences, after - before, with 95 % intervals.

    Attributes:
        minigeneval: `overall` and tasks, official and strict.
        understanding: by kind of question, and `overall` as the plain mean of the kinds.
        reconstruction: by measure (class, color, place).
    """

    minigeneval: MiniGenEvalDifference
    understanding: dict[str, Estimate]
    reconstruction: dict[str, Estimate]


class EvaluationError(ValueError):
    """A folder of scores that cannot be read."""


def evaluate_all(
    model: UnifiedModel, config: EvaluationConfig, folder: Path, progress: Callable[[str], None] | None = None
) -> Evaluation:
    """Score a model and write records, totals and pictures into a folder.

    Args:
        model: any family.
        config: what is scored.
        folder: receives `minigeneval.json(l)`, `understanding.json`, `reconstruction.json` and the pictures as parquet.
        progress: receives one line after each part.

    Raises:
        AllRefusedError: the model refused all of a part.
    """
    tell = progress or (lambda _: None)
    folder.mkdir(parents=True, exist_ok=True)
    scores, images = minigeneval.evaluate(model, config)
    minigeneval.save(scores, images, folder)
    tell(
        f"MiniGenEval overall {scores.scores['overall'].value:.3f}, {scores.objects_per_picture:.1f} objects a picture"
        f"{_refused(scores.refused)}"
    )
    answers = understanding(model, config)
    (folder / UNDERSTANDING).write_bytes(msgspec.json.encode(answers))
    tell(f"understanding accuracy {answers.accuracy.value:.3f}{_refused(answers.refused)}")
    redrawn, originals, drawn = reconstruction(model, config)
    (folder / RECONSTRUCTION).write_bytes(msgspec.json.encode(redrawn))
    columns = {"original": [png(p) for p in originals], "reconstruction": [png(p) for p in drawn]}
    pq.write_table(pa.table(columns), folder / REDRAWN)
    recalls = ", ".join(f"{m} {redrawn.recall[m].value:.3f}" for m in MEASURES)
    tell(f"reconstruction {recalls}{_refused(redrawn.refused)}")
    return Evaluation(scores, answers, redrawn)


def _refused(count: int) -> str:
    return f", {count} refused" if count else ""


def load_all(folder: Path) -> Evaluation:
    """Read a folder of scores with all records.

    Raises:
        EvaluationError: naming the folder, when a file of understanding or reconstruction is missing or malformed.
        BenchmarkError: likewise of MiniGenEval.
    """
    try:
        answers = msgspec.json.decode((folder / UNDERSTANDING).read_bytes(), type=UnderstandingResult)
        redrawn = msgspec.json.decode((folder / RECONSTRUCTION).read_bytes(), type=ReconstructionResult)
    except (OSError, msgspec.DecodeError) as error:
        raise EvaluationError(f"no readable scores in {folder}: {error}; evaluate again") from error
    return Evaluation(minigeneval.load(folder), answers, redrawn)


def load_reconstructions(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Originals and reconstructions of a folder of scores, uint8 [N, 3, S, S] each; black where the model refused."""
    table = pq.read_table(folder / REDRAWN)
    originals, drawn = (np.stack([unpng(p) for p in table[n].to_pylist()]) for n in ("original", "reconstruction"))
    return originals, drawn


def compare_all(before: Evaluation, after: Evaluation, resamples: int = 2000) -> Comparison:
    """Paired differences of two models scored with one configuration.

    Raises:
        BenchmarkError: naming what differs.
    """
    sides = before, after
    asked = [[(answer.item, answer.asked) for answer in side.understanding.answers] for side in sides]
    redrawn = [[(p.index, p.template, p.seed) for p in side.reconstruction.pictures] for side in sides]
    for what, (one, other) in {"questions": asked, "reconstructions": redrawn}.items():
        if one != other:
            raise BenchmarkError(f"the {what} of the two models are not the same; score both with one configuration")
    answers = [
        {k: [correctness(a) for a in side.understanding.answers if a.group == k] for k in side.understanding.kinds}
        for side in sides
    ]
    recalls = [
        {measure: [p.recall[measure] for p in side.reconstruction.pictures] for measure in MEASURES} for side in sides
    ]
    recalled = differences(recalls[0], recalls[1], resamples)
    return Comparison(
        minigeneval=minigeneval.compare(before.minigeneval, after.minigeneval, resamples),
        understanding=differences(answers[0], answers[1], resamples),
        reconstruction={measure: recalled[measure] for measure in MEASURES},
    )
