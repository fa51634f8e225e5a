"""MiniGenEval prompts: six tasks, validation and test splits, in GenEval's record format and the captions' grammar.

The texts of each task are shuffled once and cut into 11/16 test and 5/16 validation texts, so the splits share no text,
with one exception: `single_object` has 16 texts in all, which both splits use. Where a split asks for more prompts than
it has texts, texts repeat in order and the noise differs (test texts: 16, 165, 33, 88, 660, 9,240).
"""

from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from itertools import permutations, product
from typing import Literal

import numpy as np

from reca.data.scenes import CLASSES, COLORS, MAX_OBJECTS, NUMBERS, RELATIONS
from reca.data.twemoji import plural
from reca.evaluation.geneval import TASKS, Prompt, Requirement

Split = Literal["validation", "test"]

BENCHMARK = "minigeneval/1"
"""Name and edition; enters every seed. A change of prompts, thresholds or rules asks for a new edition."""


def prompts(split: Split, per_task: int) -> list[Prompt]:
    """The first `per_task` prompts of each task, task by task in GenEval's order."""
    chosen: list[Prompt] = []
    for task in TASKS:
        pool = texts(task, split)
        chosen += [pool[i % len(pool)] for i in range(per_task)]
    return chosen


@cache
def texts(task: str, split: Split) -> tuple[Prompt, ...]:
    """All distinct prompts of one task and split, in their fixed order."""
    groups = _groups(task)
    order = np.random.default_rng(_number(f"{BENCHMARK}/order/{task}")).permutation(len(groups))
    if task == "single_object":
        cut = order
    else:
        border = len(groups) * 11 // 16
        cut = order[:border] if split == "test" else order[border:]
    return tuple(prompt for index in cut for prompt in groups[index])


def item_names(chosen: Sequence[Prompt]) -> list[str]:
    """A name for each prompt, `task/number within the task`: what its noise is keyed by."""
    seen: dict[str, int] = {}
    names: list[str] = []
    for prompt in chosen:
        number = seen.setdefault(prompt.tag, 0)
        names.append(f"{prompt.tag}/{number:04d}")
        seen[prompt.tag] = number + 1
    return names


def image_seed(seed: int, split: str, item: str) -> int:
    """Seed of one picture's noise: a function of these three, never of the batch or the worker.

    Args:
        seed: of the evaluation.
        split: of the prompts, or another set of pictures.
        item: name of the picture in it.

    Returns:
        63 bits.
    """
    # The 0 is the number of the picture: edition 1 has one for each prompt.
    return _number(f"{BENCHMARK}/{seed}/{split}/{item}/0")


def _groups(task: str) -> list[list[Prompt]]:
    """All prompts of a task; a group stays on one side of the split (counting: the three numbers of one class)."""
    if task == "single_object":
        return [[Prompt(task, f"a {a}", (Requirement(a, 1),))] for a in CLASSES]
    if task == "two_object":
        pairs = permutations(CLASSES, 2)
        return [[Prompt(task, f"a {a} and a {b}", (Requirement(a, 1), Requirement(b, 1)))] for a, b in pairs]
    if task == "counting":
        return [[_counting(a, number) for number in range(2, MAX_OBJECTS + 1)] for a in CLASSES]
    if task == "colors":
        return [[Prompt(task, f"a {c} {a}", (Requirement(a, 1, color=c),))] for a, c in product(CLASSES, COLORS)]
    if task == "position":
        cases = product(permutations(CLASSES, 2), RELATIONS)
        return [[_position(a, word, b)] for (a, b), word in cases]
    cases = product(permutations(CLASSES, 2), permutations(COLORS, 2))
    return [
        [Prompt(task, f"a {c} {a} and a {d} {b}", (Requirement(a, 1, color=c), Requirement(b, 1, color=d)))]
        for (a, b), (c, d) in cases
    ]


def _counting(name: str, number: int) -> Prompt:
    text = f"{NUMBERS[number]} {plural(name)}"
    return Prompt("counting", text, (Requirement(name, number),), (Requirement(name, number + 1),))


def _position(name: str, word: str, target: str) -> Prompt:
    wanted = (Requirement(target, 1), Requirement(name, 1, position=(word, 0)))
    return Prompt("position", f"a {name} {word} a {target}", wanted)


def _number(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
