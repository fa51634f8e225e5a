"""From what the stages wrote to what the report shows: scores, pictures, loss curves, gates, the scorer's ceiling."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq

from pipelines.report_data import (
    NO_GRID,
    CeilingRow,
    Difference,
    GateRow,
    GridRow,
    LossCurve,
    Measure,
    Picture,
    PictureGrid,
    ReportError,
    ScoreRow,
    ScoreTable,
)
from reca.evaluation import miniedit
from reca.evaluation.gates import Gate
from reca.evaluation.geneval import TASKS
from reca.evaluation.minigeneval.ceiling import Ceiling
from reca.evaluation.minigeneval.evaluate import (
    IMAGES,
    MiniGenEvalDifference,
    MiniGenEvalRecord,
    MiniGenEvalResult,
)
from reca.evaluation.reconstruction import MEASURES
from reca.evaluation.records import Record
from reca.evaluation.results import CORRECT, correctness
from reca.evaluation.statistics import OVERALL, Estimate, differences
from reca.evaluation.suite import REDRAWN, Comparison, Evaluation, compare_all, load_all

PROMPTS_PER_TASK = 4
RECONSTRUCTIONS = 12
EDITS = 12
TASK_WORDS = {"reconstruction": "reconstruction", "text_to_image": "text to image", "image_to_text": "image to text"}


@dataclass(frozen=True)
class Scored:
    """The parts of `ReportData` that come from two folders of scores."""

    scores: ScoreTable
    prompt_grid: PictureGrid
    reconstruction_grid: PictureGrid
    reconstruction: tuple[Measure, ...]
    understanding: tuple[Measure, ...]
    notes: tuple[str, ...]


def read_scores(before: Path, after: Path, names: tuple[str, str], resamples: int = 2000) -> Scored:
    """Compare two folders of scores made with one configuration.

    Args:
        before: folder written by `reca.evaluation.suite.evaluate_all`, of the base.
        after: the same, of the trained model.
        names: what the two models are called in the report.
        resamples: bootstrap resamples.

    Raises:
        EvaluationError, BenchmarkError: when a folder cannot be read, or the two cannot be compared.
    """
    sides = load_all(before), load_all(after)
    comparison = compare_all(*sides, resamples)
    return Scored(
        scores=score_table(sides[0].minigeneval, sides[1].minigeneval, comparison.minigeneval),
        prompt_grid=_prompt_grid(sides, (before, after), names),
        reconstruction_grid=_reconstruction_grid(sides, (before, after), names),
        reconstruction=_reconstruction(sides, comparison),
        understanding=_understanding(sides, comparison, resamples),
        notes=tuple(_refusals(sides, names)),
    )


@dataclass(frozen=True)
class Edited:
    """The parts of `ReportData` that come from two folders of edits."""

    measures: tuple[Measure, ...] = ()
    grid: PictureGrid = NO_GRID
    notes: tuple[str, ...] = ()


def read_edits(before: Path, after: Path, names: tuple[str, str], resamples: int = 2000) -> Edited:
    """Compare two folders of edits made with one configuration.

    Args:
        before: folder written by `reca.evaluation.miniedit.save`, of the base.
        after: the same, of the trained model.
        names: what the two models are called in the report.
        resamples: bootstrap resamples.

    Raises:
        BenchmarkError: when a folder cannot be read, or the two cannot be compared.
    """
    sides = miniedit.load(before), miniedit.load(after)
    changes = miniedit.compare(*sides, resamples)
    rows = [(measure, group) for measure in miniedit.MEASURES for group in sides[0].scores[measure]]
    measures: list[Measure] = []
    for measure, group in rows:
        old, new = (side.scores[measure][group] for side in sides)
        change = _difference(changes[measure][group])
        name = measure if group == OVERALL else f"{measure}, {group}"
        measures.append(Measure(name, old.prompts, old.value, new.value, difference=change))
    tables = [pq.read_table(folder / miniedit.IMAGES).slice(0, EDITS).to_pydict() for folder in (before, after)]
    grid_rows = tuple(
        GridRow(
            record.asked.instruction,
            (
                Picture(tables[0]["source"][i]),
                *(_edited(side.records[i], t["edited"][i]) for side, t in zip(sides, tables, strict=True)),
                Picture(tables[0]["target"][i]),
            ),
        )
        for i, record in enumerate(sides[0].records[:EDITS])
    )
    caption = f"The first {len(grid_rows)} held-out edits, none picked; same source, same noise."
    unscored = tuple(_unscored("MiniEdit", names, [side.records for side in sides]))
    return Edited(tuple(measures), PictureGrid(("source", *names, "wanted"), grid_rows, caption), unscored)


def _refusals(sides: tuple[Evaluation, Evaluation], names: tuple[str, str]) -> Iterator[str]:
    yield from _unscored("MiniGenEval", names, [side.minigeneval.records for side in sides])
    yield from _unscored("understanding", names, [side.understanding.answers for side in sides])
    for name, side in zip(names, sides, strict=True):
        reasons = [picture.refused for picture in side.reconstruction.pictures if picture.refused]
        yield from _counted("reconstruction", name, reasons, len(side.reconstruction.pictures))


def _unscored(what: str, names: tuple[str, str], records: Sequence[Sequence[Record[Any, Any]]]) -> Iterator[str]:
    for name, rows in zip(names, records, strict=True):
        reasons = [r.why[0] if r.why else r.unscored for r in rows if r.unscored]
        yield from _counted(what, name, reasons, len(rows))


def _counted(what: str, name: str, reasons: Sequence[str], count: int) -> Iterator[str]:
    if reasons:
        yield f"{what}, {name}: {len(reasons)} of {count} have no score and count as wrong, such as: {reasons[0]}."


def _edited(record: miniedit.MiniEditRecord, data: bytes) -> Picture:
    return Picture(data, bool(record.scores.get("success")), record.unscored or "; ".join(record.why))


def score_table(before: MiniGenEvalResult, after: MiniGenEvalResult, change: MiniGenEvalDifference) -> ScoreTable:
    """MiniGenEval before, after and their paired difference as the report's table."""

    def row(task: str, strict: bool = False) -> ScoreRow:
        part = "strict" if strict else "scores"
        pair: list[Estimate] = [getattr(side, part)[task] for side in (before, after)]
        name = f"{_words(task)}, strict" if strict else _words(task)
        return ScoreRow(name, pair[0].prompts, pair[0].value, pair[1].value, _difference(getattr(change, part)[task]))

    sampling = after.sampling
    return ScoreTable(
        overall=row(OVERALL),
        tasks=tuple(row(task) for task in TASKS if task in after.scores),
        strict=row(OVERALL, strict=True),
        objects_before=before.objects_per_picture,
        objects_after=after.objects_per_picture,
        sampler=f"guidance {sampling.guidance:g}, {sampling.steps} steps, temperature {sampling.temperature:g}",
    )


