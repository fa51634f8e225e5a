"""Scenes that satisfy a prompt and scenes that just miss it, with the rules themselves as the arbiter."""

from collections.abc import Callable

import numpy as np

from reca.data.scenes import CELL, CLASSES, COLORS, MAX_OBJECTS, SPRITE, Scene, SceneObject, place
from reca.evaluation.geneval import Detection, Prompt, judge

Wanted = list[tuple[str, str | None]]
"""Class and colour (None: any) of the objects of a scene."""


def true_detections(scene: Scene) -> list[Detection]:
    """What a perfect detector reports: score 1, the sprite's square, the true colour."""
    margin = (CELL - SPRITE) // 2
    return [
        Detection(o.name, (o.x + margin, o.y + margin, o.x + CELL - margin, o.y + CELL - margin), 1.0, o.color)
        for o in scene.objects
    ]


def satisfying(prompt: Prompt, rng: np.random.Generator, extras: bool = True) -> Scene:
    """A scene that the rules accept for the prompt.

    Args:
        prompt: a MiniGenEval prompt.
        rng: source of randomness.
        extras: with probability 1/2 add one object of a class that was not asked for, where it fits.
    """
    return _search(prompt, rng, _asked(prompt), extras, verdict=True)


def near_miss(prompt: Prompt, rng: np.random.Generator) -> Scene:
    """A scene that the rules refuse, one change away from an accepted one.

    One object swapped for another class (single, two), count +-1 (counting; 4 only loses one, 5 do not fit), colour
    changed (colors), colours swapped (color_attr), another relation (position).
    """
    asked = _asked(prompt)
    change: dict[str, Callable[[], Wanted]] = {
        "single_object": lambda: _other_class(asked, rng),
        "two_object": lambda: _other_class(asked, rng),
        "counting": lambda: _other_count(asked, rng),
        "colors": lambda: [(asked[0][0], _other(COLORS, (str(asked[0][1]),), rng))],
        "position": lambda: asked,
        "color_attr": lambda: [(asked[0][0], asked[1][1]), (asked[1][0], asked[0][1])],
    }
    return _search(prompt, rng, change[prompt.tag](), extras=prompt.tag not in ("counting", "position"), verdict=False)


def _search(prompt: Prompt, rng: np.random.Generator, wanted: Wanted, extras: bool, verdict: bool) -> Scene:
    """Place the wanted objects until the rules give the wanted verdict (at once, except for relations)."""
    while True:
        content = list(wanted)
        if extras and len(content) < MAX_OBJECTS and rng.random() < 0.5:
            asked = tuple(entry.name for entry in prompt.include)
            content.append((_other(CLASSES, asked, rng), None))
        spots = place(len(content), rng)
        chosen = [content[i] for i in rng.permutation(len(content))]
        colors = [color or COLORS[rng.integers(len(COLORS))] for _, color in chosen]
        objects = zip(chosen, colors, spots, strict=True)
        scene = Scene(tuple(SceneObject(name, color, x, y) for (name, _), color, (x, y) in objects))
        if judge(prompt, true_detections(scene)).correct == verdict:
            return scene


def _asked(prompt: Prompt) -> Wanted:
    return [(entry.name, entry.color) for entry in prompt.include for _ in range(entry.count)]


def _other_class(asked: Wanted, rng: np.random.Generator) -> Wanted:
    index = int(rng.integers(len(asked)))
    names = tuple(name for name, _ in asked)
    return [(_other(CLASSES, names, rng), None) if i == index else item for i, item in enumerate(asked)]


def _other_count(asked: Wanted, rng: np.random.Generator) -> Wanted:
    more = len(asked) < MAX_OBJECTS and rng.random() < 0.5
    return [*asked, asked[0]] if more else asked[1:]


def _other(words: tuple[str, ...], taken: tuple[str, ...], rng: np.random.Generator) -> str:
    free = [word for word in words if word not in taken]
    return free[int(rng.integers(len(free)))]
