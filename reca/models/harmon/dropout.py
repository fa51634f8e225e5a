"""Dropout as a function of one seed per row, so that a loss is pure and does not depend on how rows are batched."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class RowDropout:
    """Random choices for one place of the network.

    Attributes:
        seeds: one seed per row of the batch.
        attention: dropout probability of attention weights.
        projection: dropout probability of projections and MLPs.
        place: name of the place; each place gets its own choices, and the same ones when it is computed again
            (gradient checkpointing).
    """

    seeds: Sequence[int]
    attention: float
    projection: float
    place: str = ""

    def at(self, place: str) -> "RowDropout":
        """The same rows at a place inside this one."""
        return RowDropout(self.seeds, self.attention, self.projection, f"{self.place}/{place}")

    def drop(self, values: Tensor) -> Tensor:
        """Zero values [B, ...] with probability `projection` and scale up the rest."""
        return self.rows(lambda row: functional.dropout(row, self.projection), values)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Full attention [B, heads, L, D] with dropout of its weights; the fused kernel keeps no weights in memory."""
        return self.rows(
            lambda *row: functional.scaled_dot_product_attention(*row, dropout_p=self.attention), query, key, value
        )

    def rows(self, function: Callable[..., Tensor], *values: Tensor) -> Tensor:
        """Apply a random function to each row [1, ...] of the values under that row's own generator state.

        The states of the process are put back afterwards. On an accelerator the choices differ from those on the CPU.
        """
        devices = [values[0].device] if values[0].device.type != "cpu" else []
        kind = values[0].device.type if devices else "cuda"
        with torch.random.fork_rng(devices, device_type=kind):
            found: list[Tensor] = []
            for number, seed in enumerate(self.seeds):
                torch.manual_seed(_mixed(seed, self.place))
                found.append(function(*(value[number : number + 1] for value in values)))
        return torch.cat(found)


def _mixed(seed: int, place: str) -> int:
    return int.from_bytes(blake2b(f"{seed} {place}".encode(), digest_size=8).digest(), "little") >> 1
