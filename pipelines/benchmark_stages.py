"""Stages of an evaluation on published benchmarks. Bodies import what they need: no torch, no ray at import."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.artifacts import Checkpoint, Trained
from pipelines.dsl import Artifact, External, Resources, StageContext, stage
from pipelines.stages import encoders, load_artifact
from reca.evaluation.run_config import DrawingConfig, Reading

if TYPE_CHECKING:
    from reca.evaluation.geneval_judge import GenEvalJudge

RECORDS, TOTALS, DIFFERENCES = "records.jsonl", "totals.json", "differences.json"


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


@stage(resources=Resources(cpus=0), claims=encoders)
def draw(
    ctx: StageContext,
    model: Checkpoint | Trained,
    source: External,
    reading: Reading,
    drawing: DrawingConfig,
) -> Drawn:
    """Draw a benchmark's pictures; those of an earlier attempt are kept."""
    from fsspec.core import url_to_fs

    from reca.evaluation.catalog import read_benchmark
    from reca.evaluation.generation import draw as draw_pictures

    bench = read_benchmark(reading, source.place)
    folder = f"{ctx.work_uri}/pictures"
    done = draw_pictures(bench, partial(load_artifact, model), folder, drawing, ctx.execution, ctx.progress)
    files, root = url_to_fs(folder)
    files.get(f"{root.rstrip('/')}/", f"{ctx.output}/", recursive=True)
    sampling = drawing.sampling
    settings = {
        "pictures of each prompt": str(reading.samples),
        "guidance": f"{sampling.guidance:g}",
        "steps": str(sampling.steps),
        "temperature": f"{sampling.temperature:g}",
        "noise seed": str(drawing.seed),
    }
    return Drawn.of(benchmark=reading.benchmark, pictures=done.pictures, settings=settings)


@stage(resources=Resources(cpus=0), claims=encoders)
def judge_geneval(
    ctx: StageContext,
    pictures: Drawn | External,
    source: External,
    detector: External | str,
    clip: External | str,
    names: External | None,
    reading: Reading,
    scale: tuple[int, int],
    batch: int,
) -> Judged:
    """See the objects and colours of every picture and decide by GenEval's rules; finished batches are kept."""
    from reca.evaluation.benchmark import save_records
    from reca.evaluation.catalog import SHAPES, read_benchmark
    from reca.evaluation.gallery import save_gallery
    from reca.evaluation.geneval_judge import check_names, read_names
    from reca.evaluation.looking import look
    from reca.evaluation.picture_files import find_pictures

    bench = read_benchmark(reading, source.place)
    check_names([item.asked for item in bench.items], read_names(names.place if names else ""))
    found = find_pictures(picture_place(pictures), bench.items)
    load = partial(load_geneval_judge, detector=detector, clip=clip, names=names, scale=scale)
    work = f"{ctx.work_uri}/records"
    records = look(bench, found, load, (), work, SHAPES["geneval"], ctx.execution, batch, ctx.progress)
    save_records(records, str(ctx.output / RECORDS))
    save_gallery(bench, records, found, ctx.output)
    return Judged.of(
        benchmark="geneval",
        judge=f"transformers Mask2Former {shown(detector)} and CLIP {shown(clip)}",
        records=len(records),
        unscored=sum(record.unscored is not None for record in records),
        settings=picture_settings(pictures, found.extra),
    )


@stage()
def total(ctx: StageContext, judged: Judged, source: External, reading: Reading, bootstrap: int) -> Totalled:
    """Form all totals from the records alone."""
    import msgspec

    from reca.evaluation.catalog import read_benchmark, read_records

    bench = read_benchmark(reading, source.place)
    records = read_records(judged.benchmark, f"{judged.uri}/{RECORDS}")
    totals = bench.totals(records, judged.judge, bootstrap)
    (ctx.output / TOTALS).write_bytes(msgspec.json.format(msgspec.json.encode(totals), indent=1))
    return Totalled.of(benchmark=judged.benchmark, score=totals.score())


