"""Make a tiny base: image tokenizer, vision tower, understanding and sparse-caption text-to-image on emoji scenes.

Run once per base; the result ships in `checkpoints/`. Takes about half an hour on one core and continues after a kill.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    # As in pipelines/reca.py: the repository root must come first, not this script's folder.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pipelines.artifacts import Checkpoint, Gates, Scores
from pipelines.dsl import Artifact, External, SettingsError, StageContext, main, pipeline, stage
from pipelines.stages import evaluate, gate, load_model
from reca.config import EvaluationConfig, ExecutionConfig, GateConfig, SamplingConfig, out_of_range
from reca.data.scenes import CaptionRates
from reca.pretraining.config import PRETRAIN_RANGES, BaseRecipe, PretrainRecipe, TokenizerRecipe


@dataclass(frozen=True)
class TokenizerWeights(Artifact):
    """A trained image tokenizer, `tokenizer.safetensors`.

    Attributes:
        psnr: dB on held-out scenes, over pixel range 0 to 255.
        codes_used: distinct codes on 256 held-out scenes; 0 where latents are continuous.
        seconds: wall time of training.
    """

    psnr: float
    codes_used: int
    seconds: float


@dataclass(frozen=True)
class Base(Artifact):
    """The base as it ships: bfloat16 weights in the published layout under `model/`, with its card `README.md`.

    Attributes:
        bytes: size of all files.
    """

    bytes: int


@stage(retries=0)
def tokenizer(ctx: StageContext, family: str, recipe: TokenizerRecipe) -> TokenizerWeights:
    """Train the family's image tokenizer."""
    import time

    import torch
    from safetensors.torch import save_file

    from reca.pretraining.family import tiny_family
    from reca.pretraining.state import LoopState
    from reca.pretraining.tokenizer import tokenizer_quality, train_tokenizer

    torch.set_num_threads(1)
    started, tiny = time.monotonic(), tiny_family(family)
    model = train_tokenizer(tiny, recipe, LoopState(ctx.work_uri), ctx.progress)
    seconds = time.monotonic() - started
    save_file(model.state_dict(), ctx.output / "tokenizer.safetensors")
    psnr, codes_used = tokenizer_quality(tiny, model, recipe.seed)
    return TokenizerWeights.of(psnr=psnr, codes_used=codes_used, seconds=seconds)


@stage(retries=0)
def base(ctx: StageContext, family: str, image_tokens: TokenizerWeights, recipe: BaseRecipe) -> Checkpoint:
    """Train everything else around the frozen tokenizer, and store it as bfloat16, the form it ships in."""
    import torch
    from safetensors.torch import load_file

    from reca.pretraining.base import train_base
    from reca.pretraining.family import tiny_family
    from reca.pretraining.state import LoopState

    torch.set_num_threads(1)
    tiny = tiny_family(family)
    frozen = tiny.new_tokenizer()
    frozen.load_state_dict(load_file(image_tokens.local() / "tokenizer.safetensors"))
    model = tiny.build(frozen, recipe.seed)
    train_base(tiny, model, recipe, LoopState(ctx.work_uri), ctx.progress)
    model.save(ctx.output / "model", dtype=torch.bfloat16)
    return Checkpoint.of(
        family=model.family,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trainable=sum(parameter.numel() for parameter in model.trainable().values()),
    )


@stage(retries=0)
def publish(
    ctx: StageContext,
    image_tokens: TokenizerWeights,
    trained: Checkpoint,
    scores: Scores,
    gates: Gates,
    recipe: PretrainRecipe,
) -> Base:
    """Put weights and model card together."""
    import shutil

    from reca.evaluation.suite import load_all
    from reca.pretraining.card import model_card
    from reca.pretraining.family import tiny_family

    shutil.copytree(trained.local() / "model", ctx.output / "model")
    load_model(trained.family, ctx.output / "model")  # what ships must be readable
    costs = {node.name: node.wall_s for node in ctx.run.nodes}
    about = tiny_family(recipe.family).about
    card = model_card(
        recipe, about, load_all(scores.local()), gates.rows, image_tokens.psnr, costs, ctx.run.environment
    )
    (ctx.output / "model" / "README.md").write_text(card, encoding="utf-8")
    return Base.of(bytes=sum(file.stat().st_size for file in ctx.output.rglob("*") if file.is_file()))


@pipeline
def pretrain(recipe: PretrainRecipe) -> Base:
    """Tokenizer, base, scores, gates, model card."""
    image_tokens = tokenizer(recipe.family, recipe.tokenizer)
    trained = base(recipe.family, image_tokens, recipe.base)
    scores = evaluate(trained, External(recipe.evaluation.scorer), recipe.evaluation)
    return publish(image_tokens, trained, scores, gate(scores, recipe.gates), recipe)


def check(recipe: PretrainRecipe, execution: ExecutionConfig) -> None:
    """Refuse numbers that no training can have, before anything starts.

    Raises:
        SettingsError: naming every such field, its value and its interval.
    """
    problems = [*out_of_range(recipe, ranges=PRETRAIN_RANGES), *out_of_range(execution, "--context ")]
    if recipe.base.spelled > recipe.base.batch_size:
        problems.append(f"base.spelled is {recipe.base.spelled}; it must not exceed base.batch_size")
    if problems:
        raise SettingsError("; ".join(problems))


