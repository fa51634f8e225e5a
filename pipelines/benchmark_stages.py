"""Stages of an evaluation on published benchmarks. Bodies import what they need: no torch, no ray at import."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.artifacts import Checkpoint, Trained
from pipelines.benchmark_artifacts import EXTRA, MADE, REFUSED, BenchmarkReport, Compared, Drawn, Judged, Totalled
from pipelines.dsl import External, Resources, SettingsError, StageContext, stage
from pipelines.stages import encoders, load_artifact
from reca.config import SamplingConfig
from reca.evaluation.run_config import DrawingConfig, JudgeConfig, JudgingExecution, Reading
from reca.models.sources import hub_name, local_checkpoint

if TYPE_CHECKING:
    from reca.evaluation.answering import Examinee
    from reca.evaluation.benchmark import Benchmark
    from reca.evaluation.geneval_judge import GenEvalJudge
    from reca.evaluation.picture_files import Pictures
    from reca.evaluation.records import Record
    from reca.evaluation.vqa import YesNoJudge

BROKEN = "the judge gives NaN: its weights may be damaged, or overflow in their data type; set {settings} to others"
"""What to do with a judge that judges nothing."""

RECORDS, TOTALS, DIFFERENCES = "records.jsonl", "totals.json", "differences.json"


@stage(resources=Resources(cpus=0), claims=encoders)
def draw(
    ctx: StageContext,
    model: Checkpoint | Trained,
    source: External,
    reading: Reading,
    drawing: DrawingConfig,
) -> Drawn:
    """Draw a benchmark's pictures; those of an earlier attempt are kept."""
    from reca.evaluation.catalog import read_benchmark

    return drawn(ctx, read_benchmark(reading, source.place), model, reading, drawing, "")


@stage(resources=Resources(cpus=0), claims=encoders)
def draw_edits(
    ctx: StageContext,
    model: Checkpoint | Trained,
    source: External,
    prompts: External,
    originals: External,
    reading: Reading,
    drawing: DrawingConfig,
) -> Drawn:
    """Draw the pictures of an editing benchmark; those of an earlier attempt are kept."""
    from reca.evaluation.catalog import read_benchmark

    bench = read_benchmark(reading, source.place, prompts.place)
    return drawn(ctx, bench, model, reading, drawing, originals.place)


