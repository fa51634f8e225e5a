"""Edits of the built-in picture world: a scene, an instruction, and the scene that carries it out.

Three kinds: an object gets another colour (`make the dog red`), is taken away (`remove the dog`), or becomes an object
of another class in the same colour (`replace the dog by a cat`). The object's class is unique in its scene, so every
instruction has one meaning. All other objects stay as they are.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from reca.data.scenes import CLASSES, COLORS, Scene, SceneObject, count_of, sample_scene
from reca.data.sets import generator

Kind = Literal["color", "remove", "replace"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WORDS = ("make", "remove", "replace", "by")
"""Words of instructions that no caption or question has."""


@dataclass(frozen=True)
class Edit:
    """One edit.

    Attributes:
        kind: what is done.
        source: the scene before.
        instruction: what is asked for.
        target: the scene after.
        changed: the object it is done to, as it is before.
        wanted: the same object afterwards; None when it is removed.
    """

    kind: Kind
    source: Scene
    instruction: str
    target: Scene
    changed: SceneObject
    wanted: SceneObject | None


def edit_at(stream: str, seed: int, index: int) -> Edit:
    """Edit of one row.

    Args:
        stream: name of the set; in use are `edits` (training) and `held-out-edits`.
        seed: of the set.
        index: row number.

    Returns:
        A function of these three; the three kinds are equally likely.
    """
    rng = generator(f"edit/{stream}", seed, index)
    kind: Kind = KINDS[rng.integers(len(KINDS))]
    while True:
        scene = sample_scene(rng)
        unique = [item for item in scene.objects if count_of(scene, item.name) == 1]
        if unique and not (kind == "remove" and len(scene.objects) == 1):
            return _edit(kind, scene, unique[rng.integers(len(unique))], rng)


def _edit(kind: Kind, scene: Scene, item: SceneObject, rng: np.random.Generator) -> Edit:
    if kind == "remove":
        instruction, wanted = f"remove the {item.name}", None
    elif kind == "color":
        wanted = replace(item, color=_other(COLORS, {item.color}, rng))
        instruction = f"make the {item.name} {wanted.color}"
    else:
        wanted = replace(item, name=_other(CLASSES, {each.name for each in scene.objects}, rng))
        instruction = f"replace the {item.name} by a {wanted.name}"
    after = [wanted if each is item else each for each in scene.objects]
    target = Scene(tuple(each for each in after if each is not None))
    return Edit(kind, scene, instruction, target, item, wanted)


def _other(words: tuple[str, ...], used: set[str], rng: np.random.Generator) -> str:
    free = [word for word in words if word not in used]
    return free[rng.integers(len(free))]
