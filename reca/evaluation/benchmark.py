"""The one shape of all benchmarks: items, what a judge saw, rules that decide, totals that follow from the records.

A picture becomes one `Record`: what was asked, what the judge saw, what was decided and why. Every total, ours and the
official one, is computed from the records alone. Strict is the default: what cannot be read stays unscored, is counted
and shown, and never gets a number. `official` totals repeat what the published scripts answer, quirks included.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TextIO, TypeVar, cast

import fsspec
import msgspec

from reca.evaluation.statistics import OVERALL, Estimate, clustered, clustered_differences

A = TypeVar("A")
S = TypeVar("S")

Values = dict[str, dict[str, list[float]]]
"""Group -> item -> one value for each scored picture."""

Figures = dict[str, dict[str, float | None]]
"""Measure -> group -> value; None where the script gives none."""


class BenchmarkError(ValueError):
    """Input of a benchmark that cannot be used; the message names it and the mend."""


class Item(msgspec.Struct, Generic[A], frozen=True):
    """One thing to draw or to edit.

    Attributes:
        key: unique in the benchmark; the published id where there is one.
        group: task, edit type or category, as published.
        prompt: text given to the model: a prompt or an edit instruction.
        asked: what the rules need to know.
        pictures: paths of the expected pictures in the published folder layout, one for each sample.
        source: path of the picture to edit, relative to the folder of source pictures; None when nothing is edited.
    """

    key: str
    group: str
    prompt: str
    asked: A
    pictures: tuple[str, ...]
    source: str | None = None


class Record(msgspec.Struct, Generic[A, S], frozen=True):
    """One picture of one item.

    Attributes:
        item: key of the item.
        sample: number of the picture among those of its item, from 0.
        group: group of the item.
        asked: what was asked.
        seen: what the judge saw or said, unchanged.
        scores: what was decided, by measure; empty when unscored.
        why: reasons and remarks.
        unscored: why there is no score; None when there is one.
    """

    item: str
    sample: int
    group: str
    asked: A
    seen: S
    scores: dict[str, float] = {}
    why: tuple[str, ...] = ()
    unscored: str | None = None


class Totals(msgspec.Struct, frozen=True):
    """All totals of a set of records.

    Attributes:
        benchmark: name and edition; says so when the set is incomplete or the judge is not the official one.
        judge: who looked at the pictures.
        strict: ours: measure -> `overall` and groups in the official order, with 95 % intervals over prompts; None
            where a group holds no scored picture, and for `overall` then too.
        official: what the published scripts answer for the same records, under the same names; None where they fail.
        headline: measure whose `overall` is the benchmark's number.
        floor: strict headline if every unscored and every missing picture had the least possible score.
        items: items with at least one record.
        pictures: records.
        unscored: records without a score.
        missing: expected pictures without a record.
        notes: what a reader of the numbers must know.
        settings: how the pictures were made: model, seed, guidance, steps, resolution.
    """

    benchmark: str
    judge: str
    strict: dict[str, dict[str, Estimate | None]]
    official: Figures
    headline: str
    floor: float | None
    items: int
    pictures: int
    unscored: int
    missing: int
    notes: tuple[str, ...]
    settings: dict[str, str | int | float]

    @property
    def complete(self) -> bool:
        """Whether every expected picture was scored."""
        return not self.unscored and not self.missing

    def score(self, official: bool = False) -> float | None:
        """The benchmark's number: strict, or as the published script computes it."""
        if official:
            return self.official[self.headline].get(OVERALL)
        estimate = self.strict[self.headline][OVERALL]
        return None if estimate is None else estimate.value


