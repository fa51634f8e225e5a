"""Ranges around a recipe, and recipes made from a trial's values."""

from dataclasses import replace

import pytest

from pipelines.recipes import tiny_bagel, tiny_openuni
from reca.config import RecaRecipe, TrainingConfig
from tuning.space import SpaceError, apply, distributions, round_significant, space_of, start_point

RECIPE = RecaRecipe(
    name="x", training=TrainingConfig(learning_rate=2e-4, lambda_recon=1.0, updates=300, warmup_updates=30)
)


def test_ranges_hold_the_recipes_own_values() -> None:
    space = space_of(RECIPE)
    start = start_point(RECIPE, space)
    assert start == {"lambda_recon": 1.0, "lambda_i2t": 1.0, "learning_rate": 2e-4}
    for r in space:
        assert r.low <= start[r.field] <= r.high
    rate = distributions(space)["learning_rate"]
    assert (rate.low, rate.high, rate.log) == (5e-5, 8e-4, True)


def test_image_to_text_is_weighed_only_where_the_recipe_trains_on_it() -> None:
    """A frozen understanding side refuses the loss, so every trial but the first would break."""
    decoupled = replace(RECIPE, training=replace(RECIPE.training, lambda_i2t=0.0))
    assert [r.field for r in space_of(decoupled)] == ["lambda_recon", "learning_rate"]
    weight = next(r for r in space_of(RECIPE) if r.field == "lambda_i2t")
    assert (weight.low, weight.high, weight.log) == (0.0, 2.0, False)
    assert all("lambda_i2t" not in start_point(make(), space_of(make())) for make in (tiny_bagel, tiny_openuni))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arm": "sft"}, "training.arm=sft has no reconstruction"),
        ({"learning_rate": 0.0}, "training.learning_rate=0.0 must be above 0"),
        ({"lambda_recon": 0.0}, "training.lambda_recon=0.0 must be above 0"),
        ({"lambda_i2t": -1.0}, "training.lambda_i2t=-1.0 must be at least 0"),
    ],
)
def test_recipes_that_leave_nothing_to_search(change: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        space_of(replace(RECIPE, training=replace(RECIPE.training, **change)))


def test_apply_changes_only_what_is_searched() -> None:
    values = {"lambda_recon": 1.23456789, "learning_rate": 0.000123456}
    made = apply(RECIPE, values)
    assert made.training == replace(RECIPE.training, lambda_recon=1.235, learning_rate=0.0001235)
    assert replace(made, training=RECIPE.training) == RECIPE
    short = apply(RECIPE, values, updates=100)
    assert (short.training.updates, short.training.warmup_updates) == (100, 10)
    assert apply(RECIPE, values, updates=300) == made


@pytest.mark.parametrize(
    ("value", "rounded"), [(0.0, 0.0), (1.0, 1.0), (123456.0, 123500.0), (-0.00098765, -0.0009877), (9.99999, 10.0)]
)
def test_round_significant(value: float, rounded: float) -> None:
    assert round_significant(value) == rounded
