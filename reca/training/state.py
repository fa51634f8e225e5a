"""The state of a run: weights, optimizer, average, update number and history. All of it goes into a checkpoint,
nothing else does.

A checkpoint holds whole tensors, sharded or not, so a run may continue on another number of workers, sharded or not.

There is no random state to save: data order and every draw are functions of (seed, update, position), and torch's
global generator (dropout) is seeded anew in each update from (seed, update, rank).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from reca.config import TrainingConfig
from reca.models.base import Batch, Draws, Task, UnifiedModel
from reca.objectives import task_weights
from reca.training.group import Group
from reca.training.optimizer import MovingAverage, build_optimizer
from reca.training.sharding import own_part, shard, whole


@dataclass(frozen=True)
class UpdateRecord:
    """One line of the loss curve.

    Attributes:
        update: number of the update, from 0.
        loss: joint loss.
        losses: mean loss by task.
        learning_rate: as used in this update.
        grad_norm: global gradient norm before clipping.
        samples: rows in the global batch, summed over tasks.
        keys: 12 hex digits over (task, position, key) of every sample in the global batch, whatever worker held it.
        seconds: wall time on rank 0, waiting included.
        wait_seconds: time waiting for data, mean over workers.
        cpu_seconds: processor time since the same point of the update before, summed over workers.
    """

    update: int
    loss: float
    losses: dict[str, float]
    learning_rate: float
    grad_norm: float
    samples: int
    keys: str
    seconds: float
    wait_seconds: float
    cpu_seconds: float

    def outcome(self) -> dict[str, object]:
        """The fields that must not differ between two runs of the same job: all but the times."""
        return {name: value for name, value in asdict(self).items() if not name.endswith("seconds")}


class Losses(nn.Module):
    """Losses of all tasks as two tensors, which is what a distributed wrapper can follow back to the weights."""

    def __init__(self, model: UnifiedModel, tasks: Sequence[Task]) -> None:
        """Wrap a model; `tasks` are in the order of the outputs."""
        super().__init__()
        self.model = model
        self.tasks = tasks

    def forward(self, work: Mapping[Task, tuple[Batch, Draws]]) -> tuple[Tensor, Tensor]:
        """Totals and counts, float32 [tasks] each."""
        terms = self.model(work)
        return torch.stack([terms[t].total for t in self.tasks]), torch.stack([terms[t].count for t in self.tasks])


@dataclass
class TrainingState:
    """A model in training.

    Attributes:
        losses: what a step calls: the losses of `model`.
        model: the unwrapped model.
        sharded: whether this worker holds only its part of every weight.
        parameters: its trainable parameters by published name.
        optimizer: AdamW over them.
        average: moving average, or None.
        update: updates done so far: the data cursor and the position in the schedule.
        history: one record per update done.
    """

    losses: Losses
    model: UnifiedModel
    sharded: bool
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.AdamW
    average: MovingAverage | None
    update: int = 0
    history: list[UpdateRecord] = field(default_factory=list)

    @classmethod
    def fresh(cls, model: UnifiedModel, config: TrainingConfig, over: Group | None = None) -> "TrainingState":
        """State before the first update: everything outside `model.trainable()` is frozen, trainable weights are
        float32.

        Args:
            model: changed in place.
            config: objective and optimizer.
            over: workers to shard over; each holds everything when there is one, or None is given.

        Raises:
            ValueError: naming a trainable weight that is not float32.
        """
        model.train()
        model.requires_grad_(False)
        for name, parameter in model.trainable().items():
            if parameter.dtype != torch.float32:
                raise ValueError(f"{name}: trainable weights are {parameter.dtype}; load the model in float32")
            parameter.requires_grad_(True)
        losses = Losses(model, list(task_weights(config)))
        sharded = over is not None and over.world > 1
        if over is not None and sharded:
            shard(losses, over)
        parameters = model.trainable()
        average = MovingAverage(parameters, config.ema_decay) if config.ema_decay > 0 else None
        return cls(losses, model, sharded, parameters, build_optimizer(parameters, config), average)

    def whole_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """What `tensors` gives, one by one on the device of the weights; in a sharded run every worker must ask."""
        for name, parameter in self.parameters.items():
            yield f"weights/{name}", whole(parameter.detach())
            for part, value in self.optimizer.state.get(parameter, {}).items():
                yield f"{part}/{name}", whole(value)
            if self.average is not None:
                yield f"ema/{name}", whole(self.average.weights[name])

    def tensors(self) -> dict[str, Tensor]:
        """Copies on the CPU, float32 in the weights' shapes: `weights/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`, and
        `ema/NAME` where kept; `step/NAME`, updates made, is a float32 scalar.
        """
        return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in self.whole_tensors()}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], update: int, history: list[UpdateRecord]) -> None:
        """Take over a checkpoint. Parameters that never had a gradient have no optimizer state, then as now.

        Args:
            tensors: what `tensors` gave.
            update: updates done.
            history: one record for each of them.
        """
        for name, parameter in self.parameters.items():
            parameter.copy_(own_part(tensors[f"weights/{name}"], parameter))
            if f"step/{name}" in tensors:
                self.optimizer.state[parameter] = {
                    "step": tensors[f"step/{name}"].to(parameter.device),
                    **{part: own_part(tensors[f"{part}/{name}"], parameter) for part in ("exp_avg", "exp_avg_sq")},
                }
            if self.average is not None:
                self.average.weights[name].copy_(own_part(tensors[f"ema/{name}"], parameter))
        self.update = update
        self.history = list(history)
