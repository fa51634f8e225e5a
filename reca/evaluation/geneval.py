"""GenEval's verdict rules (arXiv 2310.11513, `evaluation/evaluate_images.py`) on detections that some detector made.

Pure functions, no model: the same code judges MiniGenEval. Thresholds are strict and compared in float32, as the
official script does on its float32 boxes. One departure: a NaN is refused and counted. Officially a NaN score drops its
box, a NaN box holds no relation, and torch's argmax lets a NaN colour win; `official=True` does so too.
"""

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""The six tasks, in the official order."""

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
"""GenEval's colours, in the order of its classifier's outputs."""

LEAST_OFFSET = 1e-3
"""Pixels: below this on both axes a shrunk offset holds no relation."""

LEAST_DIRECTION = 0.5
"""Share of the unshrunk offset's norm that a relation's axis must exceed."""


class GenEvalError(ValueError):
    """A prompt record or a detection that the rules cannot read."""


class Requirement(msgspec.Struct, frozen=True, omit_defaults=True):
    """One `include` or `exclude` entry of a prompt record.

    Attributes:
        name: class word (`class` in the file).
        count: include: at least this many; exclude: fewer than this many.
        color: colour word that the counted objects must have.
        position: relation word and index of the target entry in `include`.
    """

    name: str = msgspec.field(name="class")
    count: int
    color: str | None = None
    position: tuple[str, int] | None = None


class Prompt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a GenEval prompt file.

    Attributes:
        tag: task, one of `TASKS`.
        prompt: text given to the model.
        include: what must be there.
        exclude: what must not be there.
    """

    tag: str
    prompt: str
    include: tuple[Requirement, ...]
    exclude: tuple[Requirement, ...] = ()


class Detection(msgspec.Struct, frozen=True):
    """One object that a detector saw.

    Attributes:
        name: class word.
        box: x1, y1, x2, y2 in pixels.
        score: confidence, 0 to 1.
        color: colour word; None where no colour could be read.
    """

    name: str
    box: tuple[float, float, float, float]
    score: float
    color: str | None = None


class Options(msgspec.Struct, frozen=True):
    """Thresholds; the defaults are GenEval's.

    Attributes:
        threshold: least score, exclusive.
        counting_threshold: least score for the counting task, exclusive.
        max_objects: most boxes kept in a class, best first.
        max_overlap: same-class boxes with at least this intersection over union are dropped; 1 switches that off.
        position_threshold: share of the summed sizes by which an offset is shrunk.
    """

    threshold: float = 0.3
    counting_threshold: float = 0.9
    max_objects: int = 16
    max_overlap: float = 1.0
    position_threshold: float = 0.1


class Verdict(msgspec.Struct, frozen=True):
    """Decision about one picture.

    Attributes:
        correct: whether everything asked for holds. False when refused.
        reasons: one line for each thing that does not hold, in the official words.
        kept: detections left after threshold, cap and overlap suppression, by class, best first.
        refused: why no decision was possible (a NaN, an unread colour); None when there is one.
    """

    correct: bool
    reasons: tuple[str, ...]
    kept: dict[str, tuple[Detection, ...]]
    refused: str | None = None


def read_prompts(lines: Iterable[str | bytes]) -> dict[int, Prompt]:
    """Parse a prompt file (JSON lines): prompts by line number, from 1; blank lines hold none.

    Raises:
        GenEvalError: naming the line, on malformed JSON, an unknown tag or a position that points to a later entry.
    """
    prompts: dict[int, Prompt] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            prompt = msgspec.json.decode(line, type=Prompt)
        except msgspec.DecodeError as error:
            raise GenEvalError(
                f"prompt line {number} is not a GenEval record: {error}; expected tag, prompt, include"
            ) from error
        if prompt.tag not in TASKS:
            raise GenEvalError(f"prompt line {number}: unknown tag '{prompt.tag}'; known: {', '.join(TASKS)}")
        for index, entry in enumerate(prompt.include):
            if entry.position is not None and not 0 <= entry.position[1] < index:
                where = f"prompt line {number}: include[{index}]"
                raise GenEvalError(f"{where} is placed by include[{entry.position[1]}]; name an earlier entry")
        prompts[number] = prompt
    return prompts


