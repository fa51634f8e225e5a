"""The workers of a run as seen from one of them."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """Rank and size of the worker group; collectives are skipped where there is one worker.

    Attributes:
        rank: this worker, from 0.
        world: number of workers.
        device: device of this worker's model, such as `cpu` or `cuda:0`.
    """

    rank: int = 0
    world: int = 1
    device: str = "cpu"

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a tensor over all workers, in place: of any type, and of one shape on all workers."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """A picklable value of every worker, by rank."""
        if self.world == 1:
            return [value]
        out: list[Any] = [None] * self.world
        dist.all_gather_object(out, value)
        return out

    def from_first(self, value: Any) -> Any:
        """The picklable value of rank 0."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device(self.device))
        return box[0]
