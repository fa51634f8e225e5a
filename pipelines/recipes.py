"""Recipes of the main job: typed functions whose docstrings are claims (command, hardware, cost, expected scores)."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from pipelines.released_recipes import RELEASED
from reca.config import (
    GateConfig,
    RecaRecipe,
)


def tiny_showo() -> RecaRecipe:
    """Default: the shipped tiny Show-o on 8,192 unlabeled emoji scenes, scored before and after.

    Command: `python pipelines/reca.py`. Hardware: 2 CPU cores. Cost: at most 10 minutes. Board world: sprites on
    a 16 px lattice. Expected scores: docs/results.md.
    """
    return RecaRecipe(name="tiny_showo")


def smoke() -> RecaRecipe:
    """Check the wiring: the whole pipeline on a few hundred pictures. Its scores mean nothing.

    Command: `python pipelines/reca.py run --recipe smoke`. Hardware: 2 CPU cores. Cost: at most 90 seconds.
    """
    base = tiny_showo()
    return replace(
        base,
        name="smoke",
        data=replace(base.data, images=192, instructions=192, rows_per_shard=96),
        training=replace(base.training, updates=12, batch_size=16, warmup_updates=2, checkpoint_every=6),
        evaluation=replace(
            base.evaluation, prompts_per_task=8, understanding_questions=32, reconstructions=16, bootstrap=200
        ),
        gates=GateConfig(single_object=0.5, colors=0.0, understanding=0.4, class_recall=0.1),
    )


RECIPES: Mapping[str, Callable[[], RecaRecipe]] = {
    "tiny_showo": tiny_showo,
    "smoke": smoke,
    **{recipe.__name__: recipe for recipe in RELEASED},
}
