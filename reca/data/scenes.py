"""Seeded scenes of one to four recoloured emoji on a plain ground, with sparse captions and dense questions.

This is a *board world*, and every score that comes from it must say so: sprites are 28 px inside 32 px cells, cells
lie on a 16 px lattice of a 64 px canvas and never overlap. That keeps the number of distinct 16 px patches near 512,
small enough for a tokenizer that trains in minutes on two cores.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reca.data.twemoji import CLASSES as CLASS_FILES
from reca.data.twemoji import COLORS as COLOR_VALUES
from reca.data.twemoji import plural, sprite

CANVAS = 64
CELL = 32
LATTICE = 16
SPRITE = 28
MAX_OBJECTS = 4
CLASSES: tuple[str, ...] = tuple(CLASS_FILES)
COLORS: tuple[str, ...] = tuple(COLOR_VALUES)
BACKGROUND = (226, 221, 210)
NUMBERS = ("zero", "one", "two", "three", "four")
COLUMNS = ("left", "center", "right")
ROWS = ("top", "middle", "bottom")
RELATIONS = ("left of", "right of", "above", "below")
QUESTION_KINDS = ("presence", "count", "color", "place", "relation", "list")


@dataclass(frozen=True)
class SceneObject:
    """One sprite.

    Attributes:
        name: class word.
        color: colour word.
        x: left edge of the 32 px cell, pixels.
        y: top edge of the 32 px cell, pixels.
    """

    name: str
    color: str
    x: int
    y: int

    @property
    def place(self) -> str:
        """Place in words, such as `top left`."""
        return f"{ROWS[min(self.y // LATTICE, 2)]} {COLUMNS[min(self.x // LATTICE, 2)]}"


@dataclass(frozen=True)
class Scene:
    """A picture in words.

    Attributes:
        objects: 1 to 4, in raster order of their cells, on the plain ground.
    """

    objects: tuple[SceneObject, ...]


def place(count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Lattice positions of `count` cells that do not overlap, in raster order.

    Args:
        count: 1 to 4.
        rng: source of randomness; rejection sampling draws a varying number of values from it.

    Returns:
        (x, y) of each cell's top left corner, pixels.
    """
    steps = (CANVAS - CELL) // LATTICE + 1
    while True:
        chosen: list[tuple[int, int]] = []
        for cell in rng.permutation(steps * steps):
            y, x = divmod(int(cell), steps)
            spot = (x * LATTICE, y * LATTICE)
            if all(abs(spot[0] - a) >= CELL or abs(spot[1] - b) >= CELL for a, b in chosen):
                chosen.append(spot)
            if len(chosen) == count:
                return sorted(chosen, key=lambda p: (p[1], p[0]))


def sample_scene(rng: np.random.Generator, count: int | None = None) -> Scene:
    """A random scene: 1 to 4 objects (uniform unless `count` is given), classes and colours independent and uniform.

    With probability 0.3 the objects of a scene of two or more share one class, so that counting has pictures to learn
    from.
    """
    count = int(rng.integers(1, MAX_OBJECTS + 1)) if count is None else count
    spots = place(count, rng)
    shared = rng.random() < 0.3
    first = CLASSES[rng.integers(len(CLASSES))]
    objects = tuple(
        SceneObject(
            name=first if shared else CLASSES[rng.integers(len(CLASSES))],
            color=COLORS[rng.integers(len(COLORS))],
            x=x,
            y=y,
        )
        for x, y in spots
    )
    return Scene(objects)


def render(scene: Scene) -> NDArray[np.uint8]:
    """Compose a scene. Returns uint8 [64, 64, 3], RGB."""
    canvas = np.empty((CANVAS, CANVAS, 3), dtype=np.float32)
    canvas[:] = BACKGROUND
    margin = (CELL - SPRITE) // 2
    for item in scene.objects:
        picture = sprite(item.name, item.color, SPRITE)
        window = canvas[item.y + margin : item.y + margin + SPRITE, item.x + margin : item.x + margin + SPRITE]
        alpha = picture[..., 3:]
        window[:] = window * (1 - alpha) + picture[..., :3] * alpha
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def relation(first: SceneObject, second: SceneObject) -> str | None:
    """The relation word that holds from `first` to `second` by GenEval's rule, or None on a diagonal.

    GenEval shrinks the centre offset by 0.1 of the summed sizes and asks for more than half of the offset's norm along
    an axis; two relations may hold on a diagonal, which a caption could not tell apart, so those pairs give None.
    """
    dx, dy = first.x - second.x, first.y - second.y
    if abs(dx) >= 2 * abs(dy):
        return RELATIONS[0] if dx < 0 else RELATIONS[1]
    if abs(dy) >= 2 * abs(dx):
        return RELATIONS[2] if dy < 0 else RELATIONS[3]
    return None


