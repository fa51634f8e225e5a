"""The card that ships beside a base."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from reca.evaluation.suite import Evaluation
from reca.pretraining.config import PretrainRecipe


def model_card(
    recipe: PretrainRecipe,
    scores: Evaluation,
    gates: Sequence[tuple[str, float, float]],
    psnr: float,
    seconds: Mapping[str, float],
    environment: Mapping[str, Any],
) -> str:
    """Markdown: what the base is, its recipe and seeds, wall time and machine, scores and gates.

    Args:
        recipe: the whole recipe.
        scores: of the finished base.
        gates: name, value, limit.
        psnr: tokenizer's PSNR in dB.
        seconds: wall time by stage.
        environment: versions and processor.
    """
    tasks = [(name, estimate.value) for name, estimate in scores.minigeneval.scores.items()]
    sampling = recipe.evaluation.sampling
    lines = [
        f"# {recipe.name}: a tiny Show-o base",
        "",
        "The real Show-o architecture (Phi with query/key norm, CLIP vision tower, MAGVITv2) at toy size, trained on",
        "composed emoji scenes: 64 px, 1 to 4 recoloured sprites on a 16 px lattice (a board world). It was",
        "taught to draw from sparse captions, also when these are spelled out where a picture's understanding tokens",
        "stand, and to answer dense questions. Its understanding tokens were given word labels that spell the objects",
        "(colour, class, row, column), a stand-in for CLIP's training: they are close to a dense caption that the",
        "tower writes. Weights are bfloat16.",
        "",
        "Emoji graphics (c) Twitter, Inc and other contributors, CC-BY 4.0, resized and recoloured.",
        "",
        f"Made by `python pipelines/pretrain.py run --recipe {recipe.name}`.",
        "",
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
