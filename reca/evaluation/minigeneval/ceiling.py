"""What the scorer itself can and cannot do, measured on held-out scenes before any model is scored."""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import torch
from torch import Tensor

from reca.data.scenes import Scene, render
from reca.data.sets import generator
from reca.evaluation.geneval import TASKS, Prompt, judge
from reca.evaluation.minigeneval.pictures import JUNK, Pool, blur, jpeg, noise, shrink, stack
from reca.evaluation.minigeneval.prompts import prompts
from reca.evaluation.minigeneval.scorer import OPTIONS, Scorer
from reca.evaluation.minigeneval.worlds import near_miss, satisfying

Damage = Callable[[Tensor], Tensor]
"""float32 [B, 3, 64, 64] in 0 to 255 to the same."""

JUNK_LIMIT = 0.01
"""Largest share of junk pictures that may pass in any task."""


class Ceiling(msgspec.Struct, frozen=True):
    """Measured limits of a scorer.

    Attributes:
        accept: condition -> task -> share of scenes that satisfy the prompt and are passed.
        reject: condition -> task -> share of near misses that are refused.
        junk: junk kind -> task -> share of object-free pictures that are passed.
        scenes: scenes per condition, task and side.
        junk_pictures: junk pictures of each kind.
    """

    accept: dict[str, dict[str, float]]
    reject: dict[str, dict[str, float]]
    junk: dict[str, dict[str, float]]
    scenes: int
    junk_pictures: int

    @property
    def junk_passed(self) -> dict[str, float]:
        """Share of junk passed in each task, mean over the kinds: what the gate looks at."""
        return {task: float(np.mean([row[task] for row in self.junk.values()])) for task in TASKS}

    @property
    def junk_gate(self) -> bool:
        """Whether less than 1 % of junk passes in every task."""
        return max(self.junk_passed.values()) < JUNK_LIMIT


def standard_damage() -> dict[str, Damage]:
    """What every ceiling reports: clean, blur (1.2 px), half and third resolution, noise (sd 0.1), JPEG (q 25)."""
    return {
        "clean": lambda x: x,
        "blur": lambda x: blur(x, 1.2),
        "half resolution": lambda x: shrink(x, 2.0),
        "third resolution": lambda x: shrink(x, 3.0),
        "noise": lambda x: noise(x, 25.5, generator("ceiling/noise", 0, len(x))),
        "jpeg": lambda x: jpeg(x, 25),
    }


def ceiling(scorer: Scorer, scenes: int = 100, junk: int = 400) -> Ceiling:
    """Measure a scorer.

    Args:
        scorer: the scorer.
        scenes: accepted scenes and near misses for each task and condition.
        junk: pictures of each junk kind, each judged against one prompt of every task.
    """
    chosen = prompts("test", scenes)
    kept = [satisfying(p, generator("ceiling/accept", 0, i)) for i, p in enumerate(chosen)]
    missed = [near_miss(p, generator("ceiling/reject", 0, i)) for i, p in enumerate(chosen)]
    conditions = standard_damage()
    accept = {name: _passed(scorer, chosen, kept, damage) for name, damage in conditions.items()}
    passed = {name: _passed(scorer, chosen, missed, damage) for name, damage in conditions.items()}
    reject = {name: {task: 1 - share for task, share in row.items()} for name, row in passed.items()}
    return Ceiling(accept, reject, junk_passed(scorer, junk), scenes, junk)


def junk_passed(scorer: Scorer, pictures: int) -> dict[str, dict[str, float]]:
    """Share of object-free pictures that pass, by kind and task. Each picture meets one prompt of every task."""
    pool, table = Pool.load(), {}
    asked = [prompts("test", pictures)[start : start + pictures] for start in range(0, pictures * len(TASKS), pictures)]
    for kind, make in JUNK.items():
        drawn = stack([make(generator(f"ceiling/junk/{kind}", 0, i), pool) for i in range(pictures)])
        found = scorer.detect(_to_bytes(drawn))
        verdicts = ([judge(p, f, OPTIONS).correct for p, f in zip(row, found, strict=True)] for row in asked)
        table[kind] = {task: float(np.mean(row)) for task, row in zip(TASKS, verdicts, strict=True)}
    return table


def _passed(scorer: Scorer, chosen: Sequence[Prompt], scenes: Sequence[Scene], damage: Damage) -> dict[str, float]:
    pixels = torch.from_numpy(np.stack([render(scene) for scene in scenes])).permute(0, 3, 1, 2).float()
    found = scorer.detect(_to_bytes(damage(pixels)))
    verdicts = [(p.tag, judge(p, f, OPTIONS).correct) for p, f in zip(chosen, found, strict=True)]
    return {task: float(np.mean([ok for tag, ok in verdicts if tag == task])) for task in TASKS}


def _to_bytes(pixels: Tensor) -> Tensor:
    return pixels.round().clamp(0, 255).byte()
