"""MiniGenEval of a model: generate one picture per prompt, detect, judge, and keep a record of every decision."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from reca.config import EvaluationConfig, SamplingConfig
from reca.evaluation.geneval import TASKS, Detection, Prompt, judge, judge_strictly
from reca.evaluation.minigeneval.prompts import BENCHMARK, Split, image_seed, item_names, prompts
from reca.evaluation.minigeneval.scorer import OPTIONS, Scorer, objects_per_picture
from reca.evaluation.pictures import png, unpng
from reca.evaluation.statistics import Estimate, differences, estimates
from reca.models.base import UnifiedModel

RESULT, RECORDS, IMAGES = "minigeneval.json", "minigeneval.jsonl", "minigeneval.parquet"


class Record(msgspec.Struct, frozen=True):
    """One picture: what was asked, what was seen, what was decided and why.

    Attributes:
        item: `task/number`.
        prompt: the GenEval record.
        seed: seed of the picture's noise.
        detections: all detections, best first.
        correct: GenEval's verdict.
        reasons: why not.
        strict_correct: also refuses objects beyond those asked for.
        refused: why no verdict was possible; such a picture counts as wrong.
    """

    item: str
    prompt: Prompt
    seed: int
    detections: tuple[Detection, ...]
    correct: bool
    reasons: tuple[str, ...]
    strict_correct: bool
    refused: str | None


class MiniGenEvalResult(msgspec.Struct, frozen=True):
    """Scores of one model; everything but the settings can be recomputed from the records.

    Attributes:
        benchmark: name and edition.
        split: `validation` or `test`.
        scores: `overall` and each task, 0 to 1, with 95 % intervals over prompts.
        strict: the same, refusing objects beyond those asked for.
        objects_per_picture: mean number of detected objects.
        refused: pictures without a verdict (counted as wrong).
        scorer: digest of the scorer's weights.
        seed: seed of the noise.
        sampling: sampler settings.
        records: one per picture, in prompt order.
    """

    benchmark: str
    split: str
    scores: dict[str, Estimate]
    strict: dict[str, Estimate]
    objects_per_picture: float
    refused: int
    scorer: str
    seed: int
    sampling: SamplingConfig
    records: tuple[Record, ...]


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


class MiniGenEvalError(ValueError):
    """A result that cannot be read, or two results that cannot be compared."""


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
        The result, and the pictures: uint8 [N, 3, S, S] in prompt order.
    """
    chosen = prompts(split, config.prompts_per_task)
    seeds = [image_seed(config.seed, split, item) for item in item_names(chosen)]
    model.eval()
    drawn: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, len(chosen), batch_size):
            part = slice(start, start + batch_size)
            drawn.append(model.generate([p.prompt for p in chosen[part]], seeds[part], config.sampling).cpu())
    images = torch.cat(drawn)
    scorer = Scorer.load(config.scorer)
    records = judge_pictures(chosen, seeds, scorer.detect(images))
    return summarize(records, config, split, scorer.digest), images


def judge_pictures(
    chosen: Sequence[Prompt], seeds: Sequence[int], detections: Sequence[Sequence[Detection]]
) -> tuple[Record, ...]:
    """Decide about each picture by GenEval's rules at MiniGenEval's thresholds."""
    records: list[Record] = []
    for item, prompt, seed, found in zip(item_names(chosen), chosen, seeds, detections, strict=True):
        verdict = judge(prompt, found, OPTIONS)
        strict = judge_strictly(prompt, verdict).correct
        records.append(
            Record(item, prompt, seed, tuple(found), verdict.correct, verdict.reasons, strict, verdict.refused)
        )
    return tuple(records)


def summarize(records: Sequence[Record], config: EvaluationConfig, split: Split, scorer: str) -> MiniGenEvalResult:
    """Totals and intervals from the records alone."""
    return MiniGenEvalResult(
        benchmark=BENCHMARK,
        split=split,
        scores=estimates(by_task(records), config.bootstrap),
        strict=estimates(by_task(records, strict=True), config.bootstrap),
        objects_per_picture=objects_per_picture([r.detections for r in records]),
        refused=sum(r.refused is not None for r in records),
        scorer=scorer,
        seed=config.seed,
        sampling=config.sampling,
        records=tuple(records),
    )


def compare(before: MiniGenEvalResult, after: MiniGenEvalResult, resamples: int = 2000) -> MiniGenEvalDifference:
    """Paired differences of two models.

    Raises:
        MiniGenEvalError: when prompts, noise, scorer or edition differ.
    """
    for name in ("benchmark", "split", "scorer", "seed"):
        pair = getattr(before, name), getattr(after, name)
        if pair[0] != pair[1]:
            raise MiniGenEvalError(f"results differ in {name}: {pair[0]} and {pair[1]}; score both models alike")
    if [(r.prompt, r.seed) for r in before.records] != [(r.prompt, r.seed) for r in after.records]:
        raise MiniGenEvalError("results hold other prompts or seeds; score both models with one EvaluationConfig")
    return MiniGenEvalDifference(
        differences(by_task(before.records), by_task(after.records), resamples),
        differences(by_task(before.records, strict=True), by_task(after.records, strict=True), resamples),
        after.objects_per_picture - before.objects_per_picture,
    )


def by_task(records: Sequence[Record], strict: bool = False) -> dict[str, list[float]]:
    """0 or 1 for each picture, by task in GenEval's order."""
    values = {
        t: [float(r.strict_correct if strict else r.correct) for r in records if r.prompt.tag == t] for t in TASKS
    }
    return {task: column for task, column in values.items() if column}


def save(result: MiniGenEvalResult, images: Tensor, folder: Path) -> None:
    """Write totals (JSON), records (JSON lines) and pictures (parquet: item, PNG bytes)."""
    folder.mkdir(parents=True, exist_ok=True)
    totals = msgspec.structs.replace(result, records=())
    (folder / RESULT).write_bytes(msgspec.json.format(msgspec.json.encode(totals), indent=1))
    (folder / RECORDS).write_bytes(msgspec.json.Encoder().encode_lines(result.records))
    table = pa.table({"item": [r.item for r in result.records], "png": [png(image) for image in images]})
    pq.write_table(table, folder / IMAGES)


def load(folder: Path) -> MiniGenEvalResult:
    """Read a result with its records.

    Raises:
        MiniGenEvalError: naming the folder, when a file is missing or malformed.
    """
    try:
        totals = msgspec.json.decode((folder / RESULT).read_bytes(), type=MiniGenEvalResult)
        records = msgspec.json.Decoder(Record).decode_lines((folder / RECORDS).read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise MiniGenEvalError(f"no readable MiniGenEval result in {folder}: {error}; evaluate again") from error
    return msgspec.structs.replace(totals, records=tuple(records))


def load_images(folder: Path) -> np.ndarray:
    """Pictures of a saved result: uint8 [N, 3, S, S] in prompt order."""
    column = pq.read_table(folder / IMAGES, columns=["png"])["png"]
    return np.stack([unpng(data) for data in column.to_pylist()])
