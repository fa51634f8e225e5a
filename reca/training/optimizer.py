"""AdamW, its schedule in optimizer updates, and the moving average."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from reca.config import TrainingConfig


def learning_rate(update: int, config: TrainingConfig) -> float:
    """Learning rate of one update (from 0).

    Linear warm-up from 0 that reaches the peak in update `warmup_updates - 1`, then constant, or half a cosine that
    would reach 0 at `updates`, where training stops.
    """
    if update < config.warmup_updates:
        return config.learning_rate * (update + 1) / config.warmup_updates
    if config.schedule == "constant":
        return config.learning_rate
    progress = (update - config.warmup_updates) / max(1, config.updates - config.warmup_updates)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def build_optimizer(parameters: Mapping[str, nn.Parameter], config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on tensors of two or more dimensions only (biases, norms and gains are left alone)."""
    matrices = [p for p in parameters.values() if p.ndim >= 2]
    vectors = [p for p in parameters.values() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


class MovingAverage:
    """Exponential moving average of the weights: saved beside them, never evaluated and never loaded into the model.

    BAGEL after RecA scored 83.05 on GenEval with its raw weights and 78.87 with this average, so it is for study only.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        """Start from the current weights; `decay` in (0, 1)."""
        self.decay = decay
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def step(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Move `1 - decay` of the way towards the weights."""
        for name, parameter in parameters.items():
            self.weights[name].lerp_(parameter, 1 - self.decay)
