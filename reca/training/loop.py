"""The training loop, free of Ray: feed in, records out. The same code runs in a test, in a benchmark and on a
cluster."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from reca.config import TrainingConfig
from reca.data.order import sample_seed
from reca.models.base import Batch, Draws, LossTerm, Task, UnifiedModel
from reca.objectives import joint_loss, task_weights
from reca.training.feed import Feed, Part, Slice, fingerprint, prepare, to_device
from reca.training.group import Group
from reca.training.job import NonFiniteError
from reca.training.optimizer import learning_rate
from reca.training.state import TrainingState, UpdateRecord

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
        parts = prepare(state.model, list(weights), slices, state.update, config.seed)
        step = stepper.step(parts, slices, waited)
        if step.failure is not None:
            _report_nan(step, parts, state, group, on_nan)
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
        """`sums`: loss totals by task, counts by task, samples, key digest, seconds waited, processor seconds."""
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


class _Losses(nn.Module):
    """Losses of all tasks as two tensors, which is what a distributed wrapper can follow back to the weights."""

    def __init__(self, model: UnifiedModel, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.model = model
        self.tasks = tasks

    def forward(self, work: Mapping[Task, tuple[Batch, Draws]]) -> tuple[Tensor, Tensor]:
        terms = self.model(work)
        return torch.stack([terms[t].total for t in self.tasks]), torch.stack([terms[t].count for t in self.tasks])


class Stepper:
    """Forward, backward, clip and optimizer step of one update."""

    def __init__(
        self, state: TrainingState, config: TrainingConfig, weights: Mapping[Task, float], group: Group
    ) -> None:
        """Wrap the model for its group. Gradients are averaged by DDP over fixed buckets (with unused parameters
        searched for,
        DDP never regroups them), so the order of summation, and with it every bit, is the same before and after a
        resume."""
        self.state, self.config, self.group = state, config, group
        self.tasks, self.weights = list(weights), weights
        self.parameters = list(state.parameters.values())
        module: nn.Module = _Losses(state.model, self.tasks)
        if group.world > 1:
            module = DistributedDataParallel(
                module,
                init_sync=False,
                forward_sync_buffers=False,
                find_unused_parameters=True,
                gradient_as_bucket_view=True,
            )
        self.module = module
        self.cpu_clock = time.process_time()
        self.autocast = torch.autocast(
            device_type=group.device.partition(":")[0],
            dtype=torch.bfloat16,
            enabled=config.precision == "bfloat16",
        )

    def step(self, parts: Mapping[Task, Part], slices: Mapping[str, Slice], waited: float) -> StepResult:
        """One update. When the result carries a failure, the weights were not touched."""
        device = self.group.device
        work = {t: (to_device(part.batch, device), to_device(part.draws, device)) for t, part in parts.items()}
        with self.autocast:
            totals, counts = self.module(work)
        samples = sum(len(part.keys) for part in parts.values())
        cpu, self.cpu_clock = time.process_time() - self.cpu_clock, time.process_time()
        extra = torch.tensor([samples, fingerprint(slices), waited, cpu], dtype=torch.float64, device=device)
        sums = self.group.sum(torch.cat([totals.detach().double(), counts.detach().double(), extra]))
        result = StepResult(self.tasks, self.weights, sums.tolist(), self.group.world)
        if result.failure is None:
            self._descend(totals, counts, sums, result)
        return result

    def _descend(self, totals: Tensor, counts: Tensor, sums: Tensor, result: StepResult) -> None:
        n = len(self.tasks)
        terms: dict[Task, LossTerm] = {task: LossTerm(totals[i], counts[i]) for i, task in enumerate(self.tasks)}
        global_counts: dict[Task, Tensor] = {task: sums[n + i].float() for i, task in enumerate(self.tasks)}
        # DDP divides gradients by the number of workers; the shares of the joint loss have to be summed instead.
        loss = joint_loss(terms, self.weights, global_counts) * self.group.world
        optimizer, config = self.state.optimizer, self.config
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        limit = config.grad_clip if config.grad_clip > 0 else math.inf
        result.grad_norm = float(nn.utils.clip_grad_norm_(self.parameters, limit))
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
    step: StepResult, parts: Mapping[Task, Part], state: TrainingState, group: Group, on_nan: NanReport
) -> None:
    own = {task: {"keys": part.keys, "seeds": part.seeds} for task, part in parts.items()}
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
