"""MiniGenEval of a model: generate one picture per prompt, detect, judge, and keep a record of every decision."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from reca.config import EvaluationConfig
from reca.evaluation.geneval import TASKS, Detection, Prompt, judge, judge_strictly
from reca.evaluation.minigeneval.prompts import BENCHMARK, Split, image_seed, item_names, prompts
from reca.evaluation.minigeneval.scorer import OPTIONS, Scorer, objects_per_picture
from reca.evaluation.pictures import png, unpng
from reca.evaluation.records import Record
from reca.evaluation.refusals import drawn, without
from reca.evaluation.results import CORRECT, Result, Seen, load_result, require_alike, save_result
from reca.evaluation.statistics import Estimate, differences, estimates
from reca.models.base import UnifiedModel

NAME, IMAGES = "minigeneval", "minigeneval.parquet"

STRICT = "strict"
"""Score of a record beside `CORRECT`, GenEval's verdict: objects beyond those asked for are refused too."""

MiniGenEvalRecord = Record[Prompt, Seen]


class MiniGenEvalResult(Result, frozen=True):
    """Scores of one model.

    Attributes:
        split: `validation` or `test`.
        scores: `overall` and each task, 0 to 1, with 95 % intervals over prompts.
        strict: the same, refusing objects beyond those asked for.
        refused: pictures without a verdict (counted as wrong).
    """

    split: str
    scores: dict[str, Estimate]
    strict: dict[str, Estimate]
    refused: int


class MiniGenEvalDifference(msgspec.Struct, frozen=True):
    """Paired differences after - before, same prompts and noise.

    Attributes:
        scores: `overall` and each task.
        strict: the same for the strict score.
        objects_per_picture: change of the mean number of objects.
    """

    scores: dict[str, Estimate]
    strict: dict[str, Estimate]
    objects_per_picture: float


def evaluate(
    model: UnifiedModel, config: EvaluationConfig, split: Split = "test", batch_size: int = 50
) -> tuple[MiniGenEvalResult, Tensor]:
    """Score a model.

    Args:
        model: any family; it is put into evaluation mode.
        config: prompts per task, noise seed, sampler settings, scorer folder, resamples.
        split: which prompts.
        batch_size: pictures generated at once; each picture depends on its own prompt and seed only.

    Returns:
        The result, and the pictures: uint8 [N, 3, S, S] in prompt order, black where the model refused.

    Raises:
        AllRefusedError: the model refused all pictures, because its numbers are not finite.
    """
    chosen = prompts(split, config.prompts_per_task)
    seeds = [image_seed(config.seed, split, item) for item in item_names(chosen)]
    texts = [p.prompt for p in chosen]
    model.eval()
    images, refused = drawn(
        lambda part: model.generate(texts[part], seeds[part], config.sampling), len(chosen), batch_size, "pictures"
    )
    scorer = Scorer.load(config.scorer)
    records = without(judge_pictures(chosen, scorer.detect(images)), refused, ())
    return summarize(records, config, split, scorer.digest), images


def judge_pictures(
    chosen: Sequence[Prompt], detections: Sequence[Sequence[Detection]]
) -> tuple[MiniGenEvalRecord, ...]:
    """Decide about each picture by GenEval's rules at MiniGenEval's thresholds."""
    records: list[MiniGenEvalRecord] = []
    for item, prompt, found in zip(item_names(chosen), chosen, detections, strict=True):
        verdict = judge(prompt, found, OPTIONS)
        place = item, 0, prompt.tag, prompt, tuple(found)
        if verdict.refused is not None:
            records.append(Record(*place, unscored=verdict.refused))
            continue
        strict = judge_strictly(prompt, verdict).correct
        records.append(Record(*place, {CORRECT: float(verdict.correct), STRICT: float(strict)}, verdict.reasons))
    return tuple(records)


def summarize(
    records: Sequence[MiniGenEvalRecord], config: EvaluationConfig, split: Split, scorer: str
) -> MiniGenEvalResult:
    """Totals and intervals from the records alone.

    Args:
        records: in prompt order.
        config: resamples; noise seed and sampler settings are noted down.
        split: of the prompts.
        scorer: digest of its weights.
    """
    return MiniGenEvalResult(
        benchmark=BENCHMARK,
        split=split,
        scores=estimates(by_task(records, CORRECT), config.bootstrap),
        strict=estimates(by_task(records, STRICT), config.bootstrap),
        objects_per_picture=objects_per_picture([r.seen for r in records if r.unscored is None]),
        refused=sum(r.unscored is not None for r in records),
        scorer=scorer,
        seed=config.seed,
        sampling=config.sampling,
        records=tuple(records),
    )


def compare(before: MiniGenEvalResult, after: MiniGenEvalResult, resamples: int = 2000) -> MiniGenEvalDifference:
    """Paired differences of two models.

    Args:
        before: one model.
        after: the other.
        resamples: bootstrap resamples.

    Raises:
        BenchmarkError: when prompts, noise, sampler settings, scorer or edition differ.
    """
    require_alike(before, after, ("benchmark", "split", "scorer", "seed", "sampling"))
    scores, strict = (
        differences(by_task(before.records, measure), by_task(after.records, measure), resamples)
        for measure in (CORRECT, STRICT)
    )
    return MiniGenEvalDifference(scores, strict, after.objects_per_picture - before.objects_per_picture)


def by_task(records: Sequence[MiniGenEvalRecord], measure: str) -> dict[str, list[float]]:
    """0 or 1 for each picture, by task in GenEval's order; a picture without a verdict is wrong."""
    values = {task: [r.scores.get(measure, 0.0) for r in records if r.group == task] for task in TASKS}
    return {task: column for task, column in values.items() if column}


def save(result: MiniGenEvalResult, images: Tensor, folder: Path) -> None:
    """Write totals (JSON), records (JSON lines) and pictures (parquet: item, PNG bytes).

    Args:
        result: its records are in prompt order.
        images: uint8 [N, 3, S, S], in prompt order.
        folder: made when missing.
    """
    save_result(result, folder, NAME)
    table = pa.table({"item": [r.item for r in result.records], "png": [png(image) for image in images]})
    pq.write_table(table, folder / IMAGES)


def load(folder: Path) -> MiniGenEvalResult:
    """Read a result with its records.

    Raises:
        BenchmarkError: naming the folder, when a file is missing or malformed.
    """
    return load_result(folder, NAME, MiniGenEvalResult, Prompt)


def load_images(folder: Path) -> np.ndarray:
    """Pictures of a saved result, uint8 [N, 3, S, S], in prompt order; black where the model refused."""
    column = pq.read_table(folder / IMAGES, columns=["png"])["png"]
    return np.stack([unpng(data) for data in column.to_pylist()])
