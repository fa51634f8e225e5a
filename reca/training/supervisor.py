"""Start a run on Ray Train, watch it, and bring its results home.

`train` runs in the caller's process and only waits. The run itself belongs to a board: one small actor that calls
`TorchTrainer.fit` and keeps the workers' messages. Whatever ends the caller (a kill, Ctrl-C, an error) ends the
board, and Ray then ends the controller and the workers that the board started, so nothing trains on unseen.
"""

import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from reca.training.job import (
    CapacityError,
    NonFiniteError,
    StalledError,
    StorageError,
    TrainingError,
    TrainingJob,
    TrainingOutcome,
    check_config,
    job_digest,
)

if TYPE_CHECKING:
    from reca.training.board import Failure
    from reca.training.checkpoints import WorkFolder
    from reca.training.state import UpdateRecord

POLL_SECONDS = 0.5
"""How often the caller looks at the board."""
DATA_CPUS = 1.0
"""CPUs left for the data tasks, where there are any. With none left Ray Data waits for ever, without an error."""


class Progress(Protocol):
    """Takes one calm line and a few figures."""

    def __call__(self, text: str, **fields: Any) -> None:
        """Show the line."""
        ...


def check_capacity(job: TrainingJob, cluster: Mapping[str, float]) -> None:
    """Refuse a job that the cluster could never hold.

    Args:
        job: the job.
        cluster: most resources the cluster can have, such as `{"CPU": 2.0}`.

    Raises:
        CapacityError: with the numbers and the mend.
    """
    asked = job.execution
    if asked.workers < 1 or not asked.cpus_per_worker > 0:
        raise CapacityError(
            f"workers is {asked.workers} and cpus_per_worker {asked.cpus_per_worker:g}; training needs at least 1 "
            "worker and more than 0 CPUs for each (--context workers=..., cpus_per_worker=...)"
        )
    if job.training.batch_size % asked.workers:
        raise CapacityError(
            f"training.batch_size {job.training.batch_size} cannot be split evenly over "
            f"{asked.workers} workers; choose a multiple, or other --context workers"
        )
    cpus, gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    data_cpus = DATA_CPUS if asked.read_ahead else 0.0
    need = asked.workers * asked.cpus_per_worker + data_cpus
    if need > cpus:
        fitting = max(0, int((cpus - data_cpus) / asked.cpus_per_worker))
        raise CapacityError(
            f"{asked.workers} train workers of {asked.cpus_per_worker:g} CPU and {data_cpus:g} CPU for data need "
            f"{need:g} CPUs; the cluster holds {cpus:g}. Set --context workers={fitting} or less, or "
            "--context cpus_per_worker lower"
        )
    need = asked.workers * asked.gpus_per_worker
    if need > gpus:
        raise CapacityError(
            f"{asked.workers} train workers of {asked.gpus_per_worker:g} GPU need {need:g} GPUs; the cluster holds "
            f"{gpus:g}. Lower --context workers, or set --context gpus_per_worker=0 to train on CPUs"
        )


def train(
    job: TrainingJob,
    progress: Progress,
    on_records: "Callable[[Sequence[UpdateRecord]], None] | None" = None,
) -> TrainingOutcome:
    """Run a job to its last update on the connected Ray cluster, or continue it where an earlier call stopped.

    Args:
        job: the job.
        progress: called now and then with one line.
        on_records: called in this process with new records of the loss curve, in order; may raise to end the run.

    Returns:
        Figures of the whole run; the model and its loss curve are then in `job.output`.

    Raises:
        ValueError: bad configuration or data, found before the start or by a worker.
        CapacityError: more workers than the cluster can ever hold.
        NonFiniteError: NaN or infinite loss or gradient; the batch is recorded in the work folder.
        StorageError: the work folder cannot be written.
        StalledError: no update within `job.stall_seconds`.
        TrainingError: workers died more often than `job.worker_retries`, or a newer attempt took the work folder over.
    """
    import ray

    from reca.training.checkpoints import WorkFolder

    check_config(job.training)
    check_capacity(job, _capacity())
    work = WorkFolder(job.work_uri, f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}", job_digest(job))
    work.take_lease()
    found = work.candidates()
    work.forget_other_attempts(found[0][0] if found else None)
    board = _start_board()
    try:
        result = _Watch(job, board, progress, on_records).wait(board.fit.remote(board, job, work))
    finally:
        ray.kill(board)
    return _bring_home(job, work, result)


def _capacity() -> dict[str, float]:
    """What the cluster holds now, or could hold after scaling up."""
    import ray
    from ray._private.state import state  # the only place that knows the autoscaler's limits

    now = ray.cluster_resources()
    limits = state.get_max_resources_from_cluster_config() or {}
    return {name: max(now.get(name, 0.0), float(limits.get(name, 0.0))) for name in ("CPU", "GPU")}


def _start_board() -> Any:
    import ray

    from reca.training.board import Board

    return cast(Any, ray.remote)(num_cpus=0, max_concurrency=8)(Board).remote()