def color_of(logits: Sequence[float], official: bool = False) -> str | None:
    """Colour word of the largest logit, the first on ties.

    Args:
        logits: one for each of `COLORS`.
        official: let the first NaN win, as the official script does.

    Returns:
        None where a logit is NaN, unless `official`.
    """
    values = np.asarray(logits, dtype=np.float32)
    # numpy's argmax, like torch's, takes the first NaN for the largest.
    return None if np.isnan(values).any() and not official else COLORS[int(values.argmax())]


def keep(detections: Sequence[Detection], tag: str, options: Options) -> dict[str, tuple[Detection, ...]]:
    """Threshold, cap and overlap suppression, by class and best first; classes with nothing left are absent.

    The order is the official script's: numpy's argsort of the class's float32 scores, reversed. So of two or three
    equal scores the last detection comes first; that sort is not stable, and the order of more is numpy's choice.

    Args:
        detections: of one picture.
        tag: task of the prompt; counting has a threshold of its own.
        options: thresholds.
    """
    least = np.float32(options.counting_threshold if tag == "counting" else options.threshold)
    classes: dict[str, list[Detection]] = {}
    for item in detections:
        classes.setdefault(item.name, []).append(item)
    kept: dict[str, tuple[Detection, ...]] = {}
    for name, items in classes.items():
        scores = np.array([item.score for item in items], dtype=np.float32)
        best_first = [items[i] for i in np.argsort(scores)[::-1].tolist() if scores[i] > least]
        kept[name] = _suppress(best_first[: options.max_objects], options.max_overlap)
    return {name: items for name, items in kept.items() if items}


def overlap(first: Detection, second: Detection) -> float:
    """Intersection over union in float32, with GenEval's areas, which count both border pixels."""
    a, b = (tuple(np.float32(value) for value in item.box) for item in (first, second))
    shared = _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = _area(a) + _area(b) - shared
    return float(shared / union) if union else 0.0


def relations(first: Detection, second: Detection, threshold: float = Options().position_threshold) -> tuple[str, ...]:
    """Relations of `first` to `second`: none when close, two on a diagonal.

    The offset o of the centres is shrunk on each axis by `threshold` times the summed sizes, to r; the direction is r
    divided by the norm of the *unshrunk* o, and an axis counts when it exceeds `LEAST_DIRECTION`.

    Args:
        first: its box is placed.
        second: its box is what the place is relative to.
        threshold: share of the summed sizes.
    """
    a, b = (np.asarray(item.box, dtype=np.float32).reshape(2, 2) for item in (first, second))
    offset: NDArray[np.float32] = a.mean(axis=0) - b.mean(axis=0)
    sizes = np.abs(a[1] - a[0]) + np.abs(b[1] - b[0])
    shrunk = np.maximum(np.abs(offset) - threshold * sizes, 0) * np.sign(offset)
    if np.all(np.abs(shrunk) < LEAST_OFFSET):
        return ()
    dx, dy = shrunk / np.linalg.norm(offset)
    holds = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}
    return tuple(name for name, size in holds.items() if size > LEAST_DIRECTION)


def judge(
    prompt: Prompt, detections: Sequence[Detection], options: Options | None = None, official: bool = False
) -> Verdict:
    """Decide whether the detections satisfy a prompt, by GenEval's rules.

    `include` entries look only at their `count` most confident boxes; relations hold between every taken box and every
    target box; `exclude` entries fail when that many boxes exist.

    Args:
        prompt: what is asked.
        detections: everything the detector saw, with colours where a prompt asks for them.
        options: thresholds; None takes GenEval's.
        official: treat a NaN as the official script does instead of refusing it.
    """
    options = options or Options()
    broken = None if official else next((d for d in detections if _has_nan(d)), None)
    # Officially a NaN takes part in the ordering and then fails the threshold.
    sound = detections if official else [d for d in detections if not _has_nan(d)]
    kept = keep(sound, prompt.tag, options)
    if broken is not None:
        return Verdict(
            False, (), kept, f"detection of {broken.name} holds a NaN: box {broken.box}, score {broken.score}"
        )
    reasons: list[str] = []
    groups: list[tuple[Detection, ...] | None] = []
    for entry in prompt.include:
        found = kept.get(entry.name, ())[: entry.count]
        if entry.color is not None and len(found) == entry.count and any(d.color is None for d in found):
            return Verdict(False, (), kept, f"colour of {entry.name} could not be read")
        problem = _missing(entry, found) or _misplaced(entry, found, groups, options)
        reasons += [problem] if problem else []
        groups.append(None if problem else found)
    for entry in prompt.exclude:
        number = len(kept.get(entry.name, ()))
        if number >= entry.count:
            reasons.append(f"expected {entry.name}<{entry.count}, found {number}")
    return Verdict(not reasons, tuple(reasons), kept)


