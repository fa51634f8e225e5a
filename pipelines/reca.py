"""The main job: from unlabeled pictures and a checkpoint to a better checkpoint, with the proof beside it.

Run as a script, as `python -m pipelines.reca`, or as a submitted Ray job.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

if __package__ in (None, ""):
    # Python puts this script's folder first, where `import reca` would find this very file; Ray's workers copy it.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pipelines.artifacts import Checkpoint, EditScores, Gates, ImageShards, Report, Scores, Trained
from pipelines.dsl import External, main, pipeline
from pipelines.recipes import RECIPES, check
from pipelines.stages import (
    checkpoint_at,
    encode,
    evaluate,
    gate,
    input_at,
    load_checkpoint,
    prepare,
    report,
    score_edits,
    source_of,
    train,
)
from reca.config import ExecutionConfig, RecaRecipe
from reca.models import can_edit


@dataclass(frozen=True)
class Fitted:
    """Everything up to the trained model; what a sweep's trials have in common with the main job."""

    model: Checkpoint
    scorer: External
    shards: tuple[ImageShards, ...]
    before: Scores
    gates: Gates
    trained: Trained


def fit(recipe: RecaRecipe) -> Fitted:
    """Call the stages up to training: prepare and encode the pictures, score the base and check it, post-train it.

    Each set is keyed by its own settings and by the content of its source: what the other takes, and where a source
    lies, is left out.
    """
    training, evaluation = recipe.training, recipe.evaluation
    captions = training.arm == "sft" or training.lambda_t2i > 0
    model = load_checkpoint(checkpoint_at(recipe.model.checkpoint, "model.checkpoint"), recipe.model.family)
    scorer = input_at(evaluation.scorer, "evaluation.scorer")
    data = recipe.data
    images_only = replace(data, source="", instruction_source="", instructions=0)
    kind = "captions" if captions else "images"
    shards = [prepare.named("prepare images")(source_of(data.source, "data.source"), images_only, kind)]
    images = encode.named("encode images")(shards[0], model)
    instructions = None
    if training.lambda_i2t > 0:
        instructions_only = replace(data, source="", instruction_source="", images=0)
        source = source_of(data.instruction_source, "data.instruction_source")
        shards.append(prepare.named("prepare instructions")(source, instructions_only, "instructions"))
        instructions = encode.named("encode instructions")(shards[1], model)
    before = evaluate.named("score before")(model, scorer, evaluation)
    gates = gate(before, recipe.gates)
    trained = train(model, images, instructions, training, gates)
    return Fitted(model, scorer, tuple(shards), before, gates, trained)


@pipeline
def reca(recipe: RecaRecipe) -> Report:
    """Score the base, post-train it, score again with the same prompts and noise, and report the difference.

    A family that edits is also scored on edits.
    """
    f = fit(recipe)
    after = evaluate.named("score after")(f.trained, f.scorer, recipe.evaluation)
    edits: tuple[EditScores, ...] = ()
    if recipe.edits.count and can_edit(recipe.model.family):
        sides = {"edit before": f.model, "edit after": f.trained}
        edits = tuple(score_edits.named(name)(model, f.scorer, recipe.edits) for name, model in sides.items())
    return report(
        f.model,
        f.before,
        after,
        f.trained,
        f.shards,
        f.gates,
        f.scorer,
        recipe.training,
        recipe.evaluation,
        recipe.name,
        edits,
    )


if __name__ == "__main__":
    sys.exit(main(reca, RECIPES, "tiny_showo", execution=ExecutionConfig(), check=check))