@stage()
def compare(
    ctx: StageContext,
    before: Judged,
    after: Judged,
    source: External,
    reading: Reading,
    bootstrap: int,
) -> Compared:
    """Form the paired differences, second minus first, over the items that are scored on both sides."""
    import msgspec

    from reca.evaluation.catalog import read_benchmark, read_records
    from reca.evaluation.statistics import OVERALL

    if before.judge != after.judge:
        raise ValueError(f"judged by {before.judge} and by {after.judge}; judge both sides alike")
    bench = read_benchmark(reading, source.place)
    sides = [read_records(side.benchmark, f"{side.uri}/{RECORDS}") for side in (before, after)]
    differences = bench.differences(sides[0], sides[1], bootstrap)
    (ctx.output / DIFFERENCES).write_bytes(msgspec.json.format(msgspec.json.encode(differences), indent=1))
    headline = differences.get(bench.headline, {}).get(OVERALL)
    return Compared.of(benchmark=before.benchmark, difference=None if headline is None else headline.value)


@stage()
def report(
    ctx: StageContext,
    labels: tuple[str, ...],
    judged: tuple[Judged, ...],
    totals: tuple[Totalled, ...],
    compared: tuple[Compared, ...],
    name: str,
) -> BenchmarkReport:
    """Write the tables: `judged` and `totals` hold, benchmark by benchmark, one entry for each label."""
    import msgspec

    from pipelines.benchmark_report import Section, Side, markdown, page, summary
    from reca.evaluation.benchmark import Totals
    from reca.evaluation.gallery import load_gallery
    from reca.evaluation.statistics import Estimate

    sections: list[Section] = []
    for first in range(0, len(judged), len(labels)):
        rows = zip(labels, judged[first : first + len(labels)], totals[first : first + len(labels)], strict=True)
        sides = tuple(
            Side(
                label,
                msgspec.json.decode((t.local() / TOTALS).read_bytes(), type=Totals),
                j.settings,
                load_gallery(j.local()),
            )
            for label, j, t in rows
        )
        found = [c for c in compared if c.benchmark == judged[first].benchmark]
        kind = dict[str, dict[str, Estimate]]
        changes = [msgspec.json.decode((c.local() / DIFFERENCES).read_bytes(), type=kind) for c in found]
        sections.append(Section(judged[first].benchmark, sides, changes[0] if changes else None))
    title = f"Benchmarks: {name}"
    (ctx.output / "summary.json").write_bytes(msgspec.json.format(msgspec.json.encode(summary(sections)), indent=1))
    (ctx.output / "tables.md").write_text(markdown(sections, title), encoding="utf-8")
    (ctx.output / "report.html").write_text(page(sections, title), encoding="utf-8")
    scores = {f"{side.label}: {section.name}": side.totals.score() for section in sections for side in section.sides}
    ctx.progress(", ".join(f"{name} {value}" for name, value in scores.items()))
    return BenchmarkReport.of(scores=scores)


def load_geneval_judge(
    device: str,
    detector: External | str,
    clip: External | str,
    names: External | None,
    scale: tuple[int, int],
) -> "GenEvalJudge":
    """Load GenEval's judge on whichever node this runs; remote weights are copied there once."""
    from reca.evaluation.geneval_judge import GenEvalJudge

    words = str(names.local()) if names else ""
    return GenEvalJudge.load(local_place(detector), local_place(clip), device, words, scale)


def local_place(weights: External | str) -> str:
    """A local folder, or the hub id as it is."""
    return weights if isinstance(weights, str) else str(weights.local())


def shown(weights: External | str) -> str:
    """Name of weights in a judge's label: the hub id, or the last part of a folder's path."""
    return weights if isinstance(weights, str) else Path(weights.uri).name


def picture_place(pictures: Drawn | External) -> str:
    """Folder of the pictures."""
    return pictures.uri if isinstance(pictures, Drawn) else pictures.place


def picture_settings(pictures: Drawn | External, extra: Sequence[str]) -> dict[str, str]:
    """What is known about how the pictures were made, and those that belong to no item."""
    made = pictures.settings if isinstance(pictures, Drawn) else {"pictures": f"made elsewhere, {pictures.uri}"}
    return {**made, "pictures of no item": f"{len(extra)}, such as {extra[0]}"} if extra else dict(made)


def weights_at(place: str) -> Any:
    """Weights whose content is their identity where the place is a path or URL; a hub id stays a name."""
    return External(place) if "://" in place or Path(place).expanduser().exists() else place
