"""What each Ray Train worker runs: load, resume, train, report checkpoints."""

import os
import shutil
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.utils.deterministic
from ray.train import Checkpoint
from ray.train.torch import get_device
from ray.train.v2.api.report_config import CheckpointUploadMode

from reca.models import family_class
from reca.training.checkpoints import WorkFolder, lend_parts, resume, write_checkpoint, write_failure
from reca.training.group import Group
from reca.training.job import TrainingError, TrainingJob
from reca.training.loop import run_updates
from reca.training.sources import EncodedFeed
from reca.training.state import TrainingState, UpdateRecord
from reca.training.storage import local_copy

PUSH_SECONDS = 0.5
"""Least time between two messages of rank 0 to the driver."""


@dataclass(frozen=True)
class WorkerPlan:
    """What the driver hands to every worker: the job, the work folder of this attempt, and the board to report to."""

    job: TrainingJob
    work: WorkFolder
    board: Any


def work(config: dict[str, Any]) -> dict[str, int]:
    """Body of a train worker. Returns threads and the update it resumed from.

    Errors that would come again (bad input, NaN) are handed to the board, so that Ray's retries end at once instead of
    repeating them; whatever else breaks is retried from the last checkpoint.
    """
    plan: WorkerPlan = config["plan"]
    if ray.get(plan.board.failed.remote()):
        return {}
    try:
        return _Worker(plan).run()
    except (ValueError, TrainingError, OSError) as error:
        _tell(plan, error)
        raise


def _tell(plan: WorkerPlan, error: Exception) -> None:
    lasting = write_failure(error, plan.work.uri) if isinstance(error, OSError) else error
    if lasting is not None:
        ray.get(plan.board.fail.remote(type(lasting).__name__, str(lasting), traceback.format_exc()))


def torch_threads(local_world: int) -> int:
    """Torch threads per worker: this node's usable cores over the workers on it. (Ray sets OMP_NUM_THREADS to 1.)"""
    return max(1, len(os.sched_getaffinity(0)) // local_world)


def settle_torch(threads: int, device: str) -> None:
    """Fix what the bits of a result depend on: the number of threads and, on the CPU, deterministic kernels."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(device == "cpu")
    deterministic: Any = torch.utils.deterministic
    deterministic.fill_uninitialized_memory = False  # costs time and changes no result here


class _Worker:
    def __init__(self, plan: WorkerPlan) -> None:
        context = ray.train.get_context()
        self.plan, self.job = plan, plan.job
        self.group = Group(context.get_world_rank(), context.get_world_size(), str(get_device()))
        self.threads = torch_threads(context.get_local_world_size())
        settle_torch(self.threads, self.group.device)
        self.storage: Any = context.get_storage()
        self.news = _News(plan.board)

    def run(self) -> dict[str, int]:
        job, group = self.job, self.group
        self._note("loading weights")
        model = family_class(job.family).load(local_copy(job.checkpoint), group.device)
        over = group if job.execution.sharding == "full" else None
        state = TrainingState.fresh(model, job.training, over)
        self._resume(state)
        start = state.update
        self._note(f"starting at update {start} of {job.training.updates}")
        if group.rank == 0:
            self.news.push(state.history)
        feed = EncodedFeed(job.streams, job.training, group, job.execution.read_ahead)
        micro_batch = job.execution.micro_batch
        run_updates(state, job.training, feed, group, self._on_update, self._on_checkpoint, self._on_nan, micro_batch)
        if group.rank == 0:
            self.news.flush()
        self._save(state, final=True)
        return {"threads": self.threads, "resumed_from": start}

    def _note(self, text: str) -> None:
        if self.group.rank == 0:
            self.plan.board.note.remote(f"{text} · {self.group.world} workers, {self.threads} torch threads each")

    def _resume(self, state: TrainingState) -> None:
        """All ranks take the checkpoint that rank 0 found, so that they agree even while another is being finished."""
        work = self.plan.work
        if self.group.rank == 0:
            resume(state, work)
        update = self.group.from_first(state.update)
        if self.group.rank != 0 and update > 0:
            resume(state, work, update)

    def _on_update(self, record: UpdateRecord) -> None:
        if self.group.rank == 0:
            self.news.add(record)

    def _on_nan(self, record: dict[str, object]) -> str:
        return self.plan.work.write_json("nan-batch.json", record)

    def _on_checkpoint(self, state: TrainingState) -> None:
        self._save(state, final=False)

    def _save(self, state: TrainingState, final: bool) -> None:
        """Rank 0 writes to its own disk; a thread uploads while training goes on. The last one is waited for."""
        mode = CheckpointUploadMode.SYNC if final else CheckpointUploadMode.ASYNC
        name = f"u{state.update:08d}{'-final' if final else ''}"
        metrics = {"update": state.update}
        if self.group.rank != 0:
            lend_parts(state, final)
            ray.train.report(metrics, None, name, mode)
            return
        local = Path(tempfile.mkdtemp(prefix="reca-checkpoint-"))
        write_checkpoint(local, state, self.plan.work.job, self.group.world, self.threads, final)
        ray.train.report(
            metrics,
            Checkpoint.from_directory(str(local)),
            name,
            mode,
            delete_local_checkpoint_after_upload=False,
            checkpoint_upload_fn=self._upload,
        )

    def _upload(self, checkpoint: Checkpoint, name: str) -> Checkpoint:
        local = Path(checkpoint.path)
        try:
            path = self.plan.work.upload(local, name)
        except (TrainingError, OSError) as error:
            _tell(self.plan, error)
            raise
        finally:
            shutil.rmtree(local, ignore_errors=True)
        return Checkpoint(path, self.storage.storage_filesystem)


class _News:
    """Rank 0's messages to the board: at most one under way, none waited for. A board that died ends the worker."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._waiting: list[UpdateRecord] = []
        self._under_way: ray.ObjectRef[None] | None = None
        self._last = 0.0

    def add(self, record: UpdateRecord) -> None:
        """Queue one record and send what is queued when it is time."""
        self._waiting.append(record)
        if time.monotonic() - self._last >= PUSH_SECONDS and self._idle():
            self.push(self._waiting)
            self._waiting = []

    def push(self, records: list[UpdateRecord]) -> "ray.ObjectRef[None]":
        """Send records without waiting."""
        self._under_way = sent = self._board.push.remote(list(records))
        self._last = time.monotonic()
        return sent

    def flush(self) -> None:
        """Send what is queued and wait until it has arrived."""
        ray.get(self.push(self._waiting))
        self._waiting = []

    def _idle(self) -> bool:
        if self._under_way is None:
            return True
        done, _ = ray.wait([self._under_way], timeout=0)
        if done:
            ray.get(done[0])  # raises when the board, and with it the driver, is gone
        return bool(done)
