"""MiniEdit: edits of held-out pictures of the built-in world, judged by the MiniGenEval scorer.

A model gets a picture and an instruction; the scorer reads what it drew. Asked: was the instruction carried out
(`done`), are all other objects still there (`kept`), and both without anything else appearing (`success`, the
headline). The picture handed back as it came has done 0 and kept 1; a blank has done 1 for removals only and kept 0.
MiniEdit is this project's own, on its own emoji scenes; it is neither ImgEdit nor GEdit.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from reca.config import EditConfig
from reca.data.edits import KINDS, Edit, edit_at
from reca.data.scenes import SceneObject, render
from reca.evaluation.geneval import Detection
from reca.evaluation.minigeneval.prompts import image_seed
from reca.evaluation.minigeneval.scorer import OPTIONS, Scorer, objects_per_picture
from reca.evaluation.pictures import fitted, png
from reca.evaluation.reconstruction import at_place
from reca.evaluation.records import BenchmarkError, Record
from reca.evaluation.refusals import drawn, without
from reca.evaluation.results import Result, Seen, load_result, require_alike, save_result
from reca.evaluation.statistics import Estimate, differences, estimates
from reca.models.base import Editor, UnifiedModel

NAME, IMAGES = "miniedit", "miniedit.parquet"

BENCHMARK = "MiniEdit 1"
"""Name and edition."""

HELD_OUT, HELD_OUT_SEED = "held-out-edits", 0
"""Stream of the edits that are scored; no training set draws from it."""

MEASURES = ("success", "done", "kept")


class Asked(msgspec.Struct, frozen=True):
    """One edit.

    Attributes:
        instruction: as given to the model.
        changed: object that is to change: class, colour, left and top edge of the cell.
        wanted: the same object afterwards; None when it is to go.
        others: objects that are to stay.
    """

    instruction: str
    changed: SceneObject
    wanted: SceneObject | None
    others: tuple[SceneObject, ...]


MiniEditRecord = Record[Asked, Seen]
"""Item: number of the held-out edit. Group: `color`, `remove` or `replace`. Scores: `done` and `success` 0 or 1, `kept`
the share of the objects that are to stay; absent where there are none. A refused edit has none of them."""


class MiniEditResult(Result, frozen=True):
    """Scores of one model.

    Attributes:
        scores: by measure: `overall` (mean of the kinds) and each kind, 0 to 1, with 95 % intervals over edits.
        refused: edits that the model refused (counted as 0 by every measure).
    """

    scores: dict[str, dict[str, Estimate]]
    refused: int = 0


def held_out_edits(count: int) -> list[Edit]:
    """The first `count` held-out edits."""
    return [edit_at(HELD_OUT, HELD_OUT_SEED, index) for index in range(count)]


def evaluate(
    model: UnifiedModel, scorer: Scorer, config: EditConfig, batch_size: int = 50
) -> tuple[MiniEditResult, Tensor]:
    """Score a model.

    Args:
        model: of a family that edits; it is put into evaluation mode.
        scorer: reads the results.
        config: number of edits, noise seed, sampler settings, resamples.
        batch_size: pictures edited at once; each depends on its own source, instruction and seed only.

    Returns:
        The result, and the edited pictures: uint8 [N, 3, S, S], in the order of the edits, black where the model
        refused.

    Raises:
        BenchmarkError: the model edits no pictures, or refused all edits, because its numbers are not finite.
    """
    if not isinstance(model, Editor):
        raise BenchmarkError(f"{type(model).__name__} edits no pictures; take a family that does")
    edits = held_out_edits(config.count)
    seeds = [image_seed(config.seed, "edit", str(index)) for index in range(len(edits))]
    sources = fitted([render(edit.source) for edit in edits], model.geometry.size)
    device = next(model.parameters()).device
    words = [edit.instruction for edit in edits]
    model.eval()

    def edited(part: slice) -> Tensor:
        return model.edit(sources[part].to(device), words[part], seeds[part], config.sampling)

    images, refused = drawn(edited, len(edits), batch_size, "edits")
    found = zip(edits, scorer.detect(images), strict=True)
    records = without([judge(index, edit, seen) for index, (edit, seen) in enumerate(found)], refused, ())
    return summarize(records, config, scorer.digest), images


def judge(index: int, edit: Edit, detections: Sequence[Detection]) -> MiniEditRecord:
    """Decide about one edit by the detections above MiniGenEval's threshold.

    Args:
        index: number of the held-out edit.
        edit: what was asked.
        detections: what the scorer saw in the result.
    """
    seen = [d for d in detections if d.score > OPTIONS.threshold]
    others = tuple(item for item in edit.source.objects if item is not edit.changed)
    undone = _not_done(edit, seen)
    lost = [item for item in others if not any(_is(item, d) for d in seen)]
    reasons = ([undone] if undone else []) + [f"the {item.color} {item.name} was not kept" for item in lost]
    extra = len(seen) - len(edit.target.objects)
    if extra > 0 and not reasons:
        reasons.append(f"{extra} more than the {len(edit.target.objects)} objects that belong there")
    scores = {"success": float(not reasons), "done": float(not undone)}
    if others:
        scores["kept"] = 1 - len(lost) / len(others)
    asked = Asked(edit.instruction, edit.changed, edit.wanted, others)
    return Record(f"{index}", 0, edit.kind, asked, tuple(detections), scores, tuple(reasons))


def _not_done(edit: Edit, seen: Sequence[Detection]) -> str:
    """Why the instruction was not carried out; empty when it was. The changed object's class is unique in its scene."""
    before, after = edit.changed, edit.wanted
    if after is not None and not any(_is(after, d) for d in seen):
        return f"no {after.color} {after.name} where the {before.color} {before.name} was"
    if (after is None or after.name != before.name) and any(d.name == before.name for d in seen):
        return f"the {before.name} is still there"
    return ""


