"""The training loop, free of Ray: feed in, records out. The same code runs in a test, in a benchmark and on a
cluster."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from reca.config import TrainingConfig
from reca.data.order import sample_seed
from reca.models.base import Batch, Draws, LossTerm, Task
from reca.objectives import joint_loss, task_weights
from reca.training.feed import Feed, Part, Slice, fingerprint, prepare, split, to_device
from reca.training.group import Group
from reca.training.job import NonFiniteError
from reca.training.optimizer import learning_rate
from reca.training.sharding import whole
from reca.training.state import TrainingState, UpdateRecord

Work = Mapping[Task, tuple[Batch, Draws]]
"""Batch and draws of every task, on the device of the model."""

NanReport = Callable[[dict[str, object]], str]
"""Saves the record of a batch that gave NaN and returns where."""


def run_updates(
    state: TrainingState,
    config: TrainingConfig,
    feed: Feed,
    group: Group,
    on_update: Callable[[UpdateRecord], None],
    on_checkpoint: Callable[[TrainingState], None],
    on_nan: NanReport,
    micro_batch: int = 0,
) -> None:
    """Train from `state.update` to `config.updates`, then stop.

    Args:
        state: model, optimizer and cursor; changed in place.
        config: objective and optimizer.
        feed: rows of this worker.
        group: the workers.
        on_update: called after every update, on every rank.
        on_checkpoint: called on every rank after each `checkpoint_every`-th update but the last, which is the
            caller's to save.
        on_nan: called on rank 0 with the record of a batch whose loss or gradient is not finite.
        micro_batch: rows of a task that go through the model at once; gradients of an update are accumulated over as
            many passes as that takes. 0: all rows of this worker.

    Raises:
        NonFiniteError: on every rank alike; weights are those before the bad update.
    """
    weights = task_weights(config)
    stepper = Stepper(state, config, weights, group)
    clock = time.perf_counter()
    slices_of = iter(feed(state.update, config.updates))
    while state.update < config.updates:
        slices = next(slices_of)
        waited = time.perf_counter() - clock
        torch.manual_seed(sample_seed(config.seed, state.update, group.rank, "torch"))
        pieces = [
            prepare(state.model, list(weights), piece, state.update, config.seed)
            for piece in split(slices, micro_batch)
        ]
        step = stepper.step(pieces, slices, waited)
        if step.failure is not None:
            _report_nan(step, pieces, state, group, on_nan)
        now = time.perf_counter()
        record = step.record(state.update, now - clock)
        clock = now
        state.update += 1
        state.history.append(record)
        on_update(record)
        if state.update % config.checkpoint_every == 0 and state.update < config.updates:
            on_checkpoint(state)


class StepResult:
    """Global sums of one update, as every rank sees them."""

    def __init__(self, tasks: Sequence[Task], weights: Mapping[Task, float], sums: list[float], world: int) -> None:
        """Read the sums of one update.

        Args:
            tasks: the tasks, in the order of the sums.
            weights: lambda of each.
            sums: over all workers: loss totals by task, counts by task, samples, key digest, seconds waited, processor
                seconds.
            world: number of workers.
        """
        n = len(tasks)
        self.losses: dict[str, float] = {t: sums[i] / max(sums[n + i], 1.0) for i, t in enumerate(tasks)}
        self.loss = math.fsum(weights[task] * self.losses[task] for task in tasks)
        self.samples, self.keys = int(sums[2 * n]), f"{int(sums[2 * n + 1]) & 0xFFFFFFFFFFFF:012x}"
        self.waited, self.cpu = sums[2 * n + 2] / world, sums[2 * n + 3]
        self.learning_rate = 0.0
        self.grad_norm = 0.0
        self.failure: str | None = None if math.isfinite(self.loss) else "loss"

    def record(self, update: int, seconds: float) -> UpdateRecord:
        """The line of the loss curve."""
        return UpdateRecord(
            update=update,
            loss=self.loss,
            losses=self.losses,
            learning_rate=self.learning_rate,
            grad_norm=self.grad_norm,
            samples=self.samples,
            keys=self.keys,
            seconds=seconds,
            wait_seconds=self.waited,
            cpu_seconds=self.cpu,
        )


class Stepper:
    """Forward, backward, clip and optimizer step of one update."""

    def __init__(
        self, state: TrainingState, config: TrainingConfig, weights: Mapping[Task, float], group: Group
    ) -> None:
        """Wrap the model for its group, unless it is sharded. DDP averages gradients over fixed buckets (with unused
        parameters searched for, it never regroups them), so the order of summation, and with it every bit, is the same
        before and after a resume."""
        self.state, self.config, self.group = state, config, group
        self.tasks, self.weights = list(weights), weights
        self.parameters = list(state.parameters.values())
        self.ddp: DistributedDataParallel | None = None
        if group.world > 1 and not state.sharded:
            self.ddp = DistributedDataParallel(
                state.losses,
                init_sync=False,
                forward_sync_buffers=False,
                find_unused_parameters=True,
                gradient_as_bucket_view=True,
            )
        self.module: nn.Module = self.ddp or state.losses
        self.cpu_clock = time.process_time()
        self.autocast = torch.autocast(
            device_type=group.device.partition(":")[0],
            dtype=torch.bfloat16,
            enabled=config.precision == "bfloat16",
        )

    def step(self, pieces: Sequence[Mapping[Task, Part]], slices: Mapping[str, Slice], waited: float) -> StepResult:
        """One update over one or more micro-batches. When the result carries a failure, the weights were not touched.

        Args:
            pieces: the work of each micro-batch.
            slices: this worker's rows in the update, for their fingerprint.
            waited: seconds that this worker waited for them.
        """
        samples = sum(len(part.keys) for parts in pieces for part in parts.values())
        self.state.optimizer.zero_grad(set_to_none=True)
        at_once = len(pieces) == 1
        totals, counts = self._losses(self._work(pieces[0])) if at_once else self._accumulate(pieces)
        sums = self._sums(totals, counts, [samples, fingerprint(slices), waited])
        result = StepResult(self.tasks, self.weights, sums.tolist(), self.group.world)
        if at_once and result.failure is None:
            n = len(self.tasks)
            self._backward(totals, counts, sums[n : 2 * n].float())
        if result.failure is None:
            self._descend(result)
        return result

    def _work(self, parts: Mapping[Task, Part]) -> Work:
        device = self.group.device
        return {t: (to_device(part.batch, device), to_device(part.draws, device)) for t, part in parts.items()}

    def _losses(self, work: Work) -> tuple[Tensor, Tensor]:
        with self.autocast:
            return self.module(work)

    def _accumulate(self, pieces: Sequence[Mapping[Task, Part]]) -> tuple[Tensor, Tensor]:
        """Gradients of all micro-batches; returns the totals and counts of this worker.

        The joint loss divides by the counts of the whole global batch, so those are found first. DDP sums gradients
        over workers in the last pass only; a sharded gradient is reduced in each, since no worker could hold it.
        """
        counts = torch.stack([self._counts(self._work(parts)) for parts in pieces]).sum(dim=0)
        global_counts = self.group.sum(counts.double()).float()
        totals = torch.zeros_like(counts)
        for number, parts in enumerate(pieces, 1):
            last = number == len(pieces)
            with nullcontext() if last or self.ddp is None else self.ddp.no_sync():
                total, count = self._losses(self._work(parts))
                self._backward(total, count, global_counts)
            totals += total.detach()
        return totals, counts

    def _counts(self, work: Work) -> Tensor:
        """Counted positions of this worker's micro-batch, float32 [tasks]."""
        known = [self.state.model.count(task, *work[task]) for task in self.tasks]
        found = [count for count in known if count is not None]
        if len(found) == len(known):
            return torch.stack(found)
        with torch.no_grad():
            return self._losses(work)[1]

    def _sums(self, totals: Tensor, counts: Tensor, extra: list[float]) -> Tensor:
        cpu, self.cpu_clock = time.process_time() - self.cpu_clock, time.process_time()
        more = torch.tensor([*extra, cpu], dtype=torch.float64, device=self.group.device)
        return self.group.sum(torch.cat([totals.detach().double(), counts.detach().double(), more]))

    def _backward(self, totals: Tensor, counts: Tensor, global_counts: Tensor) -> None:
        terms: dict[Task, LossTerm] = {task: LossTerm(totals[i], counts[i]) for i, task in enumerate(self.tasks)}
        of_task: dict[Task, Tensor] = {task: global_counts[i] for i, task in enumerate(self.tasks)}
        # Gradients are divided by the number of workers; the shares of the joint loss have to be summed instead.
        (joint_loss(terms, self.weights, of_task) * self.group.world).backward()

    def _descend(self, result: StepResult) -> None:
        optimizer, config = self.state.optimizer, self.config
        limit = config.grad_clip if config.grad_clip > 0 else math.inf
        result.grad_norm = float(whole(nn.utils.clip_grad_norm_(self.parameters, limit)))
        if not math.isfinite(result.grad_norm):
            result.failure = "gradient"
            return
        result.learning_rate = learning_rate(self.state.update, config)
        for settings in optimizer.param_groups:
            settings["lr"] = result.learning_rate
        optimizer.step()
        if self.state.average is not None:
            self.state.average.step(self.state.parameters)


def _report_nan(
    step: StepResult, pieces: Sequence[Mapping[Task, Part]], state: TrainingState, group: Group, on_nan: NanReport
) -> None:
    own = {
        task: {
            "keys": [key for parts in pieces for key in parts[task].keys],
            "seeds": [seed for parts in pieces for seed in parts[task].seeds],
        }
        for task in pieces[0]
    }
    workers = cast(list[dict[str, object]], group.gather(own))
    record: dict[str, object] = {
        "update": state.update,
        "not_finite": step.failure,
        "losses": {task: repr(value) for task, value in step.losses.items()},
        "grad_norm": repr(step.grad_norm),
        "workers": workers,
    }
    where = group.from_first(on_nan(record) if group.rank == 0 else None)
    terms = ", ".join(f"{task} {value:.4g}" for task, value in step.losses.items())
    raise NonFiniteError(
        f"update {state.update}: the {step.failure} is not finite ({terms}). Training stopped before the weights "
        f"were touched; the keys of the batch are in {where}. Lower training.learning_rate, set "
        "training.precision=float32, or look at those samples, then run the same command again."
    )
