"""The one shape of all benchmarks: items, what a judge saw, rules that decide, totals that follow from the records.

A picture becomes one `Record`: what was asked, what the judge saw, what was decided and why. Every total, ours and the
official one, is computed from the records alone. Strict is the default: what cannot be read stays unscored, is counted
and shown, and never gets a number. `official` totals repeat what the published scripts answer, quirks included.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic

import msgspec

from reca.evaluation.records import A, BenchmarkError, Item, Record, S
from reca.evaluation.statistics import OVERALL, Estimate, clustered, clustered_differences

Values = dict[str, dict[str, list[float]]]
"""Group -> item -> one value for each scored picture."""

Figures = dict[str, dict[str, float | None]]
"""Measure -> group -> value; None where the script gives none."""


Table = dict[str, dict[str, Estimate | None]]
"""Measure -> group -> estimate, groups in the official order; None where a group holds no scored picture."""


class Differences(msgspec.Struct, frozen=True):
    """Two sets of records compared, after - before.

    Attributes:
        tables: paired differences with 95 % intervals over prompts; no `overall` where a group is empty.
        pictures: pictures that are scored on both sides.
        left_out: pictures that are not, of either side.
    """

    tables: Table
    pictures: int
    left_out: int


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
    strict: Table
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
    without_overall: ClassVar[frozenset[str]] = frozenset()
    """Measures whose groups have no mean of their own."""

    @property
    @abstractmethod
    def edition(self) -> str:
        """Which of the published sets this is."""

    @abstractmethod
    def groups(self, measure: str) -> tuple[str, ...]:
        """Groups of a measure in the official order."""

    @abstractmethod
    def decide(self, item: Item[A], sample: int, seen: S) -> Record[A, S]:
        """Decide about one picture by the strict rules.

        Args:
            item: what was asked.
            sample: number of the picture among the item's, from 0.
            seen: what the judge saw in it or said about it.

        Returns:
            Its record, with a score for every measure of `least`, or with the reason why it is unscored.
        """

    @abstractmethod
    def values(self, records: Sequence[Record[A, S]]) -> dict[str, Values]:
        """Scores of all scored pictures by measure; measures in the official order."""

    @abstractmethod
    def official(self, records: Sequence[Record[A, S]]) -> Figures:
        """Totals as the published scripts compute them from what the judge saw."""

    def unjudged(self, record: Record[A, S]) -> bool:
        """Whether neither the strict rules nor a published script can use what the judge saw in a picture or said about
        it. Answers of a model that is scored are its own, so there it never is.
        """
        del record
        return False

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
            BenchmarkError: on a record of an unknown picture, another prompt or other rules, or two of one picture.
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
    ) -> Differences:
        """Paired differences after - before over the pictures that are scored on both sides.

        Args:
            before: records of one side, in any order.
            after: records of the other.
            resamples: bootstrap resamples.

        Raises:
            BenchmarkError: when no picture is scored on both sides, or a set of records is faulty.
        """
        self._check(before)
        self._check(after)
        scored = [{(r.item, r.sample) for r in side if r.unscored is None} for side in (before, after)]
        both = scored[0] & scored[1]
        if not both:
            raise BenchmarkError(f"{self.name}: no picture is scored on both sides; score both on the same items")
        old, new = (self.values([r for r in side if (r.item, r.sample) in both]) for side in (before, after))
        tables = {
            measure: clustered_differences(values, new[measure], resamples, weights=self._weights(measure, values))
            for measure, values in old.items()
            if values
        }
        left_out = len({(r.item, r.sample) for r in (*before, *after)} - both)
        return Differences({m: self._shown(m, table) for m, table in tables.items()}, len(both), left_out)

    def _tables(self, values: Mapping[str, Values], resamples: int) -> Table:
        tables: Table = {}
        for measure, filled in values.items():
            found = clustered(filled, resamples, weights=self._weights(measure, filled)) if filled else {}
            tables[measure] = self._shown(measure, found)
        return tables

    def _shown(self, measure: str, found: Mapping[str, Estimate]) -> dict[str, Estimate | None]:
        """All groups in the official order, None for those without a value."""
        groups = self.groups(measure)
        if measure in self.without_overall:
            return {group: found.get(group) for group in groups}
        # A mean over some of the groups would look like the published number and be another one.
        whole = found.get(OVERALL) if all(group in found for group in groups) else None
        return {OVERALL: whole} | {group: found.get(group) for group in groups if group != OVERALL}

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
        items = {item.key: item for item in self.items}
        met: set[tuple[str, int]] = set()
        for record in records:
            where = f"{self.name}: record of item '{record.item}', sample {record.sample}"
            item = items.get(record.item)
            if item is None or record.sample >= len(item.pictures):
                raise BenchmarkError(
                    f"{where}: this set of {len(items)} items has no such picture; use the records' own prompt file"
                )
            if record.asked != item.asked:
                raise BenchmarkError(f"{where}: something else was asked of it; use the records' own prompt file")
            lacking = [measure for measure in self.least if measure not in record.scores]
            if lacking and record.unscored is None:
                raise BenchmarkError(
                    f"{where}: has no {lacking[0]}: the rules of another benchmark or edition decided it; score again"
                )
            if (record.item, record.sample) in met:
                raise BenchmarkError(f"{where}: stands twice; keep one")
            met.add((record.item, record.sample))

    def _notes(self, records: Sequence[Record[A, S]], judge: str, missing: int) -> Iterable[str]:
        if judge not in self.judges:
            yield f"judged by {judge}; published numbers use {' or '.join(self.judges)} and are not comparable"
        if missing:
            known = {(record.item, record.sample) for record in records}
            expected = ((i.key, n, path) for i in self.items for n, path in enumerate(i.pictures))
            first = next(path for key, sample, path in expected if (key, sample) not in known)
            yield f"{missing} expected pictures have no record, such as {first}"
        unscored = [record for record in records if record.unscored is not None]
        for reason in sorted({str(record.unscored) for record in unscored}):
            alike = [record for record in unscored if record.unscored == reason]
            why = f": {alike[0].why[0]}" if alike[0].why else ""
            yield f"{len(alike)} unscored: {reason}, such as item '{alike[0].item}', sample {alike[0].sample}{why}"
        scored = {record.group for record in records if record.unscored is None}
        groups = [group for group in self.groups(self.headline) if group != OVERALL]
        for group in groups:
            if group not in scored:
                yield f"group {group} has no scored picture, so there is no overall"


def by_group(records: Iterable[Record[Any, Any]], measure: str, groups: Sequence[str]) -> Values:
    """Values of one measure of the scored records.

    Args:
        records: unscored ones are passed over.
        measure: key of `Record.scores`.
        groups: all groups that the records are of, in the wanted order.

    Returns:
        By group and item; groups without a scored record are absent.
    """
    values: Values = {group: {} for group in groups}
    for record in records:
        if record.unscored is None:
            values[record.group].setdefault(record.item, []).append(record.scores[measure])
    return {group: items for group, items in values.items() if items}