def tiny_showo() -> PretrainRecipe:
    """The shipped base `checkpoints/tiny_showo`.

    Command: `python pipelines/pretrain.py`. Hardware: one CPU core is used at a time. Cost: see the model card.
    Expected scores: see the model card.
    """
    return PretrainRecipe(name="tiny_showo")


def tiny_janus() -> PretrainRecipe:
    """The shipped base `checkpoints/tiny_janus`: Janus-Pro, next-token VQ codes.

    Command: `python pipelines/pretrain.py run --recipe tiny_janus`. Hardware: one CPU core is used at a time. Cost and
    expected scores: see the model card.
    """
    return PretrainRecipe(
        name="tiny_janus",
        family="janus",
        tokenizer=TokenizerRecipe(updates=1000, batch_size=16, commit=0.25, entropy=0.0),
        base=BaseRecipe(updates=6000, rates=CaptionRates(color=0.3)),
        evaluation=EvaluationConfig(
            prompts_per_task=200, sampling=SamplingConfig(guidance=1.0, steps=16, temperature=0.7)
        ),
    )


def tiny_harmon() -> PretrainRecipe:
    """The shipped base `checkpoints/tiny_harmon`: Harmon, masked autoregression over continuous latents.

    Two gates are lower than the default, set after it was scored: single objects .9, understanding .75. Guidance and
    temperature were chosen on validation prompts.

    Command: `python pipelines/pretrain.py run --recipe tiny_harmon`. Hardware: one CPU core is used at a time. Cost and
    expected scores: see the model card.
    """
    return PretrainRecipe(
        name="tiny_harmon",
        family="harmon",
        tokenizer=TokenizerRecipe(updates=3600, batch_size=8, commit=0.0, entropy=0.0, kl=1e-3),
        base=BaseRecipe(
            updates=8000,
            batch_size=32,
            spelled=20,
            scenes=16_000,
            learning_rate=1e-3,
            understand=0.6,
            align=0.3,
            rates=CaptionRates(color=0.3),
        ),
        evaluation=EvaluationConfig(
            prompts_per_task=200, reconstructions=200, sampling=SamplingConfig(guidance=2.0, steps=8, temperature=0.6)
        ),
        gates=GateConfig(single_object=0.9, understanding=0.75),
    )


def tiny_openuni() -> PretrainRecipe:
    """OpenUni, flow matching in Sana asked by learned queries.

    Understanding weighs a tenth of what it does for the other families, which is to say that drawing weighs ten times:
    its gradient reaches the language model through queries and connector only.

    Command: `python pipelines/pretrain.py run --recipe tiny_openuni`. Hardware: one CPU core is used at a time. Cost
    and expected scores: see the model card.
    """
    return PretrainRecipe(
        name="tiny_openuni",
        family="openuni",
        tokenizer=TokenizerRecipe(updates=1500, batch_size=16, commit=0.0, entropy=0.0, kl=1e-3),
        base=BaseRecipe(updates=7000, learning_rate=1e-3, understand=0.2, align=0.1, rates=CaptionRates(color=0.3)),
        evaluation=EvaluationConfig(prompts_per_task=200, sampling=SamplingConfig(guidance=2.0, steps=12)),
    )


def tiny_bagel() -> PretrainRecipe:
    """The shipped base `checkpoints/tiny_bagel`: BAGEL, flow matching in the generation expert. It can also edit.

    Command: `python pipelines/pretrain.py run --recipe tiny_bagel`. Hardware: one CPU core is used at a time. Cost and
    expected scores: see the model card.
    """
    return PretrainRecipe(
        name="tiny_bagel",
        family="bagel",
        tokenizer=TokenizerRecipe(updates=900, batch_size=16, learning_rate=3e-3, commit=0.0, entropy=0.0, kl=1e-4),
        base=BaseRecipe(
            updates=4500, batch_size=32, spelled=20, understand=0.5, align=0.25, rates=CaptionRates(color=0.3)
        ),
        evaluation=EvaluationConfig(prompts_per_task=200, sampling=SamplingConfig(guidance=2.0, steps=16)),
    )


def smoke() -> PretrainRecipe:
    """Check the wiring in a minute; the model it makes can do nothing.

    Command: `python pipelines/pretrain.py run --recipe smoke`. Hardware: one CPU core.
    """
    recipe = tiny_showo()
    return replace(
        recipe,
        name="smoke",
        tokenizer=replace(recipe.tokenizer, updates=4, batch_size=8),
        base=replace(recipe.base, updates=4, batch_size=8, spelled=8, scenes=64),
        evaluation=replace(
            recipe.evaluation, prompts_per_task=2, understanding_questions=8, reconstructions=4, bootstrap=100
        ),
        gates=GateConfig(single_object=0.0, colors=0.0, understanding=0.0, class_recall=0.0),
    )


RECIPES: Mapping[str, Callable[[], PretrainRecipe]] = {
    "tiny_showo": tiny_showo,
    "tiny_janus": tiny_janus,
    "tiny_harmon": tiny_harmon,
    "tiny_openuni": tiny_openuni,
    "tiny_bagel": tiny_bagel,
    "smoke": smoke,
}

if __name__ == "__main__":
    sys.exit(main(pretrain, RECIPES, "tiny_showo", execution=ExecutionConfig(), check=check))
