"""Semantic reconstruction of held-out pictures: are the objects, their colours and their places still there?

A model redraws each picture from its understanding embeddings and a template prompt; the MiniGenEval scorer reads the
result, which is compared with the true scene. Chance is measured, not assumed: the same reconstructions against the
next picture's scene, which also charges overfilled pictures. Pictures are drawn without guidance: their condition says
everything, and guidance against an empty caption pulls away from it (after RecA on a tiny Show-o .82 of the classes
came back without, .62 with guidance 2; before RecA .38 and .67).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np
from torch import Tensor

from reca.config import EvaluationConfig
from reca.data.scenes import CELL, LATTICE, Scene, SceneObject, render
from reca.evaluation.geneval import Detection
from reca.evaluation.minigeneval.prompts import image_seed
from reca.evaluation.minigeneval.scorer import OPTIONS, Scorer, objects_per_picture
from reca.evaluation.pictures import fitted
from reca.evaluation.refusals import after_encoding, drawn
from reca.evaluation.statistics import OVERALL, Estimate, estimates
from reca.evaluation.understanding import held_out_scenes
from reca.models.base import UnifiedModel
from reca.objectives import template_for

PLACE_TOLERANCE = LATTICE / 2
"""Pixels, on each axis: nearer to its place than to the next one on the lattice."""

MEASURES = ("class", "color", "place")
"""Class: the object's class is drawn (as often as it occurs). Color: class and colour. Place: class, at its place."""


class Redrawn(msgspec.Struct, frozen=True):
    """One reconstruction.

    Attributes:
        index: number of the held-out picture.
        template: the prompt.
        seed: seed of the noise.
        expected: true objects: class, colour, left and top edge of the cell.
        detections: what the scorer saw, best first.
        recall: share of the true objects by measure, 0 to 1.
        chance: the same against the next picture's objects.
        error: mean squared pixel error, 0 to 255 squared; None where refused.
        refused: why the model refused, because its numbers were not finite: recall and chance are 0 then.
    """

    index: int
    template: str
    seed: int
    expected: tuple[tuple[str, str, int, int], ...]
    detections: tuple[Detection, ...]
    recall: dict[str, float]
    chance: dict[str, float]
    error: float | None
    refused: str | None = None


class ReconstructionResult(msgspec.Struct, frozen=True):
    """How well pictures survive the round trip through understanding.

    Attributes:
        recall: by measure, mean over pictures of the share of their objects that came back, with 95 % intervals.
        chance: the same against another picture's objects.
        psnr: of the mean squared error over all pictures that were drawn, dB.
        objects_per_picture: detected objects per reconstruction that was drawn (2.5 in true scenes).
        pictures: one per picture.
        refused: pictures that the model refused.
    """

    recall: dict[str, Estimate]
    chance: dict[str, Estimate]
    psnr: float
    objects_per_picture: float
    pictures: tuple[Redrawn, ...]
    refused: int = 0


def reconstruction(
    model: UnifiedModel, config: EvaluationConfig, batch_size: int = 50
) -> tuple[ReconstructionResult, Tensor, Tensor]:
    """Let a model redraw the held-out pictures.

    Args:
        model: any family; it is put into evaluation mode.
        config: number of pictures, noise seed, sampler settings (without their guidance), scorer folder, resamples.
        batch_size: pictures drawn at once.

    Returns:
        The result, the originals and the reconstructions, both uint8 [N, 3, S, S]; black where the model refused.

    Raises:
        AllRefusedError: the model refused all pictures.
    """
    scenes = held_out_scenes(config.reconstructions)
    seeds = [image_seed(config.seed, "reconstruction", str(index)) for index in range(len(scenes))]
    prompts = [template_for(seed) for seed in seeds]
    originals = fitted([render(scene) for scene in scenes], model.geometry.size)
    device = next(model.parameters()).device
    model.eval()
    sampling = replace(config.sampling, guidance=0.0)

    def redrawn(part: slice) -> Tensor:
        return after_encoding(
            lambda: model.encode(originals[part].to(device)),
            lambda encoded: model.reconstruct(encoded, prompts[part], seeds[part], sampling),
        )

    images, refused = drawn(redrawn, len(scenes), batch_size, "reconstructions")
    found = Scorer.load(config.scorer).detect(images)
    errors = (originals.float() - images.float()).square().mean(dim=(1, 2, 3)).tolist()
    pictures = [
        _redrawn(index, prompts[index], seeds[index], scene, scenes[(index + 1) % len(scenes)], found[index], error)
        for index, (scene, error) in enumerate(zip(scenes, errors, strict=True))
    ]
    nothing = dict.fromkeys(MEASURES, 0.0)
    for index, why in refused.items():
        blank = {"detections": (), "recall": nothing, "chance": nothing, "error": None, "refused": why}
        pictures[index] = msgspec.structs.replace(pictures[index], **blank)
    return summarize(pictures, config.bootstrap), originals, images


def summarize(pictures: Sequence[Redrawn], resamples: int) -> ReconstructionResult:
    """Totals and intervals from the records alone."""
    shown = [p for p in pictures if p.refused is None]
    errors = [p.error for p in shown if p.error is not None]
    error = max(float(np.mean(errors)), 1e-3)  # 1e-3: a perfect copy reads 78 dB, not infinity.
    return ReconstructionResult(
        recall=_means([p.recall for p in pictures], resamples),
        chance=_means([p.chance for p in pictures], resamples),
        psnr=float(10 * np.log10(255**2 / error)),
        objects_per_picture=objects_per_picture([p.detections for p in shown]),
        pictures=tuple(pictures),
        refused=len(pictures) - len(shown),
    )


def recall(scene: Scene, found: Sequence[Detection]) -> dict[str, float]:
    """Share of a scene's objects that detections above the threshold confirm, by measure."""
    seen = [d for d in found if d.score > OPTIONS.threshold]
    names = Counter(o.name for o in scene.objects)
    colored = Counter(f"{o.color} {o.name}" for o in scene.objects)
    hits = {
        "class": (names & Counter(d.name for d in seen)).total(),
        "color": (colored & Counter(f"{d.color} {d.name}" for d in seen)).total(),
        "place": sum(any(at_place(o, d) for d in seen) for o in scene.objects),
    }
    return {measure: hits[measure] / len(scene.objects) for measure in MEASURES}


def at_place(item: SceneObject, seen: Detection) -> bool:
    """Whether a detection is of the object's class and nearer to its place than to the next one on the lattice."""
    x, y = (seen.box[0] + seen.box[2]) / 2, (seen.box[1] + seen.box[3]) / 2
    distance = max(abs(x - item.x - CELL / 2), abs(y - item.y - CELL / 2))
    return seen.name == item.name and distance < PLACE_TOLERANCE


def _redrawn(
    index: int, template: str, seed: int, scene: Scene, other: Scene, found: Sequence[Detection], error: float
) -> Redrawn:
    expected = tuple((o.name, o.color, o.x, o.y) for o in scene.objects)
    return Redrawn(index, template, seed, expected, tuple(found), recall(scene, found), recall(other, found), error)


def _means(rows: Sequence[dict[str, float]], resamples: int) -> dict[str, Estimate]:
    table = estimates({measure: [row[measure] for row in rows] for measure in MEASURES}, resamples)
    del table[OVERALL]
    return table
