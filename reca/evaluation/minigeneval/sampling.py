"""Choice of sampler settings on validation prompts, once; the choice is then written into the recipe."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec

from reca.config import EvaluationConfig, SamplingConfig
from reca.evaluation.minigeneval.evaluate import evaluate
from reca.evaluation.statistics import OVERALL, Estimate
from reca.models.base import UnifiedModel


class SamplingRow(msgspec.Struct, frozen=True):
    """One candidate on the validation prompts.

    Attributes:
        sampling: the settings.
        scores: `overall` and tasks.
        strict: overall strict score.
        objects_per_picture: mean number of detected objects.
    """

    sampling: SamplingConfig
    scores: dict[str, Estimate]
    strict: Estimate
    objects_per_picture: float


def choose_sampling(
    model: UnifiedModel,
    config: EvaluationConfig,
    candidates: Sequence[SamplingConfig],
    progress: Callable[[str], None] | None = None,
) -> list[SamplingRow]:
    """Score every candidate on the validation prompts, best overall score first (ties: best strict score).

    Args:
        model: the base (never a post-trained model, whose settings are to be fixed beforehand).
        config: prompts per task, noise seed and scorer; its own sampler settings are not used.
        candidates: settings to try.
        progress: receives one line per candidate.
    """
    rows: list[SamplingRow] = []
    for sampling in candidates:
        result, _ = evaluate(model, replace(config, sampling=sampling), split="validation")
        row = SamplingRow(sampling, result.scores, result.strict[OVERALL], result.objects_per_picture)
        if progress is not None:
            overall, strict = row.scores[OVERALL].value, row.strict.value
            progress(f"{sampling}: overall {overall:.3f}, strict {strict:.3f}, {row.objects_per_picture:.1f} objects")
        rows.append(row)
    return sorted(rows, key=lambda row: (row.scores[OVERALL].value, row.strict.value), reverse=True)
