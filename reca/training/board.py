"""The actor that owns a run: it calls Ray Train and keeps what the workers tell."""

import os
import threading
from dataclasses import dataclass
from typing import Any

import pyarrow.fs
import ray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from reca.data.files import is_local
from reca.training.checkpoints import KEEP, WorkFolder
from reca.training.job import TrainingJob
from reca.training.state import UpdateRecord

POLL_SECONDS = 0.25
"""Poll of Ray Train's controller; its default of 2 s would add up to 2 s to every checkpoint report."""
WORKER_START_SECONDS = 120
"""Limit for placing and starting the workers once."""
WORKER_START_TRIES = 5
"""After so many such waits the run is given up (Ray's default is to wait for ever)."""


@dataclass(frozen=True)
class Failure:
    """An error that would come again, from a worker: its class name, message and trace."""

    kind: str
    message: str
    trace: str


class Board:
    """Runs one job and holds the news of its workers; methods other than `fit` return at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: list[UpdateRecord] = []
        self._notes: list[str] = []
        self._failure: Failure | None = None

    def fit(self, board: Any, job: TrainingJob, work: WorkFolder) -> dict[str, Any]:
        """Train to the end; returns what rank 0 returned.

        Args:
            board: handle of this actor, for the workers.
            job: the job.
            work: the work folder of this attempt.
        """
        from reca.training.worker import WorkerPlan
        from reca.training.worker import work as body

        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(POLL_SECONDS))
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(WORKER_START_SECONDS))
        if len(ray.nodes()) == 1:
            # It watches other nodes for notice of their end; here that is one process for nothing.
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        asked = job.execution
        resources = {"CPU": asked.cpus_per_worker}
        if asked.gpus_per_worker > 0:
            resources["GPU"] = asked.gpus_per_worker
        trainer = TorchTrainer(
            body,
            train_loop_config={"plan": WorkerPlan(job, work, board)},
            torch_config=TorchConfig(timeout_s=int(job.stall_seconds)),
            scaling_config=ScalingConfig(
                num_workers=asked.workers, use_gpu=asked.gpus_per_worker > 0, resources_per_worker=resources
            ),
            run_config=RunConfig(
                name=work.attempt,
                storage_path=work.attempts,
                storage_filesystem=None
                if is_local(work.fs)
                else pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(work.fs)),
                checkpoint_config=CheckpointConfig(num_to_keep=KEEP),
                failure_config=FailureConfig(
                    max_failures=job.worker_retries, controller_failure_limit=WORKER_START_TRIES
                ),
            ),
        )
        return trainer.fit().return_value or {}

    def push(self, records: list[UpdateRecord]) -> None:
        """Add records of the loss curve."""
        with self._lock:
            self._records += records

    def note(self, text: str) -> None:
        """Add a line about what the workers do before their first update."""
        with self._lock:
            self._notes.append(text)

    def take(self) -> tuple[list[UpdateRecord], list[str]]:
        """Hand out the records and notes that came since the last call."""
        with self._lock:
            news = self._records, self._notes
            self._records, self._notes = [], []
        return news

    def fail(self, kind: str, message: str, trace: str) -> None:
        """Note an error that would come again (its class name, message and trace); the first one counts."""
        with self._lock:
            self._failure = self._failure or Failure(kind, message, trace)

    def failed(self) -> bool:
        """Whether such an error was noted."""
        return self._failure is not None

    def failure(self) -> Failure | None:
        """The error noted."""
        return self._failure
