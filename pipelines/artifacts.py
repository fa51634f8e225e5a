"""What the stages of the main job and of pre-training give each other."""

from dataclasses import dataclass, field

from pipelines.dsl import Artifact


@dataclass(frozen=True)
class ImageShards(Artifact):
    """Canonical shards (`reca.data.shards`) and the quarantine; `rows_in == rows + quarantined`.

    Attributes:
        kind: what the rows hold.
        rows_in: rows the source listed.
        rows: rows in the shards.
        reasons: quarantined rows by reason.
        digest: digest of the whole set.
    """

    kind: str
    rows_in: int
    rows: int
    reasons: dict[str, int] = field(default_factory=dict[str, int])
    digest: str = ""


@dataclass(frozen=True)
class EncodedImages(Artifact):
    """Encoded shards (`reca.data.encode`): codes and understanding features, computed once.

    Attributes:
        rows: encoded pictures.
        row_bytes: bytes of tensors of one row.
        tensors: data type and shape by tensor name.
    """

    rows: int
    row_bytes: int
    tensors: dict[str, str]


@dataclass(frozen=True)
class Checkpoint(Artifact):
    """A model in its family's published layout, in the folder `model/`.

    Attributes:
        family: room under `reca/models`.
        parameters: number of values, frozen parts included.
        trainable: number of values that RecA trains.
    """

    family: str
    parameters: int
    trainable: int


@dataclass(frozen=True)
class Trained(Artifact):
    """A trained model in `model/`, its loss curve `metrics.jsonl` and Tensorboard files.

    Attributes:
        family: room under `reca/models`.
        arm: `reca` or `sft`.
        updates: optimizer updates done.
        images: pictures seen, summed over tasks.
        wall_seconds: time inside updates and waiting for data.
        core_seconds: processor time of the train workers.
        device_seconds: accelerator seconds reserved.
        wait_share: share of the wall time (0 to 1) that workers waited for data.
        workers: train workers.
        final_losses: mean of the last 20 updates, by task.
    """

    family: str
    arm: str
    updates: int
    images: int
    wall_seconds: float
    core_seconds: float
    device_seconds: float
    wait_share: float
    workers: int
    final_losses: dict[str, float]


@dataclass(frozen=True)
class Scores(Artifact):
    """A folder of scores (`reca.evaluation.suite`).

    Attributes:
        overall: MiniGenEval overall, 0 to 1.
        strict: the same, extra objects refused.
        understanding: accuracy on held-out questions.
        class_recall: share of objects whose class reappears in reconstructions.
    """

    overall: float
    strict: float
    understanding: float
    class_recall: float


@dataclass(frozen=True)
class EditScores(Artifact):
    """A folder of edits (`reca.evaluation.miniedit`).

    Attributes:
        success: MiniEdit overall, 0 to 1: carried out, the rest kept, nothing added.
        done: share carried out.
        kept: share of the other objects that are still there.
    """

    success: float
    done: float
    kept: float


@dataclass(frozen=True)
class Gates(Artifact):
    """Proof that the base was ready: name, measured value and limit of each gate.

    Attributes:
        rows: `[name, value, limit]` of each gate that is on; all passed.
    """

    rows: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class Report(Artifact):
    """`report.html` and `summary.json`.

    Attributes:
        finding: the result in one sentence.
    """

    finding: str
