"""What a training run is given and gives back, and how it fails. Plain data: no torch, no ray."""

import json
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any, cast

from reca.config import ExecutionConfig, TrainingConfig, out_of_range
from reca.data.files import filesystem
from reca.objectives import task_weights

Stream = str
"""Name of an encoded data set: `images` (reconstruction, text-to-image) or `instructions` (image-to-text)."""

STREAM_OF: dict[str, Stream] = {
    "reconstruction": "images",
    "text_to_image": "images",
    "image_to_text": "instructions",
}
"""Which data set feeds which task. Tasks that share a stream see the same pictures in the same update."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message names what, where and the mend. Subclasses that are also `ValueError` would
    come again and are not worth a retry.
    """


class NonFiniteError(TrainingError, ValueError):
    """A loss or gradient became NaN or infinite."""


class CapacityError(TrainingError, ValueError):
    """The cluster can never hold the workers that were asked for."""


class StorageError(TrainingError, ValueError):
    """The work folder cannot be written: full, read-only or not permitted."""


class StalledError(TrainingError):
    """No update was finished for longer than `TrainingJob.stall_seconds`."""


@dataclass(frozen=True)
class TrainingJob:
    """Everything a training run needs; picklable.

    Attributes:
        family: model family, as `reca.models.family_class` takes it.
        checkpoint: folder or URI of the starting weights in the family's published layout.
        work_uri: folder (path or URI) for checkpoints of this run; the same job with the same folder continues where
            it stopped.
        output: local folder of the caller that receives `model/`, `metrics.jsonl`, `tensorboard/` (and
            `ema.safetensors`).
        images: folder or URI of encoded images (reconstruction and text-to-image); None when no such task runs.
        instructions: folder or URI of encoded instruction rows (image-to-text); None when that task does not run.
        training: objective and optimizer.
        execution: workers and resources.
        stall_seconds: without a finished update for this long the run is ended with an error.
        worker_retries: how often dead workers are replaced before the run gives up.
    """

    family: str
    checkpoint: str
    work_uri: str
    output: str
    images: str | None = None
    instructions: str | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    stall_seconds: float = 900.0
    worker_retries: int = 3

    @property
    def streams(self) -> dict[Stream, str]:
        """URI of each data set that the weights call for.

        Raises:
            ValueError: when one is missing.
        """
        given = {"images": self.images, "instructions": self.instructions}
        wanted: dict[Stream, str] = {}
        for task in task_weights(self.training):
            name = STREAM_OF[task]
            uri = given[name]
            if uri is None:
                raise ValueError(
                    f"TrainingJob.{name} is missing: {task} has a weight above 0; pass it or set the weight to 0"
                )
            wanted[name] = uri
        return wanted


@dataclass(frozen=True)
class TrainingOutcome:
    """What a finished run reports.

    Attributes:
        updates: optimizer updates done.
        images: pictures seen, summed over tasks and updates.
        wall_seconds: time inside updates and waiting for data, over all attempts that count.
        core_seconds: processor time of the train workers (their data tasks not included).
        device_seconds: accelerator seconds reserved: `wall_seconds` * workers * GPUs per worker.
        wait_share: share of the wall time (0 to 1) that workers waited for data, mean over workers.
        final_losses: mean of the last 20 updates, by task.
        curve: file with one JSON line per update.
        workers: train workers.
        threads: torch threads per worker; together with `workers`, `sharding` and `micro_batch` it fixes the bits of
            the result.
        resumed_from: update the last attempt started from; 0 when it was not resumed.
    """

    updates: int
    images: int
    wall_seconds: float
    core_seconds: float
    device_seconds: float
    wait_share: float
    final_losses: dict[str, float]
    curve: str
    workers: int
    threads: int
    resumed_from: int


def check_config(config: TrainingConfig) -> None:
    """Refuse values that could only fail later.

    Raises:
        ValueError: naming the field, its value and the mend.
    """
    for problem in out_of_range(config, "training."):
        raise ValueError(problem)
    task_weights(config)


def job_digest(job: TrainingJob) -> str:
    """32 hex digits over what decides the result: configuration, family, and the manifests of weights and data sets.

    A checkpoint is resumed only under an equal digest. Places and workers are not part of it.

    Raises:
        ValueError: weights or a data set that the job needs are missing.
    """
    content = {
        "family": job.family,
        "training": asdict(job.training),
        "weights": _listing(job.checkpoint),
        "data": {name: _listing(uri) for name, uri in sorted(job.streams.items())},
    }
    return blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def _listing(uri: str) -> list[tuple[str, int, str]]:
    """Relative name, size and (for files up to 1 MiB, such as manifests) digest of every file below `uri`."""
    fs, root = filesystem(uri)
    found = cast("dict[str, dict[str, Any]]", fs.find(root, detail=True))
    if not found:
        raise ValueError(f"{uri}: missing or empty; training needs this folder, check the path")
    rows: list[tuple[str, int, str]] = []
    for path, info in sorted(found.items()):
        small = info["size"] <= 1 << 20
        digest = blake2b(cast(bytes, fs.cat_file(path)), digest_size=16).hexdigest() if small else ""
        rows.append((path.removeprefix(root).lstrip("/"), int(info["size"]), digest))
    return rows
