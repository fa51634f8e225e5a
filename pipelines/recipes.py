"""Recipes of the main job: typed functions whose docstrings are claims (command, hardware, cost, expected scores)."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from reca.config import (
    DataConfig,
    EvaluationConfig,
    GateConfig,
    ModelConfig,
    RecaRecipe,
    SamplingConfig,
    TrainingConfig,
)


def tiny_showo() -> RecaRecipe:
    """Default: the shipped tiny Show-o on 8,192 unlabeled emoji scenes, scored before and after.

    Command: `python pipelines/reca.py`. Hardware: 2 CPU cores. Cost: at most 10 minutes. Board world: sprites on
    a 16 px lattice. Expected scores: docs/results.md.
    """
    return RecaRecipe(name="tiny_showo")


def tiny_janus() -> RecaRecipe:
    """The shipped tiny Janus-Pro (next-token codes) on the same scenes, scored before and after.

    Command: `python pipelines/reca.py run --recipe tiny_janus`. Hardware: 2 CPU cores. Cost: at most 12 minutes. Board
    world, as `tiny_showo`. The 16 steps are the 16 codes of a picture, drawn one after another. No gate on colours: the
    base draws them at chance. Expected scores: docs/results.md.
    """
    return RecaRecipe(
        name="tiny_janus",
        model=ModelConfig(family="janus", checkpoint="checkpoints/tiny_janus"),
        training=TrainingConfig(updates=150),
        evaluation=EvaluationConfig(sampling=SamplingConfig(guidance=1.0, steps=16, temperature=0.7)),
        gates=GateConfig(colors=0.0),
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


def _released(name: str, checkpoint: str, batch_size: int, updates: int) -> RecaRecipe:
    """The authors' Show-o hyper-parameters, as in their released configurations: AdamW 5e-7, cosine, no clipping."""
    return RecaRecipe(
        name=name,
        data=DataConfig(source="", images=0, instructions=0, instruction_source="", min_side=256, rows_per_shard=1000),
        model=ModelConfig(family="showo", checkpoint=checkpoint),
        training=TrainingConfig(
            updates=updates,
            batch_size=batch_size,
            learning_rate=5e-7,
            warmup_updates=1000,
            schedule="cosine",
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.01,
            grad_clip=0.0,
            checkpoint_every=500,
            seed=10086,
        ),
        evaluation=EvaluationConfig(sampling=SamplingConfig(guidance=5.0, steps=50)),
        gates=GateConfig(single_object=0.0, colors=0.0, understanding=0.0, class_recall=0.0),
    )


def showo_256() -> RecaRecipe:
    """Show-o with CLIP features at 256 px: `showlab/show-o-w-clip-vit` downloaded to a folder.

    Command: `python pipelines/reca.py run --recipe showo_256 --set model.checkpoint=DIR
    --set data.source=s3://bucket/images --set data.instruction_source=s3://bucket/llava --context workers=1
    --context gpus_per_worker=1`. Hardware: one 80 GB GPU (the release trains on one). Cost in the paper: 4 to 9 hours
    on one A100. Expected (paper, GenEval): 56.6 to 61.9; MiniGenEval's scorer reads emoji scenes only and says nothing
    about this model. Not run here: no GPU, no model hub.
    """
    return _released("showo_256", "showo_256", batch_size=20, updates=10_000)


def showo_512() -> RecaRecipe:
    """Show-o with CLIP features at 512 px: `showlab/show-o-w-clip-vit-512x512` downloaded to a folder.

    Command: as `showo_256`, with `--recipe showo_512`. Hardware: one 80 GB GPU. Cost in the paper: 4 to 9 hours on one
    A100. Expected (paper): GenEval 66.2 to 72.3, DPG 82.21 to 84.94. Not run here: no GPU, no model hub.
    """
    return _released("showo_512", "showo_512", batch_size=10, updates=5_000)


RECIPES: Mapping[str, Callable[[], RecaRecipe]] = {
    "tiny_showo": tiny_showo,
    "tiny_janus": tiny_janus,
    "smoke": smoke,
    "showo_256": showo_256,
    "showo_512": showo_512,
}
