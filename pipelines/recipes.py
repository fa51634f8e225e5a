"""Recipes of the main job: typed functions whose docstrings are claims (command, hardware, cost, expected scores)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from pipelines.dsl import SettingsError
from pipelines.released_recipes import RELEASED
from reca.config import (
    BUILT_IN,
    EvaluationConfig,
    ExecutionConfig,
    GateConfig,
    ModelConfig,
    RecaRecipe,
    SamplingConfig,
    TrainingConfig,
    out_of_range,
)
from reca.models import unknown_family
from reca.objectives import task_weights


def tiny_showo() -> RecaRecipe:
    """Default: the shipped tiny Show-o on 8,192 unlabeled emoji scenes, scored before and after.

    Command: `python pipelines/reca.py`. Hardware: 2 CPU cores. Cost: at most 10 minutes. Board world: sprites on
    a 16 px lattice. Expected scores: docs/results.md.
    """
    return RecaRecipe(name="tiny_showo")


def tiny_janus() -> RecaRecipe:
    """The shipped tiny Janus-Pro (next-token codes) on the same scenes, scored before and after.

    Command: `python pipelines/reca.py run --recipe tiny_janus`. Hardware: 2 CPU cores. Cost: at most 12 minutes. Board
    world, as `tiny_showo`. The 16 steps are the 16 codes of a picture, drawn one after another. Expected scores:
    docs/results.md.
    """
    return RecaRecipe(
        name="tiny_janus",
        model=ModelConfig(family="janus", checkpoint="checkpoints/tiny_janus"),
        training=TrainingConfig(updates=150),
        evaluation=EvaluationConfig(
            prompts_per_task=200, sampling=SamplingConfig(guidance=1.0, steps=16, temperature=0.7)
        ),
    )


def tiny_bagel() -> RecaRecipe:
    """The shipped tiny BAGEL (flow matching) on the same scenes, scored before and after.

    Command: `python pipelines/reca.py run --recipe tiny_bagel`. Hardware: 2 CPU cores. Cost: at most 12 minutes. Board
    world, as `tiny_showo`. No image-to-text term: understanding is frozen. The rate is low: at 5e-4 the model forgets
    within 150 updates how to draw one object. Expected scores: docs/results.md.
    """
    return RecaRecipe(
        name="tiny_bagel",
        model=ModelConfig(family="bagel", checkpoint="checkpoints/tiny_bagel"),
        training=TrainingConfig(updates=300, learning_rate=3e-5, lambda_i2t=0.0),
        evaluation=EvaluationConfig(prompts_per_task=200, sampling=SamplingConfig(guidance=2.0, steps=16)),
    )


def tiny_harmon() -> RecaRecipe:
    """The shipped tiny Harmon (masked autoregression over continuous latents) on the same scenes, scored before and
    after.

    Command: `python pipelines/reca.py run --recipe tiny_harmon`. Hardware: 2 CPU cores. Cost: some 9 minutes; a
    picture takes 8 x 100 evaluations of the diffusion head. Board world, as `tiny_showo`. Two gates are those that the
    base reaches (`pipelines/pretrain.py`). Expected scores: docs/results.md.
    """
    return RecaRecipe(
        name="tiny_harmon",
        model=ModelConfig(family="harmon", checkpoint="checkpoints/tiny_harmon"),
        training=TrainingConfig(updates=250, learning_rate=1.5e-5),
        evaluation=EvaluationConfig(
            prompts_per_task=200, sampling=SamplingConfig(guidance=2.0, steps=8, temperature=0.6)
        ),
        gates=GateConfig(single_object=0.9, understanding=0.75),
    )


def tiny_openuni() -> RecaRecipe:
    """The shipped tiny OpenUni (flow matching in Sana, asked by learned queries) on the same scenes, scored before and
    after.

    Command: `python pipelines/reca.py run --recipe tiny_openuni`. Hardware: 2 CPU cores. Cost: at most 12 minutes.
    Board world, as `tiny_showo`. No image-to-text term: understanding is frozen. Expected scores: docs/results.md.
    """
    return RecaRecipe(
        name="tiny_openuni",
        model=ModelConfig(family="openuni", checkpoint="checkpoints/tiny_openuni"),
        training=TrainingConfig(updates=400, learning_rate=5e-4, lambda_i2t=0.0),
        evaluation=EvaluationConfig(prompts_per_task=200, sampling=SamplingConfig(guidance=2.0, steps=12)),
    )


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
    "tiny_janus": tiny_janus,
    "tiny_bagel": tiny_bagel,
    "tiny_harmon": tiny_harmon,
    "tiny_openuni": tiny_openuni,
    "smoke": smoke,
    **{recipe.__name__: recipe for recipe in RELEASED},
}


def check(recipe: RecaRecipe, execution: ExecutionConfig) -> None:
    """Refuse, before anything starts, what could only fail after hours of other stages.

    Raises:
        SettingsError: naming every such field, its value and the mend.
    """
    problems = [*out_of_range(recipe), *out_of_range(execution, "--context ")] or [*_contradictions(recipe, execution)]
    if problems:
        raise SettingsError("; ".join(problems))


def _contradictions(recipe: RecaRecipe, execution: ExecutionConfig) -> Iterator[str]:
    data, training = recipe.data, recipe.training
    if problem := unknown_family(recipe.model.family):
        yield problem
    try:
        task_weights(training)
    except ValueError as error:
        yield str(error)
    if training.batch_size % execution.workers:
        yield (
            f"training.batch_size {training.batch_size} cannot be split evenly over {execution.workers} workers; "
            "choose a multiple, or other --context workers"
        )
    sources = {"source": (data.source, "images", data.images)}
    if training.lambda_i2t > 0:
        sources["instruction_source"] = (data.instruction_source, "instructions", data.instructions)
    for name, (source, field, count) in sources.items():
        if not source:
            yield f"data.{name} is empty; give the path or URL of a folder of images, or {BUILT_IN}"
        elif source == BUILT_IN and count < 1:
            yield f"data.{field} is {count}, which means all of a folder; {BUILT_IN} needs a number of at least 1"