def read_curves(metrics: Path) -> tuple[LossCurve, ...]:
    """Loss curves by task from the training's `metrics.jsonl`; updates count from 1.

    Raises:
        ReportError: when the file holds no update.
    """
    lines = [msgspec.json.decode(line) for line in metrics.read_bytes().splitlines()]
    if not lines:
        raise ReportError(f"{metrics} holds no update; train at least one.")
    updates = tuple(line["update"] + 1 for line in lines)
    return tuple(
        LossCurve(TASK_WORDS.get(task, _words(task)), updates, tuple(float(line["losses"][task]) for line in lines))
        for task in lines[0]["losses"]
    )


def gate_rows(gates: Sequence[Gate]) -> tuple[GateRow, ...]:
    """Gates as the report shows them."""
    return tuple(GateRow(_words(gate.name), gate.value, gate.limit, gate.passed) for gate in gates)


def ceiling_rows(ceiling: Ceiling) -> tuple[CeilingRow, ...]:
    """The scorer's ceiling by task; junk is the mean over the kinds of junk, as its gate has it."""
    junk = ceiling.junk_passed
    return tuple(
        CeilingRow(
            task=_words(task),
            accept={_words(condition): row[task] for condition, row in ceiling.accept.items()},
            reject={_words(condition): row[task] for condition, row in ceiling.reject.items()},
            junk=junk[task],
        )
        for task in TASKS
    )