@dataclass(frozen=True)
class Benchmark(ABC, Generic[A, S]):
    """Items with the pure rules of one benchmark.

    Attributes:
        items: what is drawn or edited, in the published order.
    """

    items: tuple[Item[A], ...]

    name: ClassVar[str]
    """As published."""
    headline: ClassVar[str]
    """Measure whose `overall` is the benchmark's number."""
    least: ClassVar[Mapping[str, float]]
    """Lowest possible score, by measure."""
    judges: ClassVar[tuple[str, ...]]
    """Judges whose numbers the benchmark publishes, the first one by default."""
    published: ClassVar[int]
    """Items of the published set."""

    @property
    @abstractmethod
    def edition(self) -> str:
        """Which of the published sets this is."""

    @abstractmethod
    def groups(self, measure: str) -> tuple[str, ...]:
        """Groups of a measure in the official order."""

    @abstractmethod
    def decide(self, item: Item[A], sample: int, seen: S) -> Record[A, S]:
        """Decide about one picture by the strict rules."""

    @abstractmethod
    def values(self, records: Sequence[Record[A, S]]) -> dict[str, Values]:
        """Scores of all scored pictures by measure; measures in the official order."""

    @abstractmethod
    def official(self, records: Sequence[Record[A, S]]) -> Figures:
        """Totals as the published scripts compute them from what the judge saw."""

    def weights(self, measure: str) -> Mapping[str, float] | None:
        """Weights of the groups in `overall`; None weighs them alike."""
        del measure
        return None

    def remarks(self, records: Sequence[Record[A, S]]) -> tuple[str, ...]:
        """Further notes for readers of the totals."""
        del records
        return ()

    def title(self, judge: str, complete: bool) -> str:
        """Name that may stand beside the numbers."""
        del judge
        part = "" if len(self.items) == self.published else f", {len(self.items):,} of {self.published:,} items"
        return f"{self.name}, {self.edition}{part}" + ("" if complete else ", incomplete")

    def totals(
        self,
        records: Sequence[Record[A, S]],
        judge: str,
        resamples: int = 2000,
        settings: Mapping[str, str | int | float] | None = None,
    ) -> Totals:
        """Totals of a set of records.

        Args:
            records: in any order, at most one for each expected picture.
            judge: name of the judge that saw the pictures.
            resamples: bootstrap resamples.
            settings: how the pictures were made.

        Raises:
            BenchmarkError: on a record of an unknown item or sample, or two records of one picture.
        """
        self._check(records)
        expected = sum(len(item.pictures) for item in self.items)
        unscored = sum(record.unscored is not None for record in records)
        missing = expected - len(records)
        strict = self._tables(self.values(records), resamples)
        floor = self._tables(self.values(self._filled(records)), 1)[self.headline][OVERALL]
        return Totals(
            benchmark=self.title(judge, complete=not unscored and not missing),
            judge=judge,
            strict=strict,
            official=self.official(records),
            headline=self.headline,
            floor=None if floor is None else floor.value,
            items=len({record.item for record in records}),
            pictures=len(records),
            unscored=unscored,
            missing=missing,
            notes=(*self._notes(records, judge, missing), *self.remarks(records)),
            settings=dict(settings or {}),
        )

    def differences(
        self, before: Sequence[Record[A, S]], after: Sequence[Record[A, S]], resamples: int = 2000
    ) -> dict[str, dict[str, Estimate]]:
        """Paired differences after - before, by measure and group, over the pictures that are scored on both sides.

        Raises:
            BenchmarkError: when no picture is scored on both sides, or a set of records is faulty.
        """
        self._check(before)
        self._check(after)
        scored = [{(r.item, r.sample) for r in side if r.unscored is None} for side in (before, after)]
        both = scored[0] & scored[1]
        if not both:
            raise BenchmarkError(f"{self.name}: no picture is scored on both sides; score both on the same items")
        sides = [self.values([r for r in side if (r.item, r.sample) in both]) for side in (before, after)]
        return {
            measure: clustered_differences(values, sides[1][measure], resamples, weights=self._weights(measure, values))
            for measure, values in sides[0].items()
            if values
        }

    def _tables(self, values: Mapping[str, Values], resamples: int) -> dict[str, dict[str, Estimate | None]]:
        tables: dict[str, dict[str, Estimate | None]] = {}
        for measure, filled in values.items():
            groups = self.groups(measure)
            whole = all(group in filled for group in groups)
            found = clustered(filled, resamples, weights=self._weights(measure, filled)) if filled else {}
            # A mean over some of the groups would look like the published number and be another one.
            kept: dict[str, Estimate | None] = {OVERALL: found.get(OVERALL) if whole else None}
            tables[measure] = kept | {group: found.get(group) for group in groups if group != OVERALL}
        return tables

    def _weights(self, measure: str, values: Values) -> Mapping[str, float] | None:
        weights = self.weights(measure)
        return None if weights is None else {group: weights[group] for group in values}

    def _filled(self, records: Sequence[Record[A, S]]) -> list[Record[A, S]]:
        """Records in which every expected picture has a score, the least one where there was none."""
        known = {(record.item, record.sample): record for record in records}
        return [
            record
            if (record := known.get((item.key, sample))) is not None and record.unscored is None
            else self._worst(item, sample)
            for item in self.items
            for sample in range(len(item.pictures))
        ]

    def _worst(self, item: Item[A], sample: int) -> Record[A, S]:
        seen: Any = None
        return Record(item.key, sample, item.group, item.asked, seen, dict(self.least))

    def _check(self, records: Sequence[Record[A, S]]) -> None:
        samples = {item.key: len(item.pictures) for item in self.items}
        met: set[tuple[str, int]] = set()
        for record in records:
            place = record.item, record.sample
            if record.sample >= samples.get(record.item, 0):
                raise BenchmarkError(
                    f"{self.name}: record of item '{record.item}', sample {record.sample}, which this set of "
                    f"{len(samples)} items does not have; use the records' own prompt file"
                )
            if place in met:
                raise BenchmarkError(f"{self.name}: two records of item '{place[0]}', sample {place[1]}; keep one")
            met.add(place)

    def _notes(self, records: Sequence[Record[A, S]], judge: str, missing: int) -> Iterable[str]:
        if judge not in self.judges:
            yield f"judged by {judge}; published numbers use {' or '.join(self.judges)} and are not comparable"
        if missing:
            yield f"{missing} expected pictures have no record"
        reasons = [record.unscored for record in records if record.unscored is not None]
        for reason in sorted(set(reasons)):
            yield f"{reasons.count(reason)} unscored: {reason}"
        scored = {record.group for record in records if record.unscored is None}
        groups = [group for group in self.groups(self.headline) if group != OVERALL]
        for group in groups:
            if group not in scored:
                yield f"group {group} has no scored picture, so there is no overall"


