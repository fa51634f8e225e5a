"""The state of a run: weights, optimizer, average, update number and history. All of it goes into a checkpoint,
nothing else does.

There is no random state to save: data order and every draw are functions of (seed, update, position), and torch's
global generator (dropout) is seeded anew in each update from (seed, update, rank).
"""

from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from reca.config import TrainingConfig
from reca.models.base import UnifiedModel
from reca.training.optimizer import MovingAverage, build_optimizer


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


@dataclass
class TrainingState:
    """A model in training.

    Attributes:
        model: the unwrapped model.
        parameters: its trainable parameters by published name.
        optimizer: AdamW over them.
        average: moving average, or None.
        update: updates done so far: the data cursor and the position in the schedule.
        history: one record per update done.
    """

    model: UnifiedModel
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.AdamW
    average: MovingAverage | None
    update: int = 0
    history: list[UpdateRecord] = field(default_factory=list)

    @classmethod
    def fresh(cls, model: UnifiedModel, config: TrainingConfig) -> "TrainingState":
        """State before the first update: everything outside `model.trainable()` is frozen, trainable weights are
        float32."""
        model.train()
        model.requires_grad_(False)
        parameters = model.trainable()
        for name, parameter in parameters.items():
            if parameter.dtype != torch.float32:
                raise ValueError(f"{name}: trainable weights are {parameter.dtype}; load the model in float32")
            parameter.requires_grad_(True)
        average = MovingAverage(parameters, config.ema_decay) if config.ema_decay > 0 else None
        return cls(model, parameters, build_optimizer(parameters, config), average)

    def tensors(self) -> dict[str, Tensor]:
        """Copies on the CPU: `weights/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`, `step/NAME`, and `ema/NAME` where
        kept."""
        held: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            held[f"weights/{name}"] = parameter.detach()
            for part, value in self.optimizer.state.get(parameter, {}).items():
                held[f"{part}/{name}"] = value
            if self.average is not None:
                held[f"ema/{name}"] = self.average.weights[name]
        return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in held.items()}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], update: int, history: list[UpdateRecord]) -> None:
        """Take over what `tensors` gave. Parameters that never had a gradient have no optimizer state, then as now."""
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[f"weights/{name}"])
            if f"step/{name}" in tensors:
                self.optimizer.state[parameter] = {
                    part: tensors[f"{part}/{name}"].to(parameter.device) for part in ("step", "exp_avg", "exp_avg_sq")
                }
            if self.average is not None:
                self.average.weights[name].copy_(tensors[f"ema/{name}"])
        self.update = update
        self.history = list(history)