def _words(name: str) -> str:
    return {"two_object": "two objects", "color_attr": "color attribution"}.get(name, name.replace("_", " "))


def _difference(estimate: Estimate) -> Difference:
    return Difference(estimate.value, estimate.low, estimate.high)


def _reconstruction(sides: tuple[Evaluation, Evaluation], change: Comparison) -> tuple[Measure, ...]:
    before, after = (side.reconstruction for side in sides)
    recalls = tuple(
        Measure(
            name=f"{measure} recall",
            n=before.recall[measure].prompts,
            before=before.recall[measure].value,
            after=after.recall[measure].value,
            difference=_difference(change.reconstruction[measure]),
        )
        for measure in MEASURES
    )
    chance = tuple(
        Measure(f"{measure} recall by chance", m.prompts, m.value, after.chance[measure].value)
        for measure, m in before.chance.items()
    )
    psnr = Measure("PSNR", len(before.pictures) - before.refused, before.psnr, after.psnr, "dB")
    return (*recalls, *chance, psnr)


def _understanding(sides: tuple[Evaluation, Evaluation], change: Comparison, resamples: int) -> tuple[Measure, ...]:
    before, after = (side.understanding for side in sides)
    correct = [{"all": [correctness(a) for a in side.answers]} for side in (before, after)]
    whole = differences(correct[0], correct[1], resamples)["all"]
    rows = [("accuracy", before.accuracy, after.accuracy, whole)]
    rows += [
        (f"{kind} questions", before.kinds[kind], after.kinds[kind], change.understanding[kind])
        for kind in before.kinds
    ]
    return tuple(
        Measure(name, old.prompts, old.value, new.value, difference=_difference(diff)) for name, old, new, diff in rows
    )


def _prompt_grid(
    sides: tuple[Evaluation, Evaluation], folders: tuple[Path, Path], names: tuple[str, str]
) -> PictureGrid:
    records = [{record.item: record for record in side.minigeneval.records} for side in sides]
    pictures = [_pictures(folder / IMAGES, "item", "png") for folder in folders]
    chosen = [
        record
        for task in TASKS
        for record in [r for r in sides[0].minigeneval.records if r.group == task][:PROMPTS_PER_TASK]
    ]
    rows = tuple(
        GridRow(r.asked.prompt, tuple(_judged(records[i][r.item], pictures[i][r.item]) for i in range(2)))
        for r in chosen
    )
    caption = (
        f"The first {PROMPTS_PER_TASK} test prompts of each MiniGenEval task, none picked; same prompt, same noise."
    )
    return PictureGrid(names, rows, caption)


def _judged(record: MiniGenEvalRecord, data: bytes) -> Picture:
    return Picture(data, bool(record.scores.get(CORRECT)), record.unscored or "; ".join(record.why))


def _reconstruction_grid(
    sides: tuple[Evaluation, Evaluation], folders: tuple[Path, Path], names: tuple[str, str]
) -> PictureGrid:
    base, after = (side.reconstruction.pictures for side in sides)
    tables = [pq.read_table(folder / REDRAWN).slice(0, RECONSTRUCTIONS).to_pydict() for folder in folders]
    rows = tuple(
        GridRow(
            ", ".join(f"{color} {name}" for name, color, _, _ in base[i].expected),
            (
                Picture(original),
                *(
                    Picture(table["reconstruction"][i], note=redrawn[i].refused or "")
                    for table, redrawn in zip(tables, (base, after), strict=True)
                ),
            ),
        )
        for i, original in enumerate(tables[0]["original"])
    )
    caption = f"The first {len(rows)} held-out pictures, drawn again from their embeddings and a template prompt."
    return PictureGrid(("original", *names), rows, caption)


def _pictures(path: Path, key: str, value: str) -> dict[str, bytes]:
    table = pq.read_table(path, columns=[key, value])
    return dict(zip(table[key].to_pylist(), table[value].to_pylist(), strict=True))