def by_group(records: Iterable[Record[Any, Any]], measure: str, groups: Sequence[str]) -> Values:
    """Values of one measure of the scored records, by group (in the given order) and item."""
    values: Values = {group: {} for group in groups}
    for record in records:
        if record.unscored is None:
            values[record.group].setdefault(record.item, []).append(record.scores[measure])
    return {group: items for group, items in values.items() if items}


def save_records(records: Iterable[Record[Any, Any]], url: str) -> None:
    """Write records as JSON lines; a float that is not a number is written as `NaN`, as Python's json does."""
    with fsspec.open(url, "wt", encoding="utf-8") as opened:
        stream = cast("TextIO", opened)
        for record in records:
            stream.write(json.dumps(msgspec.to_builtins(record), ensure_ascii=False) + "\n")


def load_records(url: str, asked: type[A], seen: type[S]) -> list[Record[A, S]]:
    """Read records that `save_records` wrote.

    Raises:
        BenchmarkError: naming file and line, when it is missing or malformed.
    """
    records: list[Record[A, S]] = []
    try:
        with fsspec.open(url, "rt", encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    records.append(msgspec.convert(json.loads(line), Record[asked, seen], str_keys=True))
                except (json.JSONDecodeError, msgspec.ValidationError) as error:
                    raise BenchmarkError(f"{url}, line {number}: not a record: {error}; score again") from error
    except OSError as error:
        raise BenchmarkError(f"{url}: no readable records: {error}") from error
    return records