def judge_strictly(prompt: Prompt, verdict: Verdict) -> Verdict:
    """Our stricter reading of a verdict: also refuses objects beyond those asked for (overfilled pictures)."""
    asked = sum(entry.count for entry in prompt.include)
    found = sum(len(items) for items in verdict.kept.values())
    if not verdict.correct or found <= asked:
        return verdict
    return Verdict(False, (f"expected {asked} objects in all, found {found}",), verdict.kept)


class Summary(msgspec.Struct, frozen=True):
    """Totals over pictures.

    Attributes:
        tasks: mean correctness (0 to 1) by task, in the official order; tasks without pictures are absent.
        counts: pictures by task.
        overall: plain mean of the task means (not of the pictures).
        images: share of correct pictures.
        prompts: share of prompts with at least one correct picture (best of n, not the headline).
        refused: pictures without a decision, counted as wrong in every share above.
    """

    tasks: dict[str, float]
    counts: dict[str, int]
    overall: float
    images: float
    prompts: float
    refused: int


def summarize(outcomes: Sequence[tuple[Prompt, Verdict]]) -> Summary:
    """Aggregate verdicts as GenEval's `summary_scores.py` does, keyed by task name instead of file order.

    Raises:
        GenEvalError: when there is nothing to aggregate.
    """
    if not outcomes:
        raise GenEvalError("no verdicts to summarize; generate and judge at least one picture")
    by_task = {task: [v.correct for p, v in outcomes if p.tag == task] for task in TASKS}
    by_task = {task: values for task, values in by_task.items() if values}
    any_correct: dict[Prompt, bool] = {}
    for prompt, verdict in outcomes:
        any_correct[prompt] = any_correct.get(prompt, False) or verdict.correct
    tasks = {task: sum(values) / len(values) for task, values in by_task.items()}
    return Summary(
        tasks=tasks,
        counts={task: len(values) for task, values in by_task.items()},
        overall=sum(tasks.values()) / len(tasks),
        images=sum(v.correct for _, v in outcomes) / len(outcomes),
        prompts=sum(any_correct.values()) / len(any_correct),
        refused=sum(v.refused is not None for _, v in outcomes),
    )


def _missing(entry: Requirement, found: Sequence[Detection]) -> str | None:
    if len(found) < entry.count:
        return f"expected {entry.name}>={entry.count}, found {len(found)}"
    if entry.color is None:
        return None
    seen = [d.color for d in found]
    if seen.count(entry.color) >= entry.count:
        return None
    listed = ", ".join(f"{seen.count(c)} {c}" for c in COLORS if c in seen)
    right = f"{seen.count(entry.color)} {entry.color}"
    return f"expected {entry.color} {entry.name}>={entry.count}, found {right}; and {listed}"


def _misplaced(
    entry: Requirement, found: Sequence[Detection], groups: Sequence[tuple[Detection, ...] | None], options: Options
) -> str | None:
    if entry.position is None:
        return None
    wanted, target = entry.position
    targets = groups[target]
    if targets is None:
        return f"no target for {entry.name} to be {wanted}"
    for item in found:
        for other in targets:
            seen = relations(item, other, options.position_threshold)
            if wanted not in seen:
                return f"expected {entry.name} {wanted} target, found {' and '.join(seen)} target"
    return None


def _suppress(items: list[Detection], limit: float) -> tuple[Detection, ...]:
    # Not >=: above 1 the official script still drops boxes whose overlap is not a number.
    if limit == 1:
        return tuple(items)
    chosen: list[Detection] = []
    for item in items:
        if all(np.float32(overlap(best, item)) < np.float32(limit) for best in chosen):
            chosen.append(item)
    return tuple(chosen)


def _area(box: Sequence[np.float32]) -> np.float32:
    one, none = np.float32(1), np.float32(0)
    return max(box[2] - box[0] + one, none) * max(box[3] - box[1] + one, none)


def _has_nan(item: Detection) -> bool:
    return bool(np.isnan([*item.box, item.score]).any())