class _Watch:
    """Waits for a run while it passes on news and notices when there is none."""

    def __init__(
        self,
        job: TrainingJob,
        board: Any,
        progress: Progress,
        on_records: "Callable[[Sequence[UpdateRecord]], None] | None",
    ) -> None:
        from reca.training.progress import EventLog

        self.job, self.board, self.progress, self.on_records = job, board, progress, on_records
        self.events = EventLog(Path(job.output) / "tensorboard")
        self.next_update = 0
        self.last_news = time.monotonic()
        self.last_line = 0.0

    def wait(self, run: Any) -> dict[str, Any]:
        """Return what rank 0 returned."""
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        try:
            while not ray.wait([run], timeout=POLL_SECONDS)[0]:
                self._news()
                if time.monotonic() - self.last_news > self.job.stall_seconds:
                    raise StalledError(self._stalled())
            self._news()
            self._raise_failure()
            return ray.get(run)
        except RayActorError as error:
            raise TrainingError(
                f"the process that ran the training was killed at {self._where()} (out of memory?): {error}. Run the "
                "same command again to continue from the last checkpoint"
            ) from error
        except RayTaskError as error:
            self._raise_failure()
            raise TrainingError(
                f"training ended after {self.job.worker_retries} replacements of dead workers, at {self._where()}: "
                f"{error.cause or error}"
            ) from error
        finally:
            self.events.close()

    def _news(self) -> None:
        import ray

        from reca.training.progress import progress_line

        pushed, notes = cast("tuple[list[UpdateRecord], list[str]]", ray.get(self.board.take.remote()))
        records = [record for record in pushed if record.update >= self.next_update]
        for note in notes:
            self.last_news = time.monotonic()
            self.progress(note, update=self.next_update)
        if records:
            self.last_news, self.next_update = time.monotonic(), records[-1].update + 1
            self.events.add(records)
            total = self.job.training.updates
            self.progress(progress_line(records[-50:], total), update=self.next_update, updates=total)
            if self.on_records is not None:
                self.on_records(records)
        elif time.monotonic() - max(self.last_news, self.last_line) > 20:
            self.last_line = time.monotonic()
            self.progress(f"waiting for the train workers · {self._resources()}", update=self.next_update)

    def _raise_failure(self) -> None:
        import ray

        failure = cast("Failure | None", ray.get(self.board.failure.remote()))
        if failure is not None:
            kinds = {kind.__name__: kind for kind in (NonFiniteError, StorageError, TrainingError)}
            kinds["LeaseLostError"] = TrainingError
            raise kinds.get(failure.kind, ValueError)(failure.message) from TrainingError(failure.trace)

    def _resources(self) -> str:
        import ray

        free, held, asked = ray.available_resources(), ray.cluster_resources(), self.job.execution
        return (
            f"{asked.workers} x {asked.cpus_per_worker:g} CPU wanted, {free.get('CPU', 0):g} of "
            f"{held.get('CPU', 0):g} CPU free"
            + (f", {free.get('GPU', 0):g} of {held.get('GPU', 0):g} GPU free" if asked.gpus_per_worker else "")
        )

    def _stalled(self) -> str:
        return (
            f"no update for {self.job.stall_seconds:.0f} s after {self._where()} ({self._resources()}). The run was "
            f"ended; its checkpoints are in {self.job.work_uri}. If the cluster is busy, wait or lower "
            "--context workers; then run the same command again to continue"
        )

    def _where(self) -> str:
        return f"update {self.next_update} of {self.job.training.updates}"


def _bring_home(job: TrainingJob, work: "WorkFolder", result: dict[str, Any]) -> TrainingOutcome:
    """Copy the published model and the curve of the final checkpoint to the caller's output folder."""
    from reca.training.checkpoints import read_history
    from reca.training.progress import write_curve

    found = [(folder, manifest) for folder, manifest in work.candidates() if manifest.final]
    if not found:
        raise TrainingError(f"{work.uri}: the workers ended without a final checkpoint; run the same command again")
    folder, manifest = found[0]
    output, asked = Path(job.output), job.execution
    fetched = output / ".final"
    if not work.fetch(folder, manifest, fetched):
        raise TrainingError(f"{folder}: altered after it was written; remove it and run the same command again")
    history = read_history(fetched / "history.jsonl")
    write_curve(output / "metrics.jsonl", history)
    for name in ("model", "ema.safetensors"):
        if (fetched / name).exists():
            shutil.move(fetched / name, output / name)
    shutil.rmtree(fetched)
    wall = sum(record.seconds for record in history)
    tail = history[-20:]
    return TrainingOutcome(
        updates=len(history),
        images=sum(record.samples for record in history),
        wall_seconds=wall,
        core_seconds=sum(record.cpu_seconds for record in history),
        device_seconds=wall * asked.workers * asked.gpus_per_worker,
        wait_share=sum(record.wait_seconds for record in history) / max(wall, 1e-9),
        final_losses={task: sum(record.losses[task] for record in tail) / len(tail) for task in tail[-1].losses},
        curve=str(output / "metrics.jsonl"),
        workers=manifest.workers,
        threads=manifest.threads,
        resumed_from=int(result["resumed_from"]),
    )