def count_of(scene: Scene, name: str) -> int:
    """Number of objects of one class in a scene."""
    return sum(item.name == name for item in scene.objects)


@dataclass(frozen=True)
class CaptionRates:
    """How much a sparse caption keeps, as probabilities.

    Attributes:
        color: the colour of the named object is stated.
        count: the number of objects of the class is stated.
        relation: the relation to a second object is stated.
        second: a second class is named.
        place: the place of the named object is stated, where no second class is named.
    """

    color: float = 0.15
    count: float = 0.2
    relation: float = 0.1
    second: float = 0.1
    place: float = 0.1


def sparse_caption(scene: Scene, rng: np.random.Generator, rates: CaptionRates | None = None) -> str:
    """A caption of the kind alt texts have: one randomly chosen object, most else left out. Never wrong, rarely
    complete.

    Args:
        scene: what is captioned.
        rng: source of randomness.
        rates: what is kept; None takes the defaults.
    """
    rates = rates or CaptionRates()
    item = scene.objects[rng.integers(len(scene.objects))]
    keep_color, keep_count, keep_relation, keep_second, keep_place = rng.random(5) < (
        rates.color,
        rates.count,
        rates.relation,
        rates.second,
        rates.place,
    )
    number = count_of(scene, item.name)
    if keep_count and number > 1:
        return f"{NUMBERS[number]} {plural(item.name)}"
    text = f"a {item.color} {item.name}" if keep_color else f"a {item.name}"
    others = [other for other in scene.objects if other.name != item.name]
    if others and (keep_relation or keep_second):
        other = others[rng.integers(len(others))]
        word = relation(item, other) if keep_relation else "and"
        if word is not None:
            return f"{text} {word} a {other.name}"
    return f"{text} {item.place}" if keep_place else text


def dense_caption(scene: Scene) -> str:
    """Every object with colour and place, in raster order."""
    return " and ".join(f"a {item.color} {item.name} {item.place}" for item in scene.objects)


def question(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """One question about a scene and its answer, the kind drawn uniformly: presence, count, colour, place, relation,
    list."""
    kind = QUESTION_KINDS[rng.integers(len(QUESTION_KINDS))]
    return ask(scene, kind, rng)


def ask(scene: Scene, kind: str, rng: np.random.Generator) -> tuple[str, str]:
    """A question of one kind and its answer.

    Colour, place and relation questions need objects whose class is unique in the scene; without one the question
    falls back to a count, which every scene can answer.

    Args:
        scene: what is asked about.
        kind: one of `QUESTION_KINDS`.
        rng: source of randomness.
    """
    unique = [item for item in scene.objects if count_of(scene, item.name) == 1]
    if kind == "presence":
        absent = [name for name in CLASSES if count_of(scene, name) == 0]
        if rng.random() < 0.5:
            return f"is there a {absent[rng.integers(len(absent))]} ?", "no"
        return f"is there a {scene.objects[rng.integers(len(scene.objects))].name} ?", "yes"
    if kind == "list":
        return "what is in the picture ?", dense_caption(scene)
    if kind == "color" and unique:
        item = unique[rng.integers(len(unique))]
        return f"what color is the {item.name} ?", item.color
    if kind == "place" and unique:
        item = unique[rng.integers(len(unique))]
        return f"where is the {item.name} ?", item.place
    if kind == "relation" and len(unique) > 1:
        first, second = rng.permutation(len(unique))[:2]
        word = relation(unique[first], unique[second])
        if word is not None:
            return f"where is the {unique[first].name} from the {unique[second].name} ?", word
    item = scene.objects[rng.integers(len(scene.objects))]
    return f"how many {plural(item.name)} are there ?", NUMBERS[count_of(scene, item.name)]


def vocabulary() -> tuple[str, ...]:
    """Every word that captions, questions, answers and prompts of this world can hold, sorted."""
    words = set(CLASSES) | {plural(name) for name in CLASSES} | set(COLORS) | set(NUMBERS) | set(ROWS) | set(COLUMNS)
    phrases = "a and the is there yes no what color where from how many are in picture left right of above below ?"
    return tuple(sorted(words | set(phrases.split())))
