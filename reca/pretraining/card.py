"""The card that ships beside a base."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from reca.evaluation.suite import Evaluation
from reca.pretraining.config import PretrainRecipe

READ_WITH = "## Read with its scores"
"""Heading of the list that every report on a base repeats."""

NOTES = (
    "The base's understanding tokens were pre-trained to spell the objects (colour, class, row, column), a stand-in "
    "for the training of a published vision tower. Reconstruction from them is close to training on dense captions "
    "that the tower writes itself.",
)


def card_notes(card: str) -> tuple[str, ...]:
    """Items of the list under `READ_WITH` in a model card; none where the card has no such section."""
    _, _, after = card.partition(f"\n{READ_WITH}\n")
    items = after.strip().split("\n\n", 1)[0].removeprefix("- ").split("\n- ")
    return tuple(" ".join(item.split()) for item in items if item.strip())


def model_card(
    recipe: PretrainRecipe,
    about: str,
    scores: Evaluation,
    gates: Sequence[tuple[str, float, float]],
    psnr: float,
    seconds: Mapping[str, float],
    environment: Mapping[str, Any],
) -> str:
    """Markdown: what the base is, its recipe and seeds, wall time and machine, scores and gates.

    The section `READ_WITH` goes into every report on the base (`card_notes`).

    Args:
        recipe: the whole recipe.
        about: one sentence on the architecture, without a full stop.
        scores: of the finished base.
        gates: name, value, limit.
        psnr: tokenizer's PSNR in dB.
        seconds: wall time by stage.
        environment: versions and processor.
    """
    lines = [
        f"# {recipe.name}: a tiny base",
        "",
        f"{about}.",
        "Trained on composed emoji scenes: 64 px, 1 to 4 recoloured sprites on a 16 px lattice (a board world). It was",
        "taught to draw from sparse captions, also when these are spelled out where a picture's understanding tokens",
        "stand, and to answer dense questions. Weights are bfloat16.",
        "",
        READ_WITH,
        "",
        *(f"- {note}" for note in NOTES),
        "",
        "Emoji graphics (c) Twitter, Inc and other contributors, CC-BY 4.0, resized and recoloured.",
        "",
        f"Made by `python pipelines/pretrain.py run --recipe {recipe.name}`.",
        "",
        *_score_lines(recipe, scores, gates, psnr),
        "## Recipe",
        "",
        "```json",
        msgspec.json.format(msgspec.json.encode(recipe), indent=1).decode(),
        "```",
        "",
        "## Cost and machine",
        "",
        *(f"- {name}: {value:.0f} s wall" for name, value in seconds.items()),
        *(f"- {name}: {value}" for name, value in environment.items()),
        "",
    ]
    return "\n".join(lines)


def _score_lines(
    recipe: PretrainRecipe, scores: Evaluation, gates: Sequence[tuple[str, float, float]], psnr: float
) -> list[str]:
    """The card's section on scores and gates, with the empty line behind it."""
    tasks = [(name, estimate.value) for name, estimate in scores.minigeneval.scores.items()]
    sampling = recipe.evaluation.sampling
    return [
        "## Scores",
        "",
        f"MiniGenEval (not GenEval), {recipe.evaluation.prompts_per_task} prompts per task, "
        f"guidance {sampling.guidance:g}, {sampling.steps} steps, temperature {sampling.temperature:g}:",
        "",
        "| " + " | ".join(name for name, _ in tasks) + " | objects per picture |",
        "| " + " | ".join("---" for _ in tasks) + " | --- |",
        "| " + " | ".join(f"{value:.3f}" for _, value in tasks) + f" | {scores.minigeneval.objects_per_picture:.2f} |",
        "",
        f"Understanding accuracy {scores.understanding.accuracy.value:.3f}. Zero-shot reconstruction: "
        + ", ".join(f"{name} {estimate.value:.3f}" for name, estimate in scores.reconstruction.recall.items())
        + f". Tokenizer PSNR {psnr:.1f} dB.",
        "",
        "| gate | value | limit |",
        "| --- | --- | --- |",
        *(f"| {name} | {value:.3f} | {limit:.3f} |" for name, value, limit in gates),
        "",
    ]
