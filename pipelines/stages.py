"""The stages of the main job. Bodies import what they need; this module itself loads neither torch nor ray."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines.artifacts import Checkpoint, EditScores, EncodedImages, Gates, ImageShards, Report, Scores, Trained
from pipelines.dsl import External, Resources, SettingsError, StageContext, stage
from reca.config import BUILT_IN, DataConfig, EditConfig, EvaluationConfig, ExecutionConfig, GateConfig, TrainingConfig
from reca.models.errors import CheckpointError
from reca.models.sources import HubSnapshot, hub_name, snapshot

if TYPE_CHECKING:
    from reca.models.base import UnifiedModel

Kind = Literal["images", "captions", "instructions"]

EMOJI_CREDIT = "Emoji graphics (c) Twitter, Inc and other contributors, CC-BY 4.0, resized and recoloured."


def data_tasks(execution: ExecutionConfig) -> Resources:
    """What preparing data reserves: its read and decode tasks."""
    return Resources(cpus=float(execution.data_tasks))


def encoders(execution: ExecutionConfig) -> Resources:
    """What encoding reserves: the actors that hold the model, and a CPU to read and decode."""
    workers = execution.workers
    return Resources(cpus=workers * execution.cpus_per_worker + 1, gpus=workers * execution.gpus_per_worker)


@stage(resources=Resources(cpus=0), claims=data_tasks)
def prepare(ctx: StageContext, source: External | str, data: DataConfig, kind: Kind) -> ImageShards:
    """Read a source, check every picture, and write canonical shards with a quarantine."""
    from reca.data.prepare import prepare as write_shards

    place = source if isinstance(source, str) else source.place
    report = write_shards(place, ctx.output, data, kind, ctx.execution, ctx.work_uri, ctx.progress)
    return ImageShards.of(
        kind=kind, rows_in=report.rows_in, rows=report.rows, reasons=report.reasons, digest=report.digest
    )


@stage()
def load_checkpoint(ctx: StageContext, source: External | HubSnapshot, family: str) -> Checkpoint:
    """Check a published checkpoint key by key and keep a copy: the run no longer depends on where it came from."""
    folder = source.local()
    model = load_model(family, folder)
    shutil.copytree(folder, ctx.output / "model")
    return Checkpoint.of(
        family=family,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trainable=sum(parameter.numel() for parameter in model.trainable().values()),
    )


@stage(resources=Resources(cpus=0), claims=encoders)
def encode(ctx: StageContext, shards: ImageShards, model: Checkpoint) -> EncodedImages:
    """Run the frozen encoders once over all pictures; every epoch and every sweep trial reads the result.

    Raises:
        SettingsError: instructions for a model whose understanding side is frozen.
    """
    from functools import partial

    from reca.data.encode import encode as write_encoded

    loaded = load_artifact(model)
    if shards.kind == "instructions" and loaded.understanding_frozen:
        # Said here, minutes after the start, rather than by the first update of `train`.
        raise SettingsError(
            f"the understanding side of {model.family} is frozen, so image-to-text trains nothing; set "
            "training.lambda_i2t=0"
        )
    report = write_encoded(
        shards.uri,
        ctx.output,
        partial(load_artifact, model),
        loaded.geometry,
        ctx.execution,
        ctx.progress,
    )
    return EncodedImages.of(rows=report.rows, row_bytes=report.row_bytes, tensors=report.tensors)


@stage(retries=0)
def evaluate(ctx: StageContext, model: Checkpoint | Trained, scorer: External, evaluation: EvaluationConfig) -> Scores:
    """Score a model: MiniGenEval, understanding, reconstruction."""
    from dataclasses import replace

    import torch

    from reca.evaluation.suite import evaluate_all

    torch.set_num_threads(1)
    settings = replace(evaluation, scorer=str(scorer.local()))
    result = evaluate_all(load_artifact(model), settings, ctx.output, ctx.progress)
    return Scores.of(
        overall=result.minigeneval.scores["overall"].value,
        strict=result.minigeneval.strict["overall"].value,
        understanding=result.understanding.accuracy.value,
        class_recall=result.reconstruction.recall["class"].value,
    )


@stage(retries=0)
def score_edits(ctx: StageContext, model: Checkpoint | Trained, scorer: External, edits: EditConfig) -> EditScores:
    """Score a model that edits: MiniEdit."""
    import torch

    from reca.evaluation import miniedit
    from reca.evaluation.minigeneval.scorer import Scorer
    from reca.evaluation.statistics import OVERALL

    torch.set_num_threads(1)
    result, images = miniedit.evaluate(load_artifact(model), Scorer.load(scorer.local()), edits)
    miniedit.save(result, images, ctx.output)
    scores = {measure: result.scores[measure][OVERALL].value for measure in miniedit.MEASURES}
    ctx.progress(f"MiniEdit {', '.join(f'{measure} {value:.3f}' for measure, value in scores.items())}")
    return EditScores.of(**scores)


@stage(retries=0)
def gate(ctx: StageContext, base: Scores, gates: GateConfig) -> Gates:
    """Stop here when the base is not ready: RecA repairs a model that can draw, it does not make one."""
    from reca.evaluation.gates import check_gates, require
    from reca.evaluation.suite import load_all

    checked = check_gates(load_all(base.local()), gates)
    require(checked)
    return Gates.of(rows=tuple((item.name, item.value, item.limit) for item in checked))


@stage(resources=Resources(cpus=0), claims=encoders)
def train(
    ctx: StageContext,
    model: Checkpoint,
    images: EncodedImages,
    instructions: EncodedImages | None,
    training: TrainingConfig,
    gates: Gates,
) -> Trained:
    """Run the joint objective on Ray Train to its last update; `gates` only has to exist."""
    from reca.training import TrainingJob
    from reca.training import train as run_training

    job = TrainingJob(
        family=model.family,
        checkpoint=f"{model.uri}/model",
        work_uri=ctx.work_uri,
        output=str(ctx.output),
        images=images.uri,
        instructions=instructions.uri if instructions else None,
        training=training,
        execution=ctx.execution,
    )
    outcome = run_training(job, ctx.progress)
    return Trained.of(
        family=model.family,
        arm=training.arm,
        updates=outcome.updates,
        images=outcome.images,
        wall_seconds=outcome.wall_seconds,
        core_seconds=outcome.core_seconds,
        device_seconds=outcome.device_seconds,
        wait_share=outcome.wait_share,
        workers=outcome.workers,
        final_losses=outcome.final_losses,
    )


@stage(retries=0)
def report(
    ctx: StageContext,
    model: Checkpoint,
    before: Scores,
    after: Scores,
    trained: Trained,
    shards: tuple[ImageShards, ...],
    gates: Gates,
    scorer: External,
    training: TrainingConfig,
    evaluation: EvaluationConfig,
    name: str,
    edits: tuple[EditScores, ...],
) -> Report:
    """Write `report.html` and `summary.json`; `edits` are those before and after, none where the family edits none."""
    import msgspec

    from pipelines.report import findings, render_report, summary
    from pipelines.report_data import Accounting, GateRow, ReportData
    from pipelines.report_inputs import Edited, ceiling_rows, read_curves, read_edits, read_scores
    from reca.evaluation.minigeneval.ceiling import Ceiling

    arm = {"reca": "RecA", "sft": "caption SFT"}[trained.arm]
    names = ("base", arm)
    scored = read_scores(before.local(), after.local(), names, evaluation.bootstrap)
    edited = read_edits(edits[0].local(), edits[1].local(), names, evaluation.bootstrap) if edits else Edited()
    card = msgspec.json.decode((scorer.local() / "config.json").read_bytes())
    data = ReportData(
        title=f"{arm} on {name}",
        run=ctx.run,
        scores=scored.scores,
        prompt_grid=scored.prompt_grid,
        reconstruction_grid=scored.reconstruction_grid,
        reconstruction=scored.reconstruction,
        understanding=scored.understanding,
        curves=read_curves(trained.local() / "metrics.jsonl"),
        training=training_facts(trained, training),
        gates=tuple(GateRow(name, value, limit, True) for name, value, limit in gates.rows),
        ceilings=ceiling_rows(msgspec.convert(card["ceiling"], Ceiling)),
        accounting=tuple(Accounting(s.kind, s.rows_in, s.rows, s.reasons) for s in shards),
        provenance={"noise seed of the scores": str(evaluation.seed), "training seed": str(training.seed)},
        notes=(*notes(model.local() / "model", training), *scored.notes, *edited.notes),
        attribution=EMOJI_CREDIT,
        before="base",
        after=arm,
        edits=edited.measures,
        edit_grid=edited.grid,
    )
    (ctx.output / "report.html").write_text(render_report(data), encoding="utf-8")
    (ctx.output / "summary.json").write_bytes(msgspec.json.format(msgspec.json.encode(summary(data)), indent=1))
    return Report.of(finding=findings(data).overall)


def load_model(family: str, folder: Path) -> "UnifiedModel":
    """Load a family's model from a folder in its published layout, on the CPU."""
    from reca.models import family_class

    return family_class(family).load(folder)