def drawn(
    ctx: StageContext,
    bench: "Benchmark[Any, Any]",
    model: Checkpoint | Trained,
    reading: Reading,
    drawing: DrawingConfig,
    originals: str,
) -> Drawn:
    """Draw in the stage's work folder, copy into its output, and say with which settings."""
    from fsspec.core import url_to_fs

    from reca.evaluation.generation import draw as draw_pictures

    folder = f"{ctx.work_uri}/pictures"
    load = partial(load_artifact, model)
    done = draw_pictures(bench, load, folder, drawing, ctx.execution, ctx.progress, originals)
    files, root = url_to_fs(folder)
    files.get(f"{root.rstrip('/')}/", f"{ctx.output}/", recursive=True)
    settings = {
        "pictures of each prompt": str(reading.samples),
        "resolution": resolution_of(ctx.output),
        **sampler_settings(drawing.sampling, drawing.seed),
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
    from reca.evaluation.catalog import SHAPES, read_benchmark
    from reca.evaluation.gallery import save_gallery
    from reca.evaluation.looking import look

    bench = read_benchmark(reading, source.place)
    found = pictures_of(bench, pictures)
    load = partial(load_geneval_judge, detector=detector, clip=clip, names=names, scale=scale)
    work = f"{ctx.work_uri}/records"
    mend = BROKEN.format(settings="geneval.detector or geneval.clip")
    records = look(bench, found, load, (), work, SHAPES["geneval"], ctx.execution, batch, ctx.progress, mend=mend)
    name = f"transformers Mask2Former {shown(detector)} and CLIP {shown(clip)}"
    save_gallery(bench, records, found, ctx.output)
    return keep_judged(ctx, records, reading.benchmark, name, picture_settings(pictures, found))


@stage(resources=Resources(cpus=0), claims=encoders)
def judge_dpgbench(
    ctx: StageContext,
    pictures: Drawn | External,
    source: External,
    vlm: External | str,
    reading: Reading,
    cell: int,
    batch: int,
) -> Judged:
    """Answer every question of DPG-Bench with a vision-language model; finished batches are kept."""
    from reca.evaluation.catalog import SHAPES, read_benchmark
    from reca.evaluation.gallery import save_gallery
    from reca.evaluation.looking import look
    from reca.evaluation.picture_files import read_grid, read_picture

    bench = read_benchmark(reading, source.place)
    found = pictures_of(bench, pictures)
    check_cells(pictures, found, cell)
    load = partial(load_vlm, vlm=vlm, batch=batch, cell=cell)
    read = partial(read_grid, side=cell) if cell else read_picture
    work = f"{ctx.work_uri}/records"
    mend = BROKEN.format(settings="dpgbench.vlm")
    records = look(bench, found, load, (), work, SHAPES["dpgbench"], ctx.execution, batch, ctx.progress, read, mend)
    save_gallery(bench, records, found, ctx.output)
    return keep_judged(ctx, records, reading.benchmark, shown(vlm), picture_settings(pictures, found))


def endpoint_named(execution: JudgingExecution) -> Resources:
    """What the endpoint needs of this cluster: nothing but its address and its key, without which no picture is to be
    drawn.

    Raises:
        SettingsError: when no address is given, the key's variable is not set here, or a spending cap has no prices.
    """
    from reca.evaluation.endpoint import client_of
    from reca.evaluation.judge_client import JudgeError
    from reca.evaluation.records import BenchmarkError

    try:
        client_of(JudgeConfig(), execution, "")
    except (BenchmarkError, JudgeError) as error:
        raise SettingsError(str(error)) from error
    return Resources(cpus=0)


@stage(claims=endpoint_named, retries=0)
def judge_endpoint(
    ctx: StageContext,
    pictures: Drawn | External,
    source: External,
    prompts: External | None,
    originals: External | None,
    reading: Reading,
    judge: JudgeConfig,
    cell: int,
) -> Judged:
    """Ask a judge behind an OpenAI-compatible endpoint; replies are kept, so what is answered is not asked again."""
    from reca.evaluation.catalog import read_benchmark
    from reca.evaluation.endpoint import client_of, judge_all
    from reca.evaluation.gallery import save_gallery

    words = prompts.place if prompts else ""
    bench = read_benchmark(reading, source.place, words)
    found = pictures_of(bench, pictures)
    check_cells(pictures, found, cell)
    # In the store, for all stages: what was asked once is not asked again by changed rules or another set of prompts.
    client = client_of(judge, ctx.execution, f"{ctx.run.store or ctx.work_uri}/replies")
    beside = originals.place if originals else found.folder
    records = judge_all(reading.benchmark, bench, client, found, words, beside, judge, cell)
    ctx.progress("asked", requests=client.requests, reused=client.reused, cost=client.cost)
    save_gallery(bench, records, found, ctx.output)
    return keep_judged(ctx, records, reading.benchmark, judge.model, picture_settings(pictures, found))


@stage(resources=Resources(cpus=0), claims=encoders)
def ask(
    ctx: StageContext,
    model: Checkpoint | Trained,
    source: External,
    images: External,
    reading: Reading,
    batch: int,
    max_new_tokens: int,
    suffix: str,
) -> Judged:
    """Ask a model the questions of an understanding benchmark; finished batches are kept."""
    from reca.evaluation.answering import question_pictures
    from reca.evaluation.catalog import SHAPES, read_benchmark
    from reca.evaluation.looking import look
    from reca.evaluation.mmmu import save_pictures

    bench = read_benchmark(reading, source.place)
    place = images.place
    if reading.benchmark == "mmmu":
        # Published inside the question files; a stopped run takes out only those that are missing.
        place = f"{ctx.work_uri}/pictures"
        save_pictures(images.place, place, ctx.progress)
    found = question_pictures(bench, place)
    load = partial(load_examinee, model=model, batch=batch, max_new_tokens=max_new_tokens, suffix=suffix)
    work = f"{ctx.work_uri}/records"
    records = look(bench, found, load, (), work, SHAPES[reading.benchmark], ctx.execution, batch, ctx.progress)
    settings = {
        "answers": "greedy",
        "most tokens of an answer": str(max_new_tokens),
        "added to every question": suffix or "nothing",
        "questions asked at once": str(batch),
    }
    return keep_judged(ctx, records, reading.benchmark, bench.judges[0], settings)


@stage()
def total(
    ctx: StageContext, judged: Judged, source: External, prompts: External | None, reading: Reading, bootstrap: int
) -> Totalled:
    """Form all totals from the records alone."""
    import msgspec

    from reca.evaluation.catalog import read_benchmark, read_records

    bench = read_benchmark(reading, source.place, prompts.place if prompts else "")
    records = read_records(judged.benchmark, f"{judged.uri}/{RECORDS}")
    totals = bench.totals(records, judged.judge, bootstrap, judged.settings)
    (ctx.output / TOTALS).write_bytes(msgspec.json.format(msgspec.json.encode(totals), indent=1))
    return Totalled.of(benchmark=judged.benchmark, score=totals.score())


@stage()
def compare(
    ctx: StageContext,
    before: Judged,
    after: Judged,
    source: External,
    prompts: External | None,
    reading: Reading,
    bootstrap: int,
) -> Compared:
    """Form the paired differences, second minus first, over the items that are scored on both sides.

    Raises:
        ValueError: the sides were judged by different judges.
    """
    import msgspec

    from reca.evaluation.catalog import read_benchmark, read_records
    from reca.evaluation.statistics import OVERALL

    if before.judge != after.judge:
        raise ValueError(f"judged by {before.judge} and by {after.judge}; judge both sides alike")
    bench = read_benchmark(reading, source.place, prompts.place if prompts else "")
    sides = [read_records(side.benchmark, f"{side.uri}/{RECORDS}") for side in (before, after)]
    differences = bench.differences(sides[0], sides[1], bootstrap)
    (ctx.output / DIFFERENCES).write_bytes(msgspec.json.format(msgspec.json.encode(differences), indent=1))
    headline = differences.tables.get(bench.headline, {}).get(OVERALL)
    return Compared.of(benchmark=before.benchmark, difference=None if headline is None else headline.value)


@stage()
def report(
    ctx: StageContext,
    labels: tuple[str, ...],
    judged: tuple[Judged, ...],
    totals: tuple[Totalled, ...],
    compared: tuple[Compared, ...],
    name: str,
    family: str,
) -> BenchmarkReport:
    """Write the tables: `judged` and `totals` hold, benchmark by benchmark, one entry for each label.

    The figures of RecA's authors stand beside ours where they give any for the family.
    """
    import msgspec

    from pipelines.benchmark_report import Section, Side, markdown, page, summary, unlike
    from reca.evaluation.benchmark import Differences, Totals
    from reca.evaluation.gallery import load_gallery

    sections: list[Section] = []
    for first in range(0, len(judged), len(labels)):
        rows = zip(labels, judged[first : first + len(labels)], totals[first : first + len(labels)], strict=True)
        sides = tuple(
            Side(
                label,
                msgspec.json.decode((t.local() / TOTALS).read_bytes(), type=Totals),
                load_gallery(j.local()),
            )
            for label, j, t in rows
        )
        found = [c for c in compared if c.benchmark == judged[first].benchmark]
        changes = [msgspec.json.decode((c.local() / DIFFERENCES).read_bytes(), type=Differences) for c in found]
        sections.append(Section(judged[first].benchmark, sides, changes[0] if changes else None, family))
    title = f"Benchmarks: {name}"
    (ctx.output / "summary.json").write_bytes(msgspec.json.format(msgspec.json.encode(summary(sections)), indent=1))
    (ctx.output / "tables.md").write_text(markdown(sections, title), encoding="utf-8")
    (ctx.output / "report.html").write_text(page(sections, title), encoding="utf-8")
    scores = {f"{side.label}: {section.name}": side.totals.score() for section in sections for side in section.sides}
    for warning in (text for section in sections for text in unlike(section)):
        ctx.progress(f"attention: {warning}")
    for side in (side for section in sections for side in section.sides):
        score = side.totals.score()
        value = "no score" if score is None else f"{score:.4g}"
        ctx.progress(f"{side.label}, {side.totals.benchmark}: {value} (judge: {side.totals.judge})")
    return BenchmarkReport.of(scores=scores)


def sampler_settings(sampling: SamplingConfig, seed: int) -> dict[str, str]:
    """How pictures were drawn, in the words of the report."""
    return {
        "guidance": f"{sampling.guidance:g}",
        "steps": str(sampling.steps),
        "temperature": f"{sampling.temperature:g}",
        "noise seed": str(seed),
    }


def resolution_of(folder: Path) -> str:
    """Width and height in pixels of the first picture in a folder and below."""
    from PIL import Image

    with Image.open(min(folder.rglob("*.png"))) as picture:
        return f"{picture.width} x {picture.height}"


def keep_judged(
    ctx: StageContext, records: "Sequence[Record[Any, Any]]", benchmark: str, judge: str, settings: dict[str, str]
) -> Judged:
    """Write the records; `settings` say how the pictures or the answers were made."""
    from reca.evaluation.records import save_records

    save_records(records, str(ctx.output / RECORDS))
    return Judged.of(
        benchmark=benchmark,
        judge=judge,
        records=len(records),
        unscored=sum(record.unscored is not None for record in records),
        settings=settings,
    )


def load_vlm(device: str, vlm: External | str, batch: int, cell: int) -> "YesNoJudge":
    """Load a vision-language model on whichever node this runs."""
    from reca.evaluation.vqa import YesNoJudge

    return YesNoJudge.load(local_place(vlm), device, batch, cell)


def load_examinee(device: str, model: Checkpoint | Trained, batch: int, max_new_tokens: int, suffix: str) -> "Examinee":
    """Load a model that is asked questions on whichever node this runs."""
    from reca.evaluation.answering import Examinee

    return Examinee(partial(load_artifact, model), device, batch, max_new_tokens, suffix)


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
    """A local folder; a hub id without revision as it is."""
    if not isinstance(weights, str):
        return str(weights.local())
    return str(local_checkpoint(weights)) if "@" in weights else weights


def shown(weights: External | str) -> str:
    """Name of weights in a judge's label: the hub id, or the last part of a folder's path."""
    return weights if isinstance(weights, str) else Path(weights.uri).name


def pictures_of(bench: "Benchmark[Any, Any]", pictures: Drawn | External) -> "Pictures":
    """The pictures against the items of a benchmark.

    Raises:
        BenchmarkError: when not one of the expected pictures is there, or they say that they were drawn for another
            benchmark or edition.
    """
    from reca.evaluation.dpgbench import DPGBench
    from reca.evaluation.picture_files import find_pictures
    from reca.evaluation.records import BenchmarkError

    folder = pictures.uri if isinstance(pictures, Drawn) else pictures.place
    found = find_pictures(folder, bench.items)
    if not found.found:
        raise BenchmarkError(
            f"{folder}: holds none of the {len(found.missing)} expected pictures, such as {found.missing[0]}; give a "
            f"folder in the published layout of {bench.name} (to compare checkpoints, give --model too)"
        )
    drawn = found.drawn
    # DPG-Bench's edition counts the items of its table, of which a part may be scored.
    if drawn and (
        drawn.benchmark != bench.name or (drawn.edition != bench.edition and not isinstance(bench, DPGBench))
    ):
        raise BenchmarkError(
            f"{folder}: its drawing.json says that these pictures were drawn for {drawn.benchmark}, {drawn.edition}; "
            f"they are to be scored as {bench.name}, {bench.edition}: set that edition, or give other pictures"
        )
    return found


def check_cells(pictures: Drawn | External, found: "Pictures", cell: int) -> None:
    """Refuse to cut drawn grids into cells of another size than the model drew.

    Raises:
        BenchmarkError: with both sizes.
    """
    from reca.evaluation.originals import picture_sizes
    from reca.evaluation.records import BenchmarkError

    if cell and isinstance(pictures, Drawn):
        ((url, size),) = picture_sizes([next(iter(found.found.values()))]).items()
        if size != (2 * cell, 2 * cell):
            raise BenchmarkError(
                f"{url}: a drawn grid is {size[0]} x {size[1]} pixels, so dpgbench.cell={cell} would cut through its "
                f"samples; set dpgbench.cell={size[0] // 2} (the pictures are not drawn again)"
            )


def picture_settings(pictures: Drawn | External, found: "Pictures") -> dict[str, str]:
    """What is known about how the pictures were made, why some are missing, and which belong to no item."""
    elsewhere = {MADE: f"made elsewhere, {pictures.uri}"}
    if found.drawn:
        elsewhere |= sampler_settings(found.drawn.sampling, found.drawn.seed)
    settings = dict(pictures.settings) if isinstance(pictures, Drawn) else elsewhere
    if found.extra:
        settings[EXTRA] = f"{len(found.extra)}, such as {found.extra[0]}"
    if found.refused:
        path, reason = next(iter(found.refused.items()))
        settings[REFUSED] = f"{len(found.refused)}, such as {path}: {reason}"
    return settings


def weights_at(place: str, setting: str) -> Any:
    """Weights whose content is their identity where the place is a path or URL; a hub id stays a name.

    Args:
        place: folder, URL or hub id.
        setting: of the recipe that gives it, for messages.
    """
    if "://" not in place and hub_name(place):
        return place
    return External(place, advice=f"give a folder, a URL or a hub id (ORG/NAME): --set {setting}=PLACE")
