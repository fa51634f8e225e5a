"""What a sweep searches: three numbers of the training configuration, in ranges around the recipe's own values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reca.config import RecaRecipe, TrainingConfig

if TYPE_CHECKING:
    from optuna.distributions import FloatDistribution

SIGNIFICANT_DIGITS = 4
"""Values are rounded to this, so that a recipe file reads well and equal values give equal stage keys."""


class SpaceError(ValueError):
    """The recipe leaves nothing to search; the message names the field and the mend."""


@dataclass(frozen=True)
class Range:
    """One searched field of `RecaRecipe.training`.

    Attributes:
        field: name of the field.
        low: least value.
        high: largest value.
        log: whether values are drawn evenly on a logarithmic scale.
    """

    field: str
    low: float
    high: float
    log: bool


def space_of(recipe: RecaRecipe) -> tuple[Range, ...]:
    """Ranges around a recipe's values.

    The learning rate spans a factor of 4 to both sides. AdamW ignores a common factor of all weights (before clipping),
    so what counts is their ratio: `lambda_recon` spans a factor of 4 to both sides, `lambda_i2t` 0 to twice the larger
    of 1 and its own value (1 is the paper's choice for shared transformers). A recipe without image-to-text, the
    paper's choice for decoupled models, stays without it: a frozen understanding side refuses to train on it.

    Raises:
        SpaceError: the recipe does not train RecA, or a value is not above 0.
    """
    training = recipe.training
    if training.arm != "reca":
        raise SpaceError(f"training.arm={training.arm} has no reconstruction to weigh; sweep with training.arm=reca")
    for name in ("lambda_recon", "learning_rate"):
        if not getattr(training, name) > 0:
            raise SpaceError(f"training.{name}={getattr(training, name)} must be above 0: the range is drawn around it")
    if not training.lambda_i2t >= 0:
        raise SpaceError(f"training.lambda_i2t={training.lambda_i2t} must be at least 0")
    i2t = (Range("lambda_i2t", 0.0, 2 * max(1.0, training.lambda_i2t), log=False),) if training.lambda_i2t else ()
    return (
        Range("lambda_recon", training.lambda_recon / 4, training.lambda_recon * 4, log=True),
        *i2t,
        Range("learning_rate", training.learning_rate / 4, training.learning_rate * 4, log=True),
    )


def start_point(recipe: RecaRecipe, space: tuple[Range, ...]) -> dict[str, float]:
    """The recipe's own values: the first trial of every sweep, so that the best is never worse than no sweep."""
    return {r.field: float(getattr(recipe.training, r.field)) for r in space}


def apply(recipe: RecaRecipe, values: Mapping[str, float], updates: int | None = None) -> RecaRecipe:
    """A recipe with the values of a trial, rounded to four significant digits.

    Args:
        recipe: the recipe a sweep started from.
        values: value by field of `recipe.training`.
        updates: optimizer updates of a shorter run (its warm-up shrinks in proportion); None keeps the recipe's.
    """
    chosen = {name: round_significant(value) for name, value in values.items()}
    training = replace(recipe.training, **chosen)
    return replace(recipe, training=training if updates is None else _shorten(training, updates))


def round_significant(value: float) -> float:
    """Round to `SIGNIFICANT_DIGITS` digits; 0 stays 0."""
    return 0.0 if value == 0 else round(value, SIGNIFICANT_DIGITS - 1 - math.floor(math.log10(abs(value))))


def distributions(space: tuple[Range, ...]) -> "dict[str, FloatDistribution]":
    """The space in Optuna's terms."""
    from optuna.distributions import FloatDistribution

    return {r.field: FloatDistribution(r.low, r.high, log=r.log) for r in space}


def _shorten(training: TrainingConfig, updates: int) -> TrainingConfig:
    if updates >= training.updates:
        return training
    share = updates / training.updates
    return replace(training, updates=updates, warmup_updates=round(training.warmup_updates * share))
