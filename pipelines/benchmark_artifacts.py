"""What the stages of an evaluation on published benchmarks give each other."""

from dataclasses import dataclass

from pipelines.dsl import Artifact

MADE, EXTRA, REFUSED = "pictures", "pictures of no item", "missing because the model refused them"
"""Settings in a report that are about the pictures and not how they were drawn."""


@dataclass(frozen=True)
class Drawn(Artifact):
    """Pictures in a benchmark's published folder layout.

    Attributes:
        benchmark: name of the benchmark.
        pictures: number of pictures.
        settings: sampler settings, seed and samples, for the report.
    """

    benchmark: str
    pictures: int
    settings: dict[str, str]


@dataclass(frozen=True)
class Judged(Artifact):
    """One record for each picture or question, `records.jsonl`.

    Attributes:
        benchmark: name of the benchmark.
        judge: who judged.
        records: number of records.
        unscored: how many of them have no score.
        settings: what was judged, for the report.
    """

    benchmark: str
    judge: str
    records: int
    unscored: int
    settings: dict[str, str]


@dataclass(frozen=True)
class Totalled(Artifact):
    """All totals of a benchmark, `totals.json` (`reca.evaluation.benchmark.Totals`).

    Attributes:
        benchmark: name of the benchmark.
        score: its number; None when there is none.
    """

    benchmark: str
    score: float | None


@dataclass(frozen=True)
class Compared(Artifact):
    """Paired differences of two sides, `differences.json`: measure -> group -> estimate.

    Attributes:
        benchmark: name of the benchmark.
        difference: of the headline, second minus first; None when it could not be formed.
    """

    benchmark: str
    difference: float | None


@dataclass(frozen=True)
class BenchmarkReport(Artifact):
    """`summary.json`, `tables.md` and `report.html`.

    Attributes:
        scores: the number of each benchmark, by side and benchmark; None where there is none.
    """

    scores: dict[str, float | None]