def load_artifact(model: Checkpoint | Trained) -> "UnifiedModel":
    """Load the model of an artifact on whichever node this runs; a remote store is copied there once."""
    return load_model(model.family, model.local() / "model")


def training_facts(trained: Trained, training: TrainingConfig) -> dict[str, str]:
    """Facts on the training run as the report shows them."""
    seconds = max(trained.wall_seconds, 1e-9)
    facts = {
        "arm": trained.arm,
        "updates": f"{trained.updates:,} of {training.batch_size} pictures per task",
        "weights": f"reconstruction {training.lambda_recon:g}, image to text {training.lambda_i2t:g}, "
        f"text to image {training.lambda_t2i:g}",
        "optimizer": f"AdamW, rate {training.learning_rate:g}, {training.schedule}",
        "speed": f"{trained.updates / seconds:.1f} updates/s, {trained.images / seconds:.0f} images/s",
        "waiting for data": f"{trained.wait_share:.1%}",
        "workers": str(trained.workers),
        "checkpoint": f"{trained.uri}/model",
    }
    if trained.device_seconds:
        facts["device-hours"] = f"{trained.device_seconds / 3600:.2f}"
    return facts


def notes(checkpoint: Path, training: TrainingConfig) -> tuple[str, ...]:
    """Labels that must be read with the numbers; what is to be said of the base, its own model card says."""
    from reca.pretraining.card import card_notes

    card = checkpoint / "README.md"
    lines = [
        "MiniGenEval is this project's own small benchmark on emoji scenes; it is not GenEval.",
        "Board world: 28 px sprites in 32 px cells on a 16 px lattice, one ground, every sprite recoloured.",
        *(card_notes(card.read_text(encoding="utf-8")) if card.is_file() else ()),
    ]
    if training.arm == "sft":
        lines.append(
            "This is the control arm: text-to-image on sparse captions of the same pictures, no reconstruction."
        )
    elif training.lambda_t2i > 0:
        lines.append(f"Caption replay is on (weight {training.lambda_t2i:g}); the paper uses none.")
    return tuple(lines)


def checkpoint_at(place: str, setting: str) -> Any:
    """A checkpoint to start from. A folder or URL has its content as identity, a hub id its commit: it is looked up now
    where no whole commit is given, so that a key means the same weights for ever.

    Args:
        place: folder, URL or hub id.
        setting: of the recipe that gives it, for messages.

    Raises:
        SettingsError: the hub has no such repository or revision, or cannot be asked.
    """
    try:
        name = hub_name(place)
        return snapshot(*name) if name else input_at(place, setting)
    except CheckpointError as error:
        raise SettingsError(f"{setting} {error}") from error


def source_of(uri: str, setting: str) -> Any:
    """A built-in source by name, anything else as an outside input, with content as identity, that `setting` gives."""
    return uri if uri == BUILT_IN else input_at(uri, setting)


def input_at(place: str, setting: str) -> External:
    """An outside input; when nothing is there, the message names the setting of the recipe that gives the place."""
    return External(place, advice=f"check {setting}, or the credentials")
