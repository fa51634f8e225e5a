"""Typed configuration of a RecA job: plain frozen dataclasses, no torch, no ray.

Every field here is *identity*: it enters the key of the stages that receive it. Where a job runs (workers, device,
CPUs) is context and lives in [`ExecutionConfig`][reca.config.ExecutionConfig], which is never keyed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from types import MappingProxyType
from typing import Any, Literal

Arm = Literal["reca", "sft"]
Precision = Literal["float32", "bfloat16"]
Sharding = Literal["none", "full"]

BUILT_IN = "twemoji"
"""Source of pictures that is composed here rather than read from a place."""


@dataclass(frozen=True)
class DataConfig:
    """Unlabeled images for reconstruction, and labelled ones for the image-to-text term.

    Attributes:
        source: `twemoji` (built in) or the URI of a folder of images (local path, `s3://`, any fsspec URL).
        images: number of images taken (twemoji: composed; folder: 0 means all).
        instructions: number of instruction rows (question and answer about a picture) for the image-to-text term.
        instruction_source: `twemoji`, or the URI of a folder of images with `.txt` files (question, newline, answer).
        seed: seed of the built-in composer.
        rows_per_shard: rows in one parquet shard.
        min_side: images with a shorter side below this many pixels are quarantined.
        max_pixels: images with more pixels than this are quarantined before they are decoded.
        max_quarantined: share of rows (0 to 1) that may be quarantined before the stage stops.
    """

    source: str = "twemoji"
    images: int = 8192
    instructions: int = 8192
    instruction_source: str = "twemoji"
    seed: int = 20
    rows_per_shard: int = 1024
    min_side: int = 16
    max_pixels: int = 64_000_000
    max_quarantined: float = 0.01


@dataclass(frozen=True)
class ModelConfig:
    """Which model is post-trained.

    Attributes:
        family: name of a room under `reca/models`, such as `showo`, or `module:Class` of a package of your own.
        checkpoint: the family's published layout in a folder, at an fsspec URL, or on the hub (`ORG/NAME@REVISION`).
    """

    family: str = "showo"
    checkpoint: str = "checkpoints/tiny_showo"


@dataclass(frozen=True)
class TrainingConfig:
    """The joint objective and its optimizer. Everything is counted in optimizer updates.

    Attributes:
        arm: `reca` reconstructs unlabeled images; `sft` is the control: text-to-image on sparse captions of them.
        updates: number of optimizer updates; training stops there.
        batch_size: images per update and task, summed over all workers.
        learning_rate: peak learning rate of AdamW.
        warmup_updates: updates of linear warm-up from 0.
        schedule: `constant`, or `cosine` to 0 at `updates`, after the warm-up.
        betas: AdamW beta 1 and beta 2.
        eps: AdamW epsilon.
        weight_decay: AdamW weight decay, on tensors with two or more dimensions only.
        grad_clip: largest global gradient norm; 0 switches clipping off.
        lambda_recon: weight of reconstruction (paper: 1).
        lambda_i2t: weight of image-to-text (paper: 1 for shared transformers, 0 for decoupled ones).
        lambda_t2i: weight of text-to-image caption replay (paper: 0; above 0 is a departure and labelled so).
        precision: autocast data type of forward and backward; weights and optimizer stay float32.
        ema_decay: decay of an exponential moving average saved beside the raw weights; 0 keeps none. Never evaluated or
            resumed from.
        checkpoint_every: updates between checkpoints.
        seed: seed of sample order and of every random draw.
    """

    arm: Arm = "reca"
    updates: int = 300
    batch_size: int = 64
    learning_rate: float = 1.2e-4
    warmup_updates: int = 15
    schedule: Literal["constant", "cosine"] = "cosine"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    lambda_recon: float = 1.0
    lambda_i2t: float = 1.0
    lambda_t2i: float = 0.0
    precision: Precision = "bfloat16"
    ema_decay: float = 0.0
    checkpoint_every: int = 100
    seed: int = 0


@dataclass(frozen=True)
class SamplingConfig:
    """Sampler settings, chosen on validation prompts and then fixed. What they mean to a family, its `generate` says.

    Attributes:
        guidance: classifier-free guidance scale g in (1 + g) * conditional - g * unconditional; 0 switches it off.
            (Published scales are 1 + g in every family but Show-o.)
        steps: steps of the sampler: unmasking (Show-o), groups of tokens (Harmon), solver steps (OpenUni, BAGEL).
            Janus-Pro draws code by code and does not read it.
        temperature: of the confidence noise at the start (Show-o), of the noise in the diffusion chain (Harmon), of the
            softmax (Janus-Pro). OpenUni and BAGEL do not read it.
    """

    guidance: float = 2.0
    steps: int = 12
    temperature: float = 1.0


@dataclass(frozen=True)
class EvaluationConfig:
    """What is scored before and after.

    Attributes:
        prompts_per_task: MiniGenEval test prompts in each of the six tasks, one image each.
        understanding_questions: held-out questions about held-out pictures.
        reconstructions: held-out pictures that are reconstructed and compared.
        bootstrap: resamples over prompts for the 95 % intervals.
        seed: seed of the noise; the same before and after.
        sampling: sampler settings.
        scorer: folder of the scorer network's weights.
    """

    prompts_per_task: int = 400
    understanding_questions: int = 500
    reconstructions: int = 200
    bootstrap: int = 2000
    seed: int = 1234
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    scorer: str = "checkpoints/minigeneval_scorer"


@dataclass(frozen=True)
class EditConfig:
    """MiniEdit before and after, for families that edit; others leave it out.

    Attributes:
        count: held-out edits; 0 switches it off.
        bootstrap: resamples over edits for the 95 % intervals.
        seed: seed of the noise; the same before and after.
        sampling: sampler settings.
    """

    count: int = 200
    bootstrap: int = 2000
    seed: int = 1234
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass(frozen=True)
class GateConfig:
    """Least values the base must reach before RecA starts; 0 switches a gate off.

    Attributes:
        single_object: MiniGenEval single-object score of the base.
        colors: MiniGenEval colours score of the base (chance is 1/8).
        understanding: accuracy on held-out questions.
        class_recall: share of objects whose class reappears when the base reconstructs a picture zero-shot.
    """

    single_object: float = 0.95
    colors: float = 0.125
    understanding: float = 0.8
    class_recall: float = 0.3


@dataclass(frozen=True)
class RecaRecipe:
    """The whole configuration of the main job.

    Attributes:
        name: recipe name, shown in the report.
        data: images and instructions.
        model: family and checkpoint.
        training: objective and optimizer.
        evaluation: scores before and after.
        gates: what the base must reach first.
        edits: edits before and after, where the family edits.
    """

    name: str
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    gates: GateConfig = field(default_factory=GateConfig)
    edits: EditConfig = field(default_factory=EditConfig)


@dataclass(frozen=True)
class ExecutionConfig:
    """Where and how a job runs: context, never identity.

    Attributes:
        workers: train workers (2 by default, on 2 cores).
        cpus_per_worker: logical CPUs each train worker reserves; below 1 leaves room for Ray Data on small machines.
        gpus_per_worker: GPUs each train worker reserves; above 0 selects NCCL.
        data_tasks: read and decode tasks that Ray Data may run side by side.
        read_ahead: Ray Data tasks hand encoded rows to the train workers; off, the workers read the memory maps
            themselves, which starts sooner and spends no processor on hand-over. Rows and order are the same.
        sharding: `none`: every train worker holds a whole model; `full`: its part of every weight, gradient and moment.
        micro_batch: rows of a task that a train worker puts through the model at once; gradients of an update are
            accumulated over as many passes as its rows take. 0: all at once.

    Like the number of workers, the last two change how sums are rounded and nothing else.
    """

    workers: int = 2
    cpus_per_worker: float = 0.5
    gpus_per_worker: float = 0.0
    data_tasks: int = 2
    read_ahead: bool = True
    sharding: Sharding = "none"
    micro_batch: int = 0


_COUNT, _SHARE, _POSITIVE, _NOT_NEGATIVE = "[1, inf)", "[0, 1]", "(0, inf)", "[0, inf)"

RANGES: dict[type, dict[str, str]] = {
    DataConfig: {
        "images": _NOT_NEGATIVE,
        "instructions": _NOT_NEGATIVE,
        "rows_per_shard": _COUNT,
        "min_side": _COUNT,
        "max_pixels": _COUNT,
        "max_quarantined": _SHARE,
    },
    TrainingConfig: {
        "updates": _COUNT,
        "batch_size": _COUNT,
        "learning_rate": _POSITIVE,
        "warmup_updates": _NOT_NEGATIVE,
        "eps": _POSITIVE,
        "weight_decay": _NOT_NEGATIVE,
        "grad_clip": _NOT_NEGATIVE,
        "lambda_recon": _NOT_NEGATIVE,
        "lambda_i2t": _NOT_NEGATIVE,
        "lambda_t2i": _NOT_NEGATIVE,
        "ema_decay": "[0, 1)",
        "checkpoint_every": _COUNT,
    },
    SamplingConfig: {"guidance": _NOT_NEGATIVE, "steps": _COUNT, "temperature": _NOT_NEGATIVE},
    EvaluationConfig: {
        "prompts_per_task": _COUNT,
        "understanding_questions": _COUNT,
        "reconstructions": _COUNT,
        "bootstrap": _COUNT,
    },
    EditConfig: {"count": _NOT_NEGATIVE, "bootstrap": _COUNT},
    GateConfig: dict.fromkeys(("single_object", "colors", "understanding", "class_recall"), _SHARE),
    ExecutionConfig: {
        "workers": _COUNT,
        "cpus_per_worker": _POSITIVE,
        "gpus_per_worker": _NOT_NEGATIVE,
        "data_tasks": _COUNT,
        "micro_batch": _NOT_NEGATIVE,
    },
}
"""Interval, in the usual notation, that a numeric field must lie in; what is not here may be any number."""


def out_of_range(
    config: Any, prefix: str = "", ranges: Mapping[type, Mapping[str, str]] = MappingProxyType(RANGES)
) -> Iterator[str]:
    """Say of every field of a configuration, nested ones included, that lies outside its interval, and of no other.

    Args:
        config: a configuration dataclass.
        prefix: what stands before the field in the message, such as `training.`.
        ranges: interval by class and field.
    """
    for name, value in ((f.name, getattr(config, f.name)) for f in fields(config)):
        interval = ranges.get(type(config), {}).get(name)
        if is_dataclass(value):
            yield from out_of_range(value, f"{prefix}{name}.", ranges)
        elif interval is not None and not _inside(value, interval):
            yield f"{prefix}{name} is {value}; it must lie in {interval}"


def _inside(value: float, interval: str) -> bool:
    low, high = map(float, interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)
