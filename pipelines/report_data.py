"""What a report is made of: frozen dataclasses, JSON-able through msgspec (pictures become base64).

Shares and scores are fractions from 0 to 1; differences are after minus before, from -1 to 1. Times are in seconds.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Literal

from pipelines.dsl.runview import RunView

Verdict = Literal["gain", "loss", "none"]
"""What an interval shows: all of it above 0, all of it below 0, or 0 inside it."""

ROUNDING = 1e-9
"""Slack in comparisons of means of the same values summed in another order."""


class ReportError(ValueError):
    """A figure or a picture cannot be shown; the message names it and the mend."""


@dataclass(frozen=True)
class Difference:
    """After minus before, with its 95 % interval (`low` to `high`)."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """`gain` or `loss` only when the interval excludes 0."""
        if self.low > 0:
            return "gain"
        return "loss" if self.high < 0 else "none"


@dataclass(frozen=True)
class ScoreRow:
    """One MiniGenEval score before and after, on the same prompts with the same noise.

    Attributes:
        task: name shown, such as `counting` or `overall`.
        prompts: number of prompts, one picture each.
        before: score before, 0 to 1.
        after: score after, 0 to 1.
        difference: after minus before, from the paired bootstrap over prompts.
    """

    task: str
    prompts: int
    before: float
    after: float
    difference: Difference


@dataclass(frozen=True)
class ScoreTable:
    """MiniGenEval before and after.

    Attributes:
        overall: mean of the task means.
        tasks: one row for each task.
        strict: overall again, with every picture refused that shows more objects than were asked for.
        objects_before: mean number of detected objects per picture, before.
        objects_after: the same, after.
        sampler: sampler settings in words; they were fixed on validation prompts.
    """

    overall: ScoreRow
    tasks: tuple[ScoreRow, ...]
    strict: ScoreRow
    objects_before: float
    objects_after: float
    sampler: str


@dataclass(frozen=True)
class Measure:
    """One line of the understanding or reconstruction table.

    Attributes:
        name: what is measured.
        n: number of questions, objects or pictures behind it.
        before: value before.
        after: value after.
        unit: `share` (0 to 1) or `dB`.
        difference: with its interval, where one was computed.
    """

    name: str
    n: int
    before: float
    after: float
    unit: Literal["share", "dB"] = "share"
    difference: Difference | None = None


@dataclass(frozen=True)
class GateRow:
    """A least value the base had to reach before training."""

    name: str
    value: float
    limit: float
    passed: bool


@dataclass(frozen=True)
class CeilingRow:
    """What the scorer network itself gets right in one task.

    Attributes:
        task: MiniGenEval task.
        accept: share of satisfying true scenes passed, by condition (`clean`, `blur`, ...).
        reject: share of near misses refused, by the same conditions.
        junk: share of object-free junk pictures passed.
    """

    task: str
    accept: Mapping[str, float]
    reject: Mapping[str, float]
    junk: float


@dataclass(frozen=True)
class LossCurve:
    """One term of the loss: `updates[i]` is the optimizer update at which `values[i]` was measured."""

    term: str
    updates: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Picture:
    """One picture of a grid.

    Attributes:
        data: PNG or JPEG bytes.
        passed: the scorer's verdict, None where there is none.
        note: why, in a few words, such as `3 dogs asked, 2 found`.
    """

    data: bytes
    passed: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class GridRow:
    """One prompt or one held-out picture, with a picture for every column of its grid."""

    label: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class PictureGrid:
    """Rows of pictures under the same columns, such as `original`, `before`, `after`."""

    columns: tuple[str, ...]
    rows: tuple[GridRow, ...]
    caption: str


NO_GRID = PictureGrid((), (), "")
"""What stands where there are no pictures."""


@dataclass(frozen=True)
class Accounting:
    """Rows of one data set: `rows_in` = `rows_out` + the sum of `quarantined` (rows by reason)."""

    name: str
    rows_in: int
    rows_out: int
    quarantined: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True)
class ReportData:
    """Everything the report shows.

    Attributes:
        title: heading of the page.
        run: stages upstream of the report (run or reused, why, their cost), recipe, overrides, environment.
        scores: MiniGenEval.
        prompt_grid: the same prompts drawn before and after.
        reconstruction_grid: original, reconstruction before, after.
        reconstruction: recalls and PSNR, the most important first.
        understanding: accuracies, overall first.
        curves: loss by term.
        training: facts on the training run (updates, images/s, share waiting for data ...), shown in this order.
        gates: what the base had to reach.
        ceilings: the scorer's own ceiling, one row for each task.
        accounting: data sets, with what was quarantined.
        provenance: what stands beside the run's environment: seeds, checkpoint digests; shown in this order.
        notes: labels that must be read with the numbers, such as `board world: sprites on a 16 px lattice`.
        attribution: credit for the pictures; stands under every grid. Empty for a user's own pictures.
        before: name of the model before, such as `base`.
        after: name of the model after, such as `RecA` or `caption SFT`.
        edits: MiniEdit, success first; empty for a family that does not edit.
        edit_grid: source, edited before, edited after, wanted; without rows where there are no edits.
    """

    title: str
    run: RunView
    scores: ScoreTable
    prompt_grid: PictureGrid
    reconstruction_grid: PictureGrid
    reconstruction: tuple[Measure, ...]
    understanding: tuple[Measure, ...]
    curves: tuple[LossCurve, ...]
    training: Mapping[str, str]
    gates: tuple[GateRow, ...]
    ceilings: tuple[CeilingRow, ...]
    accounting: tuple[Accounting, ...]
    provenance: Mapping[str, str]
    notes: tuple[str, ...] = ()
    attribution: str = ""
    before: str = "before"
    after: str = "after"
    edits: tuple[Measure, ...] = ()
    edit_grid: PictureGrid = NO_GRID


def check(data: ReportData) -> None:
    """Refuse figures that cannot be true.

    Raises:
        ReportError: for a value that is not finite, a score outside 0 to 1, an interval that does not hold its
            difference, rows that do not add up, or a grid row with too few or too many pictures.
    """
    for name, value in _numbers("", data):
        if not math.isfinite(value):
            raise ReportError(f"{name} is {value}: not a finite number. Run the stage that measured it again.")
    for row in (data.scores.overall, data.scores.strict, *data.scores.tasks):
        if not (0 <= row.before <= 1 and 0 <= row.after <= 1):
            raise ReportError(f"scores: {row.task} is {row.before} before and {row.after} after; scores lie in 0 to 1.")
        if not row.difference.low - ROUNDING <= row.difference.value <= row.difference.high + ROUNDING:
            raise ReportError(f"scores: the interval of {row.task} does not hold its difference: {row.difference}.")
    for account in data.accounting:
        total = account.rows_out + sum(account.quarantined.values())
        if account.rows_in != total:
            raise ReportError(
                f"accounting: {account.name} took {account.rows_in} rows in, but {total} came out or were quarantined. "
                "Prepare the data again."
            )
    for curve in data.curves:
        if len(curve.updates) != len(curve.values):
            raise ReportError(
                f"curves: {curve.term} has {len(curve.updates)} updates and {len(curve.values)} values; give one each."
            )
    for grid in (data.prompt_grid, data.reconstruction_grid, data.edit_grid):
        for row in grid.rows:
            if len(row.pictures) != len(grid.columns):
                raise ReportError(
                    f"grid row {row.label!r} has {len(row.pictures)} pictures for {len(grid.columns)} columns; "
                    "give one each."
                )


def _numbers(name: str, value: object) -> Iterator[tuple[str, float]]:
    """Every float inside a nest of dataclasses, mappings and sequences, with its dotted name."""
    if isinstance(value, float):
        yield name, value
    elif is_dataclass(value):
        for part in fields(value):
            yield from _numbers(f"{name}.{part.name}" if name else part.name, getattr(value, part.name))
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _numbers(f"{name}.{key}", part)
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _numbers(f"{name}[{index}]", part)
