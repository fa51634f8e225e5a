"""Over-fitting a tiny model to one batch, for the conformance checks."""

from collections.abc import Mapping

import torch
from torch import nn

from reca.models.base import Batch, Draws, Task, UnifiedModel

FALLEN = 0.8
"""Share of its first value to which every loss must fall."""

LEAST_UPDATES = 5


def train_only_trainable(model: UnifiedModel) -> list[nn.Parameter]:
    """Switch gradients on for what RecA trains and off for the rest, as training does; returns the former."""
    model.requires_grad_(False)
    parameters = list(model.trainable().values())
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


class Overfitting:
    """Over-fitting a model to fixed batches and draws; weight decay is on, so that nothing frozen may be decayed.

    It ends when every loss has fallen to `FALLEN` of its first value, but not before `LEAST_UPDATES` updates.

    Args:
        model: changed in place.
        work: batch and draws of every task.
        most: updates at most.

    Attributes:
        model: the model, trained.
        updates: updates made.
        first: mean loss of each task before.
        last: mean loss of each task after.
        frozen: parameters and buffers that are not trainable by name, of any shape and type, before and after.
        changed: whether anything trainable changed.
    """

    def __init__(self, model: UnifiedModel, work: Mapping[Task, tuple[Batch, Draws]], most: int) -> None:
        parameters = train_only_trainable(model)
        own = {id(parameter) for parameter in parameters}
        everything = [*model.named_parameters(), *model.named_buffers()]
        others = {name: value for name, value in everything if id(value) not in own}
        copies = {name: value.clone() for name, value in others.items()}
        start = [parameter.detach().clone() for parameter in parameters]
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1)
        history: list[dict[Task, float]] = []
        while True:
            torch.manual_seed(len(history))  # dropout, where a family has it
            terms = model(work)
            history.append({task: float(term.mean.detach()) for task, term in terms.items()})
            fallen = all(value <= FALLEN * history[0][task] for task, value in history[-1].items())
            if (fallen and len(history) > LEAST_UPDATES) or len(history) > most:
                break
            optimizer.zero_grad()
            torch.stack([term.mean for term in terms.values()]).sum().backward()
            optimizer.step()
        now = dict([*model.named_parameters(), *model.named_buffers()])
        self.model = model
        self.updates = len(history) - 1
        self.first, self.last = history[0], history[-1]
        self.frozen = {name: (value, now[name]) for name, value in copies.items()}
        self.changed = not all(torch.equal(a, b) for a, b in zip(start, parameters, strict=True))