def _is(item: SceneObject, seen: Detection) -> bool:
    return at_place(item, seen) and seen.color == item.color


def summarize(records: Sequence[MiniEditRecord], config: EditConfig, scorer: str) -> MiniEditResult:
    """Totals and intervals from the records alone.

    Args:
        records: in any order.
        config: resamples; noise seed and sampler settings are noted down.
        scorer: digest of its weights.
    """
    return MiniEditResult(
        benchmark=BENCHMARK,
        scores={measure: estimates(by_kind(records, measure), config.bootstrap) for measure in MEASURES},
        refused=sum(r.unscored is not None for r in records),
        objects_per_picture=objects_per_picture([r.seen for r in records if r.unscored is None]),
        scorer=scorer,
        seed=config.seed,
        sampling=config.sampling,
        records=tuple(records),
    )


def by_kind(records: Sequence[MiniEditRecord], measure: str) -> dict[str, list[float]]:
    """One value for each edit that has one, by kind; 0 for a refused edit."""
    having = [r for r in records if measure != "kept" or r.asked.others]
    values = {kind: [r.scores.get(measure, 0.0) for r in having if r.group == kind] for kind in KINDS}
    return {kind: column for kind, column in values.items() if column}


def compare(before: MiniEditResult, after: MiniEditResult, resamples: int = 2000) -> dict[str, dict[str, Estimate]]:
    """Paired differences after - before, by measure, `overall` and kinds.

    Args:
        before: one model.
        after: the other.
        resamples: bootstrap resamples.

    Raises:
        BenchmarkError: when edits, noise, sampler settings, scorer or edition differ.
    """
    require_alike(before, after, ("benchmark", "scorer", "seed", "sampling"))
    return {m: differences(by_kind(before.records, m), by_kind(after.records, m), resamples) for m in MEASURES}


def save(result: MiniEditResult, images: Tensor, folder: Path) -> None:
    """Write totals (JSON), records (JSON lines) and pictures (parquet, PNG bytes: `source`, `edited`, `target`).

    Args:
        result: its records are in the order of the held-out edits.
        images: the edited pictures, uint8 [N, 3, S, S], in that order.
        folder: made when missing.
    """
    save_result(result, folder, NAME)
    edits = held_out_edits(len(images))
    sides = {
        name: [png(picture) for picture in fitted([render(getattr(edit, name)) for edit in edits], images.shape[-1])]
        for name in ("source", "target")
    }
    pq.write_table(pa.table({**sides, "edited": [png(picture) for picture in images]}), folder / IMAGES)


def load(folder: Path) -> MiniEditResult:
    """Read a result with its records.

    Raises:
        BenchmarkError: naming the folder, when a file is missing or malformed.
    """
    return load_result(folder, NAME, MiniEditResult, Asked)
